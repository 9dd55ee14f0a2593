"""Writing files so that a killed run leaves nothing half-written under a final name."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

from mrsi_engine.errors import InputError, RunError


def write_atomically(path: Path, data: bytes) -> Path:
    """Write beside ``path``, then rename: readers see the old file or the whole new one.

    Raises
    ------
    RunError
        If the file cannot be written (a full disk, no permission); nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(
            f"{path}: could not write {len(data)} bytes: {error.strerror or error}; free some "
            "space or choose another output folder"
        ) from error
    return path


def safe_stem(stem: str) -> str:
    """A stem that cannot leave its folder or hide a file: letters, digits, ``_``, ``.``, ``-``.

    Raises
    ------
    InputError
        If nothing usable is left.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip(".-")
    if not safe:
        raise InputError(f"stem {stem!r}: no letter or digit in it; give another stem")
    return safe
