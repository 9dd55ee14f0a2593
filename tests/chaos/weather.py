"""Kinds of storms: over workers of this machine, over a scheduler apart, over jobs, over a disk."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_BIN = Path(sys.executable).parent

#: Workers that are processes, however small the cohort.
LOCAL = """\
class = "distributed.LocalCluster"

[cluster]
n_workers = 2
processes = true
"""

SLURM = """\
class = "dask_jobqueue.SLURMCluster"
extra = "hpc"

[cluster]
cores = 1
processes = 1
memory = "4GB"
queue = "main"
interface = "lo"
log_directory = "{logs}"

[adapt]
minimum = 2
maximum = 2
"""


class SchedulerApart:
    """A scheduler with two workers, as processes of their own that can be killed."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port = _free_port()

    @property
    def address(self) -> str:
        """Where it listens, always the same."""
        return f"tcp://127.0.0.1:{self._port}"

    def put_up(self) -> None:
        """Start what is not running."""
        port = ["--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard"]
        self._start("scheduler", ["scheduler", *port])
        for number in range(2):
            here = ["--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]
            self._start(f"worker-{number}", ["worker", self.address, *here])

    def kill_scheduler(self, _driver: psutil.Process) -> bool:
        """Kill the scheduler; the driver loses it."""
        self._processes["scheduler"].kill()
        return True

    def kill_worker(self, _driver: psutil.Process) -> bool:
        """Kill the process of a worker; its nanny starts another one."""
        nannies = [p for name, p in self._processes.items() if name.startswith("worker")]
        with suppress(psutil.Error):
            for nanny in nannies:
                for child in psutil.Process(nanny.pid).children(recursive=True):
                    if "resource_tracker" not in " ".join(child.cmdline()):
                        child.kill()
                        return True
        return False

    def take_down(self) -> None:
        """Kill everything."""
        for process in self._processes.values():
            with suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()

    def _start(self, name: str, arguments: list[str]) -> None:
        known = self._processes.get(name)
        if known is None or known.poll() is not None:
            command = [str(_BIN / "dask"), *arguments]
            quiet = subprocess.DEVNULL
            self._processes[name] = subprocess.Popen(command, stdout=quiet, stderr=quiet)


@contextmanager
def small_disk(
    folder: Path,
) -> Iterator[tuple[Callable[[psutil.Process], bool], Callable[[], None]]]:
    """A disk of its own at a folder; yields what fills it up and what makes room again."""
    folder.mkdir(parents=True)
    _mount("mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", str(folder))

    def fill(_driver: psutil.Process) -> bool:
        used = os.statvfs(folder)
        taken = (used.f_blocks - used.f_bfree) * used.f_frsize
        _mount("mount", "-o", f"remount,size={taken + 65_536}", str(folder))
        return True

    def make_room() -> None:
        _mount("mount", "-o", "remount,size=4g", str(folder))

    try:
        yield fill, make_room
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def cancel_job(environment: dict[str, str]) -> Callable[[psutil.Process], bool]:
    """Kills the first job that runs, as an administrator might."""

    def strike(_driver: psutil.Process) -> bool:
        listed = ["squeue", "--me", "-h", "-t", "RUNNING", "-o", "%i"]
        jobs = subprocess.run(listed, env=environment, capture_output=True, text=True).stdout
        if not jobs.split():
            return False
        kill = ["scancel", "--signal=KILL", "--full", jobs.split()[0]]
        return subprocess.run(kill, env=environment, check=False).returncode == 0

    return strike


def _mount(*command: str) -> None:
    subprocess.run(list(command), check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
