"""What each library is told beside the profile: environment of workers, certificates, dashboard."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distributed.security import Security

from mrsi_engine.engine.clusters.settings import WORKER_ENVIRONMENT, remote_environment

#: Dashboards are for who sits here; others see them through ssh.
SEEN_HERE_ONLY = "127.0.0.1:0"

_WORKER_DASHBOARD = ("--dashboard-address", SEEN_HERE_ONLY)

#: Where batch systems put what jobs print, inside the folder of a run.
JOB_LOGS = Path("logs", "workers")

#: Arguments for a cluster class: from those of the profile, a folder that this machine and the
#: workers share and that others may not read, and certificates.
Arguments = Callable[[Mapping[str, Any], Path | None, Security | None], dict[str, Any]]


def arguments_for(kind: str) -> Arguments:
    """How the arguments of a cluster class are made, by its library."""
    return _BY_LIBRARY.get(_library(kind), _as_they_are)


def shares_a_folder(kind: str) -> bool:
    """Whether workers of a cluster class take certificates from a folder that we share with them.

    Those of services (Kubernetes, a gateway) have a network, or certificates, of their own.
    """
    return _library(kind) in ("dask_jobqueue", "distributed")


def _library(kind: str) -> str:
    return kind.partition(".")[0]


def _of_jobs(
    given: Mapping[str, Any], shared: Path | None, security: Security | None
) -> dict[str, Any]:
    """dask-jobqueue: scheduler in this process, every worker a job."""
    exports = [f"export {k}={shlex.quote(v)}" for k, v in remote_environment().items()]
    return {
        "processes": 1,
        **({} if shared is None else {"log_directory": str(shared.parent / JOB_LOGS)}),
        **given,
        # What the profile says comes later and wins.
        "job_script_prologue": [*exports, *given.get("job_script_prologue", ())],
        "worker_extra_args": [*_WORKER_DASHBOARD, *given.get("worker_extra_args", ())],
        "scheduler_options": {
            "dashboard_address": SEEN_HERE_ONLY,
            **given.get("scheduler_options", {}),
        },
        "security": security,
    }


def _of_pods(
    given: Mapping[str, Any], shared: Path | None, security: Security | None
) -> dict[str, Any]:
    """dask-kubernetes: only pods of the cluster reach its network."""
    environment = given.get("env", {})
    if isinstance(environment, Mapping):
        return {**given, "env": {**remote_environment(), **environment}}
    told = [{"name": name, "value": value} for name, value in remote_environment().items()]
    return {**given, "env": [*told, *environment]}


def _of_hosts(
    given: Mapping[str, Any], shared: Path | None, security: Security | None
) -> dict[str, Any]:
    """Clusters of distributed itself on other machines, reached by ssh."""
    workers = dict(given.get("worker_options", {}))
    protocol = {"protocol": "tls://" if security is not None else "tcp://"}
    return {
        **given,
        "worker_options": {
            **protocol,
            **workers,
            "env": {**WORKER_ENVIRONMENT, **workers.get("env", {})},
        },
        "scheduler_options": {
            **protocol,
            "dashboard_address": SEEN_HERE_ONLY,
            **given.get("scheduler_options", {}),
        },
        "security": security,
    }


def _as_they_are(
    given: Mapping[str, Any], shared: Path | None, security: Security | None
) -> dict[str, Any]:
    return dict(given)


_BY_LIBRARY: Mapping[str, Arguments] = {
    "dask_jobqueue": _of_jobs,
    "dask_kubernetes": _of_pods,
    "distributed": _of_hosts,
}
