"""Files that somebody gives, looked at before they are opened: what is no file is never read.

A named pipe would be waited on for ever, a device read without end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrsi_engine.errors import InputError

#: Depth of nesting in JSON and TOML that any header, sidecar or setting can have.
MOST_LEVELS = 64

#: Bytes of a file that is read whole: a text, a JSON or a MATLAB file.
MOST_BYTES = 256 << 20

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_input_file(path: Path, most_bytes: int | None = None) -> None:
    """See that a path is a file that can be read.

    Parameters
    ----------
    most_bytes
        Its largest size, where it is to be read whole.

    Raises
    ------
    InputError
        If there is none, it is something else (a folder, a pipe, a device), too large or not
        ours to read.
    """
    try:
        found = path.stat()
        kind = stat.S_IFMT(found.st_mode)
        if kind != stat.S_IFREG:
            what = _KINDS.get(kind, "no ordinary file")
            raise InputError(f"{path}: is {what}, expected a file; give the file itself")
        # It may be another one by now, but still no pipe that one waits on.
        path.open("rb").close()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read this file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if most_bytes is not None and found.st_size > most_bytes:
        raise InputError(
            f"{path}: {found.st_size} bytes, expected at most {most_bytes} of such a file; is it "
            "another one?"
        )


def read_input_text(path: Path) -> str:
    """The text of a file, UTF-8 with or without a mark at its beginning.

    Raises
    ------
    InputError
        As :func:`check_input_file`, and if it is no such text.
    """
    if not path.exists():
        raise InputError(f"{path}: cannot be read: {os.strerror(errno.ENOENT)}")
    check_input_file(path, MOST_BYTES)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text in UTF-8 ({error}); save it as that") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def check_levels(path: Path, content: Any, what: str) -> None:
    """Refuse JSON that is nested deeper than anything that makes sense.

    Raises
    ------
    InputError
        From :data:`MOST_LEVELS` levels on; ``what`` of the file, for the message.
    """
    level = [content]
    for _ in range(MOST_LEVELS):
        level = [below for entry in level for below in _inside(entry)]
        if not level:
            return
    raise InputError(f"{path}: {what} is nested deeper than {MOST_LEVELS} levels; correct it")


def _inside(entry: Any) -> Iterable[Any]:
    """The lists and objects in one."""
    found = entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ()
    return (below for below in found if isinstance(below, dict | list))
