"""Where the dashboard of a cluster is, and how to see it from another machine."""

from __future__ import annotations

import getpass
import os
import socket
from urllib.parse import urlsplit

from distributed import Client, Scheduler

#: Set in a shell that came over the network, and in batch jobs.
_ELSEWHERE = ("SSH_CONNECTION", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
_THIS_MACHINE = "127.0.0.1"


def dashboard_link(client: Client) -> str | None:
    """Link to the dashboard of a client's cluster, if it serves one."""
    port = client.scheduler_info().get("services", {}).get("dashboard")
    if port is None:
        return None
    # Schedulers that run in this process show it to this machine only, whatever their address.
    if isinstance(getattr(client.cluster, "scheduler", None), Scheduler):
        return f"http://{_THIS_MACHINE}:{port}/status"
    return client.dashboard_link


def ssh_line(link: str | None) -> str | None:
    """The command that brings a dashboard of this machine to where the user sits.

    Nothing if the user seems to sit here, or the dashboard is not of this machine alone.
    """
    if link is None or not any(name in os.environ for name in _ELSEWHERE):
        return None
    parts = urlsplit(link)
    if parts.hostname not in (_THIS_MACHINE, "localhost") or parts.port is None:
        return None
    tunnel = f"{parts.port}:{_THIS_MACHINE}:{parts.port}"
    return f"ssh -N -L {tunnel} {getpass.getuser()}@{socket.gethostname()}"
