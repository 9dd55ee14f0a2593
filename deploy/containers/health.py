"""Health check of a container: what runs in it answers, and the engine can be imported.

A Dask scheduler or worker is asked at its HTTP port (MRSI_HEALTH_PORT, 8787 and 8788 without it);
of a driver there is nothing to ask.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from urllib.request import urlopen

_PORTS = {"scheduler": 8787, "worker": 8788}


def role(commands: list[list[str]]) -> str | None:
    """``scheduler`` or ``worker``, if one of the processes is that of Dask's."""
    for words in commands:
        for program, argument in zip(words, [*words[1:], ""], strict=True):
            name = re.split(r"[./]", program)[-1]
            for part in _PORTS:
                if name in (f"dask_{part}", f"dask-{part}") or (name, argument) == ("dask", part):
                    return part
    return None


def running() -> list[list[str]]:
    """Command lines of the processes of the container."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace").split("\0"))
        except OSError:
            continue
    return found


def main() -> int:
    """0 if all is well."""
    if importlib.util.find_spec("mrsi_engine") is None:
        return 1
    asked = role(running())
    if asked is None:
        return 0
    port = int(os.environ.get("MRSI_HEALTH_PORT", _PORTS[asked]))
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
