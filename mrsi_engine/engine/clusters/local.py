"""Clusters on this machine: threads, processes, and processes with a GPU each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import forkserver
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.security import Security
from distributed.utils import get_mp_context

from mrsi_engine.engine.clusters.arguments import SEEN_HERE_ONLY
from mrsi_engine.engine.clusters.settings import (
    CAN_FORK,
    DASK_SETTINGS,
    STARTED_BY,
    WORKER_ENVIRONMENT,
    environment,
)

#: What workers import before they are forked: torch and its like take seconds, once for all.
_PRELOADED = ["distributed", "mrsi_engine.engine.driver", "mrsi_engine.stages"]


def warm_up() -> None:
    """Begin, in the background, what worker processes of this machine import (seconds).

    Worth calling at the start of a program that has other work to do before it needs a cluster.
    """
    with environment(WORKER_ENVIRONMENT), dask.config.set(DASK_SETTINGS):
        _preload()
        if CAN_FORK:
            forkserver.ensure_running()


@contextmanager
def local_cluster(
    workers: int,
    threads_per_worker: int = 1,
    *,
    processes: bool = True,
    secure: bool = True,
    **arguments: Any,
) -> Iterator[Client]:
    """A client of a cluster on this machine, closed at the end; only its owner may talk to it.

    Parameters
    ----------
    workers
        Number of workers.
    threads_per_worker
        Blocks a worker does at once.
    processes
        One process a worker: a block that kills its worker is survived. Otherwise the workers are
        threads of this process, which start at once and listen nowhere.
    secure
        Whether processes take certificates made for this cluster. Without them any user of this
        machine could send them code.
    arguments
        Others of :class:`distributed.LocalCluster`.
    """
    with ExitStack() as stack:
        # An environment variable that is set already would win over the Dask setting.
        stack.enter_context(environment(WORKER_ENVIRONMENT if processes else {}))
        stack.enter_context(dask.config.set(DASK_SETTINGS))
        if processes:
            _preload()
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads_per_worker,
            processes=processes,
            **{
                "memory_limit": "auto" if processes else 0,
                "dashboard_address": SEEN_HERE_ONLY,
                **(_apart(secure) if processes else {"protocol": "inproc://"}),
                **arguments,
            },
        )
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def gpu_cluster(
    gpus: int, threads_per_worker: int = 1, *, secure: bool = True, **arguments: Any
) -> Iterator[Client]:
    """As :func:`local_cluster`, of one process for each of the first ``gpus`` GPUs, by dask-cuda.

    Every process sees its own GPU only, and runs on the cores next to it.
    """
    # An extra, never needed without several GPUs: it wants a Dask of its own version.
    from dask_cuda import LocalCUDACluster

    with ExitStack() as stack:
        stack.enter_context(environment(WORKER_ENVIRONMENT))
        # What a forked process sees of GPUs could be settled before it is told which is its own.
        stack.enter_context(dask.config.set({**DASK_SETTINGS, STARTED_BY: "spawn"}))
        cluster = LocalCUDACluster(
            n_workers=gpus,
            threads_per_worker=threads_per_worker,
            **{
                "data": dict,  # results are receipts, so there is nothing to spill from the GPU
                "dashboard_address": SEEN_HERE_ONLY,
                **_closed(secure),
                **arguments,
            },
        )
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster, set_as_default=False))


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _apart(secure: bool) -> dict[str, Any]:
    """What processes are told that threads of this one know."""
    # What they are forked from may have begun before credentials and the like were set.
    return {**_closed(secure), "env": dict(os.environ)}


def _closed(secure: bool) -> dict[str, Any]:
    """How processes of this machine talk to each other."""
    if secure:
        return {"protocol": "tls://", "security": Security.temporary()}
    return {"protocol": "tcp://"}


def _preload() -> None:
    if CAN_FORK:
        # Dask sets a list of its own on the first call; ours has to come after it.
        get_mp_context().set_forkserver_preload(_PRELOADED)
