"""Keeps a cluster that we started at its size: what is gone for good is started anew.

Dask replaces a worker process whose nanny lives. It does not replace a nanny that gave up (its
worker was killed while it started), nor a job that was cancelled in the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distributed import Client, Nanny, SpecCluster
from distributed.core import Status
from tornado.ioloop import PeriodicCallback

from mrsi_engine.engine.clusters.queues import Queue, queue_of

_LOG = logging.getLogger(__name__)

#: Between two looks at workers of this machine, and at jobs of a queue (s).
_LOOK_HERE, _LOOK_AT_QUEUE = 2.0, 15.0

#: Lines of a job's log that are told.
_LAST_LINES = 8

_ENDED = (Status.closing, Status.closed, Status.failed)


class Pool:
    """The workers of a cluster whose scheduler runs in this process.

    Parameters
    ----------
    cluster
        A :class:`distributed.SpecCluster`.
    logs
        Folder of what jobs print, where the workers are jobs.
    """

    def __init__(self, cluster: Any, logs: Path) -> None:
        self._cluster, self._logs = cluster, logs
        self._queue: Queue | None = queue_of(cluster)
        self._lock = asyncio.Lock()
        self._lame: set[object] = set()
        #: Jobs that ended without their worker having come, since a worker last was there.
        self.lost_jobs = 0

    def refill(self) -> None:
        """Begin to start workers in place of those that are gone for good."""
        if not self._lock.locked():
            self._cluster.loop.add_callback(self._refill)

    def state(self) -> str:
        """Jobs in the queue by their state, as the queue says it; empty without a queue."""
        if self._queue is None:
            return ""
        return self._queue.summary(self._jobs().values())

    def last_words(self) -> str:
        """What the job that ended last printed at its end, with the file it stands in."""
        try:
            files = [path for path in self._logs.iterdir() if path.is_file()]
            newest = max(files, key=lambda path: path.stat().st_mtime)
            lines = newest.read_text(encoding="utf-8", errors="replace").splitlines()
        except (OSError, ValueError):
            return f"no logs in {self._logs}"
        return "\n".join([f"{newest} ends with:", *lines[-_LAST_LINES:]])

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Refill every few seconds."""
        seconds = _LOOK_HERE if self._queue is None else _LOOK_AT_QUEUE

        async def begin() -> PeriodicCallback:
            keeper = PeriodicCallback(self._refill, 1000 * seconds)
            keeper.start()
            return keeper

        keeper = self._cluster.sync(begin)
        try:
            yield
        finally:
            self._cluster.loop.add_callback(keeper.stop)

    async def _refill(self) -> None:
        async with self._lock:
            if self._cluster.status != Status.running:
                return
            for name in await self._gone():
                worker = self._cluster.workers.pop(name)
                # A closed worker has nothing left to close, a job may linger in the queue.
                with suppress(Exception):
                    await asyncio.wait_for(worker.close(), 5.0)
            if set(self._cluster.worker_spec).difference(self._cluster.workers):
                try:
                    await self._cluster
                except Exception as error:
                    _LOG.warning("a worker did not start: %s", error)

    async def _gone(self) -> list[object]:
        workers: Mapping[object, Any] = dict(self._cluster.workers)
        gone = [name for name, worker in workers.items() if worker.status in _ENDED]
        lame = {name for name, worker in workers.items() if _is_lame(worker)}
        gone += [name for name in lame & self._lame if name not in gone]
        self._lame = lame
        if self._queue is None:
            return gone
        jobs, here = self._jobs(), self._connected()
        left = await asyncio.to_thread(self._queue.left, list(jobs.values()))
        if left is None:
            return gone
        lost = [name for name, job in jobs.items() if job not in left and name not in here]
        self.lost_jobs = 0 if here else self.lost_jobs + len(lost)
        return [*gone, *(name for name in lost if name not in gone)]

    def _jobs(self) -> dict[object, str]:
        """Job numbers by the name of the worker."""
        workers = dict(self._cluster.workers)
        return {name: w.job_id for name, w in workers.items() if getattr(w, "job_id", None)}

    def _connected(self) -> Counter[object]:
        found = self._cluster.scheduler_info.get("workers", {})
        return Counter(worker["name"] for worker in found.values())


class Served:
    """A cluster whose workers others started, and replace."""

    lost_jobs = 0

    def refill(self) -> None:
        """Leave that to them."""

    def state(self) -> str:
        """Nothing is known."""
        return ""

    def last_words(self) -> str:
        """Nothing is known."""
        return ""


def refill_of(client: Client) -> Callable[[], None] | None:
    """What keeps the cluster of a client at its size, where its scheduler runs in this process."""
    if not isinstance(client.cluster, SpecCluster):
        return None
    return Pool(client.cluster, Path()).refill


def _is_lame(worker: Any) -> bool:
    """Whether a nanny that should have a worker has none."""
    return isinstance(worker, Nanny) and worker.status == Status.running and not worker.is_alive()
