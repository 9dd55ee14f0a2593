"""Where an import goes: nothing is seen under its name before it is complete."""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.scan_store import SCAN_STORE

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse a folder that an import may not fill.

    Raises
    ------
    InputError
        If it holds something else than a scan store, or one that is not to be replaced.
    """
    try:
        free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    except PermissionError as error:
        raise InputError(f"{out}: no permission to look into this output folder") from error
    if free:
        return
    if not SCAN_STORE.holds(out):
        raise InputError(
            f"{out}: holds something that is not a scan store, which is never overwritten; choose "
            "another --out"
        )
    if not overwrite:
        raise InputError(
            f"{out}: a scan store exists already; replace it with --overwrite or choose another "
            "--out"
        )


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name when all went well, and else vanishes.

    Raises
    ------
    InputError
        If there is no permission to write there.
    RunError
        If the disk is full or fails.
    """
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        _swap(partial, out)
    except OSError as error:
        raise _write_failure(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, out: Path) -> None:
    old = partial.with_suffix(".old")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write_failure(out: Path, error: OSError) -> Exception:
    if error.errno in _FULL_DISK:
        return RunError(
            f"{out}: the disk is full; an import needs room for the samples of the masked voxels "
            "twice (scratch file and store). Free space or choose another --out; nothing was left "
            "behind"
        )
    if isinstance(error, PermissionError):
        return InputError(f"{out}: no permission to write there; choose another --out")
    return RunError(f"{out}: the store cannot be written: {error}")
