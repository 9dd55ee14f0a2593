"""A command whose processes are watched: CPU seconds, and memory over time."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

import psutil

#: Seconds between two looks at the processes.
_LOOK = 0.2


@dataclass(frozen=True)
class Watched:
    """What a command took: ``memory`` is ``(s, bytes)`` of the driver alone, by time."""

    code: int
    output: str
    seconds: float
    cpu_seconds: float
    driver_cpu_seconds: float
    memory: list[tuple[float, int]] = field(repr=False)


def watch(command: list[str], environment: dict[str, str] | None = None) -> Watched:
    """Run a command to its end.

    CPU seconds are summed over it and all that descends from it, as last seen: what waits for its
    children says nothing of those that a fork server forked.
    """
    started, memory = time.monotonic(), []
    spent: dict[int, float] = {}
    with tempfile.TemporaryFile() as file:
        driver = psutil.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        while driver.poll() is None:
            _look(driver, spent)
            if driver.is_running():
                memory.append((time.monotonic() - started, _resident(driver)))
            time.sleep(_LOOK)
        file.seek(0)
        output = file.read().decode(errors="replace")
    own = spent.get(driver.pid, 0.0)
    seconds = time.monotonic() - started
    return Watched(int(driver.returncode), output, seconds, sum(spent.values()), own, memory)


def _look(driver: psutil.Process, spent: dict[int, float]) -> None:
    try:
        processes = [driver, *driver.children(recursive=True)]
    except psutil.Error:
        return
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        spent[process.pid] = times.user + times.system


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
