"""Where an import goes: nothing is seen under its name before it is complete."""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.files import scratch_beside
from mrsi_engine.io.objects import check_prefix, is_unfinished, publish
from mrsi_engine.io.places import is_remote
from mrsi_engine.io.scan_store import SCAN_STORE

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse a folder that an import may not fill.

    Raises
    ------
    InputError
        If it holds something else than a scan store, or one that is not to be replaced.
    """
    if is_remote(out):
        check_prefix(out)
    try:
        free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    except PermissionError as error:
        raise InputError(f"{out}: no permission to look into this output folder") from error
    if free or is_unfinished(out):
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
def replacing(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder that takes the name ``out`` when all went well, and else vanishes.

    It is made beside ``out``, or on this machine if that is on an object store, where what stands
    there is only replaced if ``overwrite`` says so.

    Raises
    ------
    InputError
        If there is no permission to write there.
    RunError
        If the disk is full or fails.
    """
    made = _uploaded(out, overwrite) if is_remote(out) else _renamed(out)
    try:
        with made as folder:
            yield folder
    except OSError as error:
        raise _write_failure(out, error) from error


@contextmanager
def _renamed(out: Path) -> Iterator[Path]:
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        _swap(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _uploaded(out: Path, overwrite: bool) -> Iterator[Path]:
    with scratch_beside(out) as scratch:
        yield scratch / out.name
        publish(scratch / out.name, out, replace=overwrite)


def _swap(partial: Path, out: Path) -> None:
    old = partial.with_suffix(".old")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write_failure(out: Path, error: OSError) -> Exception:
    if error.errno in _FULL_DISK:
        remedy = f"in {gettempdir()} (TMPDIR)" if is_remote(out) else "or choose another --out"
        return RunError(
            f"{out}: the disk is full; an import needs room for the samples of the masked voxels "
            f"twice (scratch file and store). Free space {remedy}; nothing was left behind"
        )
    if isinstance(error, PermissionError):
        return InputError(f"{out}: no permission to write there; choose another --out")
    return RunError(f"{out}: the store cannot be written: {error}")
