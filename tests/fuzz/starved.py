"""Runs commands of ``mrsi`` in one process that may take little more memory than it has.

Reads a JSON list of argument lists, writes a JSON list of ``[exit code, text, seconds]``.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import sys
import time
from types import FrameType

from mrsi_engine import cli
from mrsi_engine.cli import output
from mrsi_engine.runs import one_scan  # noqa: F401  (what a run imports counts before the limit)

#: Bytes of address space that a command may take, and seconds.
MORE, LIMIT = 400 << 20, 20


def _stop(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"took more than {LIMIT} s")


def _call(arguments: list[str]) -> tuple[int, str, float]:
    text, started, code = io.StringIO(), time.monotonic(), 0
    output.err_console.file = output.out_console.file = text
    signal.alarm(LIMIT)
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            cli.main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.alarm(0)
    return code, text.getvalue(), time.monotonic() - started


def main() -> None:
    """Do them."""
    commands = json.load(sys.stdin)
    first, *rest = commands
    results = [_call(first)]
    signal.signal(signal.SIGALRM, _stop)
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MORE, taken + MORE))
    print(json.dumps(results + [_call(command) for command in rest]))


if __name__ == "__main__":
    main()
