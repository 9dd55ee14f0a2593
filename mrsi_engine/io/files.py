"""Writing files so that a killed run leaves nothing half-written under a final name."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.objects import is_unfinished, publish, remove_objects, withdraw
from mrsi_engine.io.places import is_remote
from mrsi_engine.letters import latin

#: Suffixes of spectroscopic data in BIDS.
_SUFFIXES = ("mrsi", "svs", "mrsref", "unloc")


class DiskFullError(RunError):
    """The disk filled up while a result was written."""


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Failures of the file system said in the user's words; ``path`` is what is written.

    Raises
    ------
    DiskFullError
        If the disk is full.
    InputError
        If there is no permission to write.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"disk full: {path} cannot be written; make room and run the same command again, "
                "what is done is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{path}: no permission to write here ({error.strerror})") from error
        raise


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A folder beside ``path``, gone afterwards; a leftover of its store should the process die.

    That of a place on an object store is on this machine, among its temporary files.
    """
    if is_remote(path):
        with TemporaryDirectory(prefix="mrsi-", ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def built_aside(path: Path, beside: Path | None = None) -> Iterator[Path]:
    """A folder that takes the name ``path`` when all went well; made beside it or another one."""
    with scratch_beside(beside or path) as aside:
        built = aside / path.name
        yield built
        if is_remote(path):
            publish(built, path, replace=False)
        else:
            built.rename(path)


def stands(path: Path) -> bool:
    """Whether there is anything under a name, but for what a killed writer began there."""
    return path.exists() and not is_unfinished(path)


def put_back(source: Path, target: Path) -> None:
    """Move a file to where one is damaged or gone, whatever stands there; atomic for a file."""
    if is_remote(target):
        target.write_bytes(source.read_bytes())
        return
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(source, target)


def remove_whole(path: Path, beside: Path | None = None) -> None:
    """Delete a folder so that never half of it stands under its name."""
    if is_remote(path):
        withdraw(path)
        return
    with scratch_beside(beside or path) as aside:
        path.rename(aside / path.name)


def remove_leftover(path: Path) -> None:
    """Delete a file or folder that nobody needs, as far as that is possible."""
    if is_remote(path):
        with contextlib.suppress(OSError):
            remove_objects(path)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def leftovers(store: Path) -> list[Path]:
    """What killed writers left in a store and beside it."""
    beside = list(store.parent.glob(f".{store.name}.*.partial"))
    # On an object store nothing is ever half-written; markers of states stand beside them.
    inside = store.glob("state/*/.*.partial") if is_remote(store) else store.rglob("*.partial")
    return [*beside, *inside]


def make_folder(path: Path) -> Path:
    """See that there is a folder; an object store has none and needs none."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_atomically(path: Path, data: bytes) -> Path:
    """Write beside ``path``, then rename: readers see the old file or the whole new one.

    Object stores do so by themselves.

    Raises
    ------
    RunError
        If the file cannot be written (a full disk, no permission); nothing is left behind.
    """
    try:
        replace_file(path, data)
    except OSError as error:
        raise RunError(
            f"{path}: could not write {len(data)} bytes: {error.strerror or error}; free some "
            "space or choose another output folder"
        ) from error
    return path


def replace_file(path: Path, data: bytes) -> None:
    """:func:`write_atomically` with the errors of the file system."""
    if is_remote(path):
        path.write_bytes(data)
        return
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A new file, and never one that a link of this name leads to.
        with partial.open("xb") as file:
            file.write(data)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def safe_stem(stem: str) -> str:
    """A stem that names of maps can begin with, as BIDS builds them: entities without a suffix.

    It cannot leave its folder or hide a file: letters, digits, ``_``, ``.``, ``-``. The suffix of
    the scan is dropped, since that of a map follows its own entities: ``sub-01_mrsi`` begins
    ``sub-01_space-orig_desc-snr_mrsi``. A name without a BIDS suffix stays as it is.

    Letters lose their accents (``ñ`` is ``n``), those of other alphabets get their names.

    Raises
    ------
    InputError
        If nothing usable is left.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", latin(stem)).lstrip(".-")
    safe = re.sub(rf"(?<=.)_({'|'.join(_SUFFIXES)})$", "", safe)
    if not safe:
        raise InputError(f"stem {stem!r}: no letter or digit in it; give another stem")
    return safe
