"""Stores of many files on object stores: what a folder's renaming and deletion are there.

A folder appears under its name at a stroke, a prefix object by object. So a store is built on this
machine and copied there, its own metadata file last: without that it is none. Beside it a marker
says meanwhile that what stands there is nobody's yet, and whoever comes next clears it away.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mrsi_engine.errors import InputError
from mrsi_engine.io.places import filesystem, is_remote, key

#: The metadata file of a Zarr group; of a store it is written last.
METADATA = "zarr.json"

# Objects that are read at once: chunks are of megabytes.
_AT_ONCE = 16


def contents(folder: Path, names: Sequence[str]) -> Iterator[bytes | None]:
    """What files of a folder hold; ``None`` of those that are not there, nothing of folders."""
    if not is_remote(folder):
        yield from (_content(folder / name) for name in names)
        return
    for some in _batches(names):
        yield from _answers(folder, some, None)


def names_in(folder: Path) -> list[str]:
    """Names of what lies in a folder; none if there is no folder."""
    try:
        if is_remote(folder):
            return [path.name for path in folder.iterdir()]
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def presence(folder: Path, names: Sequence[str]) -> Iterator[bool]:
    """Which files of a folder are there."""
    if not is_remote(folder):
        yield from ((folder / name).exists() for name in names)
        return
    for some in _batches(names):
        yield from (found is not None for found in _answers(folder, some, 1))


def is_unfinished(target: Path) -> bool:
    """Whether a store was begun on an object store and is none yet, or none any more."""
    return is_remote(target) and marker(target).exists() and not (target / METADATA).exists()


def is_whole(target: Path) -> bool:
    """Whether a store stands under a name that only a finished one gets."""
    return (target / METADATA).exists() if is_remote(target) else target.is_dir()


def publish(folder: Path, target: Path, *, replace: bool) -> None:
    """Copy a store that was built on this machine to an object store.

    Raises
    ------
    FileExistsError
        If a store stands there and is not to be replaced.
    """
    if not replace and (target / METADATA).exists():
        raise FileExistsError(f"{target}: exists already")
    marker(target).write_bytes(b"")
    _clear(target)
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f != folder / METADATA)
    inside = [f"{key(target)}/{file.relative_to(folder).as_posix()}" for file in files]
    store = filesystem(target)
    if files:
        store.put([str(file) for file in files], inside)
    write_new(target / METADATA, (folder / METADATA).read_bytes())
    marker(target).unlink(missing_ok=True)


def withdraw(target: Path) -> None:
    """Delete a store from an object store so that never half of it counts as one."""
    marker(target).write_bytes(b"")
    _clear(target)
    marker(target).unlink(missing_ok=True)


def write_new(path: Path, data: bytes) -> None:
    """Write an object that is not there yet.

    Raises
    ------
    FileExistsError
        If it is.
    """
    filesystem(path).pipe_file(key(path), data, mode="create")


def remove_objects(prefix: Path) -> None:
    """Delete everything below a prefix; there need not be anything."""
    check_prefix(prefix)
    with contextlib.suppress(FileNotFoundError):
        filesystem(prefix).rm(key(prefix), recursive=True)


def marker(target: Path) -> Path:
    """What stands beside a store that is being built on an object store."""
    check_prefix(target)
    # A leftover for whoever looks for those of local imports, too.
    return target.with_name(f".{target.name}.unfinished.partial")


def check_prefix(target: Path) -> None:
    """Refuse a bucket itself, where a prefix in it is meant.

    Raises
    ------
    InputError
        If it is one.
    """
    if len(target.parts) < 2:
        raise InputError(f"{target}: a bucket; give a folder in it")


def _clear(target: Path) -> None:
    # From then on it is no store.
    (target / METADATA).unlink(missing_ok=True)
    remove_objects(target)


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _AT_ONCE):
        yield names[start : start + _AT_ONCE]


def _answers(folder: Path, names: Sequence[str], size: int | None) -> Iterator[bytes | None]:
    """First bytes of objects, asked for together; ``None`` of those that are not there."""
    keys = [f"{key(folder)}/{name}" for name in names]
    start = None if size is None else 0
    found: list[Any] = filesystem(folder).cat_ranges(keys, start, size, on_error="return")
    for answer in found:
        if isinstance(answer, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            yield None
        elif isinstance(answer, BaseException):
            raise answer
        else:
            yield bytes(answer)


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        return b""
