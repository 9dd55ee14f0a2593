"""What a worker is asked when it shakes hands; this runs in the worker."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mrsi_engine.choices import AUTO

#: Distributions that a driver and its workers have to agree on.
PACKAGES = ("mrsi-engine", "torch", "numpy", "zarr", "dask", "distributed")


@dataclass(frozen=True)
class Token:
    """A file that the driver has written and every worker is to read.

    Parameters
    ----------
    path
        The file.
    text
        What it holds; another file of that name, on a disk of the worker's own, would not.
    """

    path: Path
    text: str


@dataclass(frozen=True)
class Seen:
    """What a process says of itself.

    Parameters
    ----------
    host, pid, user
        Which process it is, and whose.
    versions
        Of Python and of :data:`PACKAGES`; empty where one is not installed.
    folder
        Why it cannot read the token, or write beside it; empty if it can.
    device
        Name of what it computes on, or why it cannot compute on what was asked for.
    has_device
        Whether it can.
    seconds
        How long the look took.
    """

    host: str
    pid: int
    user: int
    versions: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    device: str = ""
    has_device: bool = True
    seconds: float = 0.0


async def look_beside(token: Token, device: str) -> Seen:
    """As :func:`look`, in a thread: the worker goes on meanwhile, while torch is imported."""
    return await asyncio.to_thread(look, token, device)


def look(token: Token | None = None, device: str = AUTO) -> Seen:
    """What this process is, and whether it sees the token and has the device."""
    started = time.perf_counter()
    name, has_device = _device(device)
    return Seen(
        host=socket.gethostname(),
        pid=os.getpid(),
        user=os.getuid() if hasattr(os, "getuid") else 0,
        versions={"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        folder=_folder(token) if token is not None else "",
        device=name,
        has_device=has_device,
        seconds=time.perf_counter() - started,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _device(device: str) -> tuple[str, bool]:
    # Here: a worker without torch is to say so by its versions, not by failing to load this.
    try:
        from mrsi_engine.engine.devices import device_here, title_of

        return title_of(device_here(device)), True
    except Exception as error:
        return str(error), False


def _folder(token: Token) -> str:
    """Read the token and leave a file beside it, which is taken away at once."""
    try:
        text = token.path.read_text(encoding="utf-8")
    except OSError as error:
        return f"cannot read {token.path} ({error.strerror or error})"
    if text != token.text:
        return f"{token.path} is another file there"
    own = token.path.with_name(f"{token.path.name}-{socket.gethostname()}-{os.getpid()}")
    try:
        own.write_text(text, encoding="utf-8")
        own.unlink()
    except OSError as error:
        return f"cannot write beside {token.path} ({error.strerror or error})"
    return ""
