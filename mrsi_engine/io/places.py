"""Where files lie: a folder of this machine or a prefix of an object store, both as paths.

A place on an object store is a path of universal_pathlib, which has the interface of
:class:`pathlib.Path` (and is typed as one here) but is none: no ``os``, no ``shutil``, no
``open()``. Nothing can be renamed there at a stroke; an object appears whole or not at all.
"""

from __future__ import annotations

import os
import posixpath
import re
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from mrsi_engine.errors import InputError

#: Bytes that are fetched at least of a file: a header takes few, a scan is read to its end.
_BLOCK = 5 << 20

#: Schemes of object stores, and the library each needs (of extra ``cloud``).
_LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "memory": "fsspec"}

#: How one of them is written, for messages.
KNOWN = "s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH"

# pathlib makes one slash of several: `s3:/` is an address that went through it.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+(.*)", re.DOTALL)


def place(text: str | Path) -> Path:
    """The place that a user named: a local path, or the address of an object store.

    ``file://`` addresses are local paths. ``str`` of a place gives back the same place, in any
    process.

    Raises
    ------
    InputError
        If it has an unknown scheme or no bucket, or the library of its scheme is not installed.
    """
    if is_remote(text):
        return cast(Path, text)
    address = _ADDRESS.match(str(text))
    if address is None:
        return Path(text)
    scheme, inside = address[1].lower(), address[2]
    if scheme == "file":
        return _local(str(text))
    if scheme not in _LIBRARIES:
        raise InputError(
            f"{text}: there is no reading or writing at {scheme}://; give a local path (of a "
            f"folder called {scheme!r}, the whole path from / on), or {KNOWN}"
        )
    if not inside:
        raise InputError(f"{text}: names no bucket; expected {scheme}://BUCKET/PATH")
    if find_spec(_LIBRARIES[scheme]) is None:
        raise InputError(
            f"{text}: {scheme}:// needs the package {_LIBRARIES[scheme]}, which is not installed; "
            "install it on every machine that takes part: pip install 'mrsi-engine[cloud]'"
        )
    return _remote(scheme, inside)


def local_place(text: str | Path) -> Path:
    """The local path that a user named.

    Raises
    ------
    InputError
        If it is the address of an object store.
    """
    path = place(text)
    if is_remote(path):
        raise InputError(f"{text}: on an object store, where this cannot be; give a local path")
    return path


def is_remote(path: str | Path) -> bool:
    """Whether a path that :func:`place` made lies on an object store."""
    return not isinstance(path, str | PurePath)


def filesystem(path: Path) -> Any:
    """The fsspec file system of a place on an object store."""
    return cast(Any, path).fs


def key(path: Path) -> str:
    """What the file system of a place on an object store calls it, with its bucket."""
    return str(cast(Any, path).path).rstrip("/")


def zarr_store(path: Path) -> Any:
    """What Zarr and xarray take for a place."""
    if not is_remote(path):
        return path
    # Takes a while, and most runs never ask for it.
    from zarr.storage import FsspecStore

    options = dict(cast(Any, path).storage_options)
    return FsspecStore.from_url(str(path), storage_options=options)


def way(start: Path, end: Path) -> str:
    """How to get from one folder to another, relative where both lie on the same store.

    It goes with folders that are moved together. :func:`followed` takes it.
    """
    start, end = start.resolve(), end.resolve()
    if not is_remote(start) and not is_remote(end):
        return os.path.relpath(end, start)
    if is_remote(start) and is_remote(end) and _bucket(start) == _bucket(end):
        return posixpath.relpath(f"/{key(end)}", f"/{key(start)}")
    return str(end) if is_remote(end) else end.as_uri()


def followed(start: Path, found: str) -> Path:
    """Where a :func:`way` from a folder leads."""
    if _ADDRESS.match(found):
        return place(found).resolve()
    return (start.resolve() / found).resolve()


def fingerprint(path: Path) -> str:
    """What changes when a file is written anew: its size and time, or what the store tells.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    if is_remote(path):
        return str(filesystem(path).ukey(key(path)))
    found = path.stat()
    return f"{found.st_size}-{found.st_mtime_ns}"


def written_at(path: Path) -> float:
    """When a file was written last, in seconds; of two on the same store the later is the larger.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    if is_remote(path):
        return float(filesystem(path).modified(key(path)).timestamp())
    return path.stat().st_mtime


def check_reachable(path: Path) -> None:
    """Refuse an object store that does not answer, or a bucket that is not there.

    Nothing is asked of local paths.

    Raises
    ------
    InputError
        Names the bucket and what the store said.
    """
    if not is_remote(path):
        return
    scheme, bucket = _bucket(path)
    if scheme == "memory":
        return
    try:
        filesystem(path).info(bucket)
    except PermissionError:
        # Whoever may not look at the bucket may still be let in further down.
        return
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such bucket; make it first, or correct its name") from error
    except Exception as error:
        raise InputError(
            f"{path}: the object store cannot be used: {type(error).__name__}: {error}; see to its "
            "credentials and address (environment variables or files of its own tools)"
        ) from error


def _bucket(path: Path) -> tuple[str, str]:
    """Scheme and bucket of a place on an object store."""
    return cast(Any, path).protocol, str(path.parts[0]).strip("/")


def _local(address: str) -> Path:
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise InputError(
            f"{address}: a file of the machine {parts.netloc!r}; give file:///PATH or a local path"
        )
    return Path(unquote(parts.path))


def _remote(scheme: str, inside: str) -> Path:
    # Takes a while, and most runs never ask for it.
    from upath import UPath

    # What other processes write must be seen at once.
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        # Several requests at once for one object cost another one that asks how large it is.
        options |= {"default_block_size": _BLOCK, "max_concurrency": 1}
    return cast(Path, UPath(f"{scheme}://{inside}", **options))
