"""A SLURM of one node that lives in a folder: this machine, two cores, no service of the system."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")

_CONFIGURATION = """\
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/node
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 {hardware} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def what_is_missing() -> str | None:
    """Why no SLURM can be started here; nothing if one can."""
    if os.geteuid() != 0:
        return "starting SLURM needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return (
        f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge" if missing else None
    )


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start a SLURM that keeps everything in ``folder``; yields the environment of its commands."""
    folder.chmod(0o755)
    for name in ("controller", "node"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            folder=folder,
            host=host,
            controller_port=_free_port(),
            node_port=_free_port(),
            hardware=_hardware(),
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    try:
        _start_munge(folder)
        for daemon in ("slurmctld", "slurmd"):
            _run([daemon, "-f", str(configuration)], environment)
        _wait_until_idle(environment)
        yield environment
    finally:
        _stop(folder, environment)


def _start_munge(folder: Path) -> None:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    files = {"key-file": key} | {
        f"{kind}-file": folder / f"munge.{kind}" for kind in ("log", "pid", "seed")
    }
    options = [f"--{name}={path}" for name, path in files.items()]
    _run(["munged", "--force", f"--socket={folder}/munge.socket", *options], dict(os.environ))


def _wait_until_idle(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while "idle" not in (said := _run(["sinfo", "-h", "-o", "%T"], environment)):
        assert time.monotonic() < deadline, f"the node is {said}"
        time.sleep(0.2)


def _stop(folder: Path, environment: dict[str, str]) -> None:
    with suppress(AssertionError, OSError):
        _run(["scancel", "--me"], environment)
    for name in ("slurmd", "slurmctld", "munge"):
        with suppress(OSError, ValueError):
            _stop_by(folder / f"{name}.pid")


def _stop_by(pid_file: Path) -> None:
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    for _ in range(100):
        time.sleep(0.1)
        os.kill(pid, 0)
    os.kill(pid, signal.SIGKILL)


def _hardware() -> str:
    """What ``slurmd -C`` says of this machine, less some memory."""
    said = _run(["slurmd", "-C"], dict(os.environ)).splitlines()[0]
    words = dict(word.split("=", 1) for word in said.split())
    words["RealMemory"] = str(int(words["RealMemory"]) * 9 // 10)
    return " ".join(f"{k}={v}" for k, v in words.items() if k not in ("NodeName", "UpTime"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
