"""Creating a file that must not be there yet, as a whole, wherever it lies."""

from __future__ import annotations

import uuid
from pathlib import Path

from mrsi_engine.io.files import writable
from mrsi_engine.io.places import filesystem, is_remote, key


def create_whole(path: Path, data: bytes) -> bool:
    """Create a file with its content, unless one of this name is there; whether this call did it.

    Of several processes that try, on any machine, one succeeds. On file systems this is a hard
    link, which NFS keeps its word about; those without links create the file and then fill it. On
    object stores it is a put on the condition that there is no such object.

    Raises
    ------
    DiskFullError
        If the disk is full.
    InputError
        If there is no permission to write.
    """
    if is_remote(path):
        return _put_new(path, data)
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            aside.write_bytes(data)
            return _linked(path, aside, data)
        finally:
            aside.unlink(missing_ok=True)


def _linked(path: Path, aside: Path, data: bytes) -> bool:
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        # A server whose answer was lost is asked again and then finds its own link.
        return aside.stat().st_nlink == 2
    except OSError:
        return _created(path, data)
    return True


def _created(path: Path, data: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def _put_new(path: Path, data: bytes) -> bool:
    try:
        filesystem(path).pipe_file(key(path), data, mode="create")
    except FileExistsError:
        return False
    return True
