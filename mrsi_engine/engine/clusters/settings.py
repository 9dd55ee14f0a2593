"""How processes of a cluster are set up, wherever they run.

Why each setting stands here was measured; see ``docs/decisions/15-clusters.md``.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_GIB = 1 << 30

#: Whether workers of this machine can be forked from a process that has imported everything.
CAN_FORK = "forkserver" in multiprocessing.get_all_start_methods()

#: The Dask setting that says how worker processes of this machine are started.
STARTED_BY = "distributed.worker.multiprocessing-method"

#: Environment of every worker process. The MALLOC variables undo Dask's own setting, which makes
#: glibc map and fault in each tensor anew and doubles the CPU time of batched torch code.
WORKER_ENVIRONMENT: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(_GIB),
    "MALLOC_MMAP_THRESHOLD_": str(_GIB),
}

#: Client and scheduler remember so many of their last messages, each up to a megabyte of tasks.
SHORT_MEMORY: Mapping[str, object] = {"distributed.admin.low-level-log-length": 20}

#: Dask settings of a scheduler and its workers. A saturation of 1 keeps blocks that wait off the
#: workers, so that one that kills its worker takes no neighbour with it.
DASK_SETTINGS: Mapping[str, object] = {
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 1,
    "distributed.scheduler.worker-ttl": "10 minutes",
    "distributed.scheduler.no-workers-timeout": "60s",
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    # Workers hold no results of ours that a pause would wait for: one that pauses stays paused,
    # because what a task freed goes back to the allocator, not to the system.
    "distributed.worker.memory.pause": False,
    # A receipt on a worker that died is given up after this long, and its block done again.
    "distributed.comm.timeouts.connect": "10s",
    **SHORT_MEMORY,
    "distributed.nanny.pre-spawn-environ": dict(WORKER_ENVIRONMENT),
    STARTED_BY: "forkserver" if CAN_FORK else "spawn",
}

#: As :data:`DASK_SETTINGS`, for a cluster whose workers may queue for hours before they come.
QUEUED_SETTINGS: Mapping[str, object] = {
    **DASK_SETTINGS,
    "distributed.scheduler.no-workers-timeout": None,
    # Across a network a busy node may take longer than a neighbour on this machine.
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.retry.count": 3,
}

#: Settings that a worker elsewhere has to be told: it does not inherit those of the driver.
_TOLD_TO_WORKERS = (
    "distributed.worker.memory.target",
    "distributed.worker.memory.spill",
    "distributed.worker.memory.pause",
    "distributed.comm.timeouts.connect",
    "distributed.comm.retry.count",
    "distributed.scheduler.worker-saturation",
    "distributed.scheduler.allowed-failures",
)


def remote_environment() -> dict[str, str]:
    """Environment of a worker or scheduler that starts elsewhere, Dask's settings among it."""
    settings = {_variable(key): repr(QUEUED_SETTINGS[key]) for key in _TOLD_TO_WORKERS}
    return {**WORKER_ENVIRONMENT, **settings}


def _variable(key: str) -> str:
    return "DASK_" + key.upper().replace(".", "__").replace("-", "_")


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables of this process, and of what it starts meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
