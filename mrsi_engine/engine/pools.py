"""Clusters of this machine keep their size."""

from __future__ import annotations

from collections.abc import Callable

from distributed import Client, LocalCluster
from distributed.core import Status


def refill_of(client: Client) -> Callable[[], None] | None:
    """What starts the workers anew that a local cluster lost; nothing for other clusters.

    Dask starts a worker again that died, but not one that died while it started.
    """
    cluster = client.cluster
    if not isinstance(cluster, LocalCluster):
        return None

    async def start_missing() -> None:
        for name, worker in list(cluster.workers.items()):
            if worker.status in (Status.closed, Status.failed):
                del cluster.workers[name]
        missing = set(cluster.worker_spec) - set(cluster.workers)
        if missing and cluster.status is Status.running:
            cluster.scale(len(cluster.worker_spec))

    return lambda: cluster.loop.add_callback(start_missing)
