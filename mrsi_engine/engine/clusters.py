"""Where blocks run: a local cluster, a scheduler that is already there, and how workers are set up.

Why each setting stands here was measured; see ``engine_facts.md`` of the project.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import forkserver

import dask
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context

from mrsi_engine.errors import RunError

_GIB = 1 << 30

#: What workers import before they are forked: torch and its like take seconds, once for all.
_PRELOADED = ["distributed", "mrsi_engine.engine.driver", "mrsi_engine.stages"]
_CAN_FORK = "forkserver" in multiprocessing.get_all_start_methods()

_STARTED_BY = "distributed.worker.multiprocessing-method"

#: Environment of every worker process. The MALLOC variables undo Dask's own setting, which makes
#: glibc map and fault in each tensor anew and doubles the CPU time of batched torch code.
WORKER_ENVIRONMENT: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(_GIB),
    "MALLOC_MMAP_THRESHOLD_": str(_GIB),
}

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
    "distributed.nanny.pre-spawn-environ": dict(WORKER_ENVIRONMENT),
    _STARTED_BY: "forkserver" if _CAN_FORK else "spawn",
}

#: How a cluster on this machine listens.
_SEEN_HERE_ONLY = {"protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}


def warm_up() -> None:
    """Begin, in the background, what worker processes of this machine import (seconds).

    Worth calling at the start of a program that has other work to do before it needs a cluster.
    """
    with _environment(WORKER_ENVIRONMENT), dask.config.set(DASK_SETTINGS):
        _preload()
        if _CAN_FORK:
            forkserver.ensure_running()


@contextmanager
def local_cluster(
    workers: int,
    threads_per_worker: int = 1,
    *,
    processes: bool = True,
) -> Iterator[Client]:
    """A client of a cluster on this machine, closed at the end; only this machine sees it.

    Parameters
    ----------
    workers
        Number of workers.
    threads_per_worker
        Blocks a worker does at once.
    processes
        One process a worker: a block that kills its worker is survived. Otherwise the workers are
        threads of this process, which start at once.
    """
    with ExitStack() as stack:
        # An environment variable that is set already would win over the Dask setting.
        stack.enter_context(_environment(WORKER_ENVIRONMENT if processes else {}))
        stack.enter_context(dask.config.set(DASK_SETTINGS))
        if processes:
            _preload()
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads_per_worker,
            processes=processes,
            memory_limit="auto" if processes else 0,
            **_SEEN_HERE_ONLY,
        )
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def gpu_cluster(gpus: int, threads_per_worker: int = 1) -> Iterator[Client]:
    """As :func:`local_cluster`, of one process for each of the first ``gpus`` GPUs, by dask-cuda.

    Every process sees its own GPU only, and runs on the cores next to it.
    """
    # An extra, never needed without several GPUs: it wants a Dask of its own version.
    from dask_cuda import LocalCUDACluster

    with ExitStack() as stack:
        stack.enter_context(_environment(WORKER_ENVIRONMENT))
        # What a forked process sees of GPUs could be settled before it is told which is its own.
        stack.enter_context(dask.config.set({**DASK_SETTINGS, _STARTED_BY: "spawn"}))
        cluster = LocalCUDACluster(
            n_workers=gpus,
            threads_per_worker=threads_per_worker,
            data=dict,  # results are receipts, so there is nothing to spill from the GPU
            **_SEEN_HERE_ONLY,
        )
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def connected(scheduler: str, timeout: float = 30.0) -> Iterator[Client]:
    """A client of a scheduler that is already there, such as ``tcp://node1:8786``.

    Raises
    ------
    RunError
        If no scheduler answers at the address within ``timeout`` s.
    """
    try:
        client = Client(scheduler, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{scheduler}: no Dask scheduler answers at this address ({error}); start one with: "
            "dask scheduler"
        ) from error
    with client:
        yield client


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def dashboard_link(client: Client) -> str | None:
    """Link to the dashboard of a client's cluster, if it serves one."""
    served = "dashboard" in client.scheduler_info().get("services", {})
    return client.dashboard_link if served else None


def _preload() -> None:
    if _CAN_FORK:
        # Dask sets a list of its own on the first call; ours has to come after it.
        get_mp_context().set_forkserver_preload(_PRELOADED)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
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
