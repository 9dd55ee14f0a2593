"""Tasks on a cluster, or in this process, from a bounded window.

A source hands out tasks on demand, so that neither driver nor scheduler ever holds more than a few
for each worker, however many there are. Whatever a task raises comes back as a :class:`Failure`.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from distributed import Client, Future, as_completed, get_worker
from distributed.scheduler import KilledWorker, NoValidWorkerError, NoWorkerError

from mrsi_engine.engine.interrupts import Stop, stoppable
from mrsi_engine.engine.patience import Patience, Watch
from mrsi_engine.engine.umask import same_umask
from mrsi_engine.errors import InputError, Interrupted, MRSIError, RunError
from mrsi_engine.io.files import DiskFullError

#: Tasks sent ahead for each one that can run; waiting ones cost the scheduler, not the workers.
AHEAD = 4
LEAST_AHEAD = 8

#: How long the driver sleeps at most until it looks around, and believes a count of workers, s.
_MOMENT, _COUNTED = 0.1, 1.0

#: A worker that hangs gets so long to be restarted, s; it is avoided anyway.
_RESTART = 30.0

#: Of a traceback, which travels with the failure, the end is kept.
_TRACEBACK_CHARACTERS = 4000


@dataclass(frozen=True)
class Task:
    """Something to do in any process that sees the files.

    Parameters
    ----------
    kind, name
        Its name at the scheduler; tasks of one kind take about as long by the voxel.
    do
        What is done; it travels with its arguments, and what it returns travels back.
    voxels
        How many it is about.
    of
        What its source knows it by; stays in the driver.
    begun
        Whether it is of something begun, which goes before all that is not.
    """

    kind: str
    name: str
    do: Callable[[], Any]
    voxels: int = 1
    of: Any = None
    begun: bool = False


@dataclass(frozen=True)
class Failure:
    """A task that could not be done.

    ``error`` is for users, ``traceback`` the whole story, ``worker`` where it happened;
    ``refused`` (its input is wrong), ``disk_full`` and ``worker_died`` say what must be known about
    the cause.
    """

    error: str
    traceback: str = ""
    worker: str | None = None
    refused: bool = False
    disk_full: bool = False
    worker_died: bool = False


@dataclass(frozen=True)
class Ended:
    """How a task ended: what it returned, or a failure; where, and how long it took (s)."""

    task: Task
    outcome: Any
    seconds: float = 0.0
    worker: str | None = None


#: The next task, as long as there is one now. It is asked again after each outcome.
Source = Callable[[], Task | None]


def run_tasks(
    source: Source,
    client: Client | None = None,
    *,
    patience: Patience | None = None,
    refill: Callable[[], None] | None = None,
) -> Generator[Ended, None, None]:
    """Do the tasks of a source on the workers of a cluster, and yield how each ended, in any order.

    Closing the generator calls off what has not ended. A task whose worker died may be innocent:
    the scheduler suspects all that were assigned to it. So suspects get another try once nothing
    else is left, each alone. Tasks that found no worker are sent again. A worker with a task that
    takes too long is restarted, or avoided, and its tasks are sent again; one that takes too long
    for a second time is a suspect.

    Parameters
    ----------
    client
        Of the cluster; without one the tasks are done here, one after the other.
    patience
        Limits of time.
    refill
        Called now and then: brings the cluster back to its size, where it lost workers.

    Raises
    ------
    Interrupted
        If this process is asked to stop; in the main thread only.
    RunError
        If the scheduler is lost, or no worker comes, or all hang.
    """
    with stoppable() as stop, stop.gently():
        if client is None:
            yield from _done_here(source, stop)
        else:
            with same_umask(client):
                yield from _Window(client, source, patience or Patience(), refill, stop).outcomes()


def _done_here(source: Source, stop: Stop) -> Generator[Ended, None, None]:
    while (task := source()) is not None:
        with stop.at_once():
            done = attempt(task.do)
        yield Ended(task, done.outcome, done.seconds, done.worker)
    stop.check()


@dataclass(frozen=True)
class Attempt:
    """What comes back of a task."""

    outcome: Any
    seconds: float
    worker: str | None


def attempt(do: Callable[[], Any]) -> Attempt:
    """Do something; what went wrong comes back as text, which any process can read."""
    started, worker = time.perf_counter(), _here()
    try:
        outcome = do()
    except Exception as error:
        outcome = failure_of(error)
    return Attempt(outcome, time.perf_counter() - started, worker)


def failure_of(error: Exception) -> Failure:
    """What went wrong here; call it where the error is handled.

    Raises
    ------
    Interrupted
        If that was a wish to stop, which is no failure.
    """
    if isinstance(error, Interrupted):
        raise error
    return Failure(
        str(error) if isinstance(error, MRSIError) else f"{type(error).__name__}: {error}",
        traceback=traceback.format_exc()[-_TRACEBACK_CHARACTERS:],
        worker=_here(),
        refused=isinstance(error, InputError),
        disk_full=isinstance(error, DiskFullError),
    )


def slots(client: Client) -> int:
    """Tasks a cluster can do at once.

    Raises
    ------
    RunError
        If its scheduler does not answer.
    """
    return sum(_threads(client).values())


def _threads(client: Client) -> dict[str, int]:
    if client.status != "running":
        raise _lost(client)
    try:
        return dict(client.nthreads())
    except OSError as error:
        raise _lost(client) from error


@dataclass(eq=False)
class _Flight:
    """A task on its way, the workers that hung with it, and whether nothing else may run."""

    task: Task
    hung: tuple[str, ...] = ()
    alone: bool = False


class _Window:
    """A bounded number of tasks on a cluster, refilled in batches."""

    def __init__(
        self,
        client: Client,
        source: Source,
        patience: Patience,
        refill: Callable[[], None] | None,
        stop: Stop,
    ) -> None:
        self._client, self._source, self._patience = client, source, patience
        self._refill_pool, self._stop = refill, stop
        self._watch = Watch(patience)
        self._flying: dict[Future, _Flight] = {}
        self._again: deque[_Flight] = deque()
        self._suspects: deque[_Flight] = deque()
        self._completed = as_completed(loop=client.loop, with_results=True, raise_errors=False)
        self._avoid: set[str] = set()
        self._threads: dict[str, int] = {}
        self._counted = self._looked = -float("inf")
        self._last_worker = time.monotonic()
        self._until: float | None = None

    def outcomes(self) -> Generator[Ended, None, None]:
        """How each task ended."""
        try:
            while self._goes_on():
                for future, result in self._ready():
                    flight = self._flying.pop(future, None)
                    ended = flight and self._judged(flight, future, result)
                    # A result held would be computed again when its worker dies.
                    future.release()
                    if ended:
                        yield ended
                yield from self._look_around()
        finally:
            self._call_off(list(self._flying))

    def _goes_on(self) -> bool:
        """Send what there is room for; whether anything is left to wait for."""
        if self._stop.asked:
            return self._farewell()
        if any(flight.alone for flight in self._flying.values()):
            return True
        self._count_workers()
        count = sum(n for worker, n in self._threads.items() if worker not in self._avoid)
        size = max(LEAST_AHEAD, AHEAD * count)
        if count and len(self._flying) <= size // 2:
            self._send(self._next(size - len(self._flying)))
        elif not (self._flying or self._again) and (task := self._source()) is not None:
            self._again.append(_Flight(task))
        return bool(self._flying or self._again or self._suspects)

    def _next(self, most: int) -> list[_Flight]:
        batch: list[_Flight] = []
        while len(batch) < most:
            if self._again:
                batch.append(self._again.popleft())
            elif (task := self._source()) is not None:
                batch.append(_Flight(task))
            else:
                break
        if not batch and not self._flying and self._suspects:
            suspect = self._suspects.popleft()
            suspect.alone = True
            batch.append(suspect)
        return batch

    def _send(self, batch: Sequence[_Flight]) -> None:
        for begun in (True, False):
            flights = [flight for flight in batch if flight.task.begun is begun]
            if not flights:
                continue
            # Unique keys: the scheduler may still remember an earlier attempt, and names of two
            # scans of one file are the same.
            sent = uuid4().hex[:8]
            futures = self._client.map(
                attempt,
                [flight.task.do for flight in flights],
                key=[f"{f.task.kind}-{f.task.name}-{sent}-{n}" for n, f in enumerate(flights)],
                pure=False,
                priority=int(begun),
                **self._elsewhere(),
            )
            self._flying.update(zip(futures, flights, strict=True))
            self._completed.update(futures)

    def _elsewhere(self) -> dict[str, Any]:
        # Only when needed: tasks bound to workers wait on them, not at the scheduler.
        free = set(self._threads).difference(self._avoid) if self._avoid else None
        return {"workers": sorted(free), "allow_other_workers": True} if free else {}

    def _ready(self) -> list[tuple[Future, Any]]:
        """What has ended, after a moment at most."""
        if not self._completed.has_ready():
            with self._completed.thread_condition:
                self._completed.thread_condition.wait(_MOMENT)
        return list(self._completed.next_batch(block=False))

    def _judged(self, flight: _Flight, future: Future, result: Any) -> Ended | None:
        if future.status == "finished":
            self._avoid.discard(result.worker)
            if not isinstance(result.outcome, Failure):
                self._watch.learn(flight.task, result.seconds)
            return Ended(flight.task, result.outcome, result.seconds, result.worker)
        if future.status != "error":
            raise _lost(self._client)
        error = result[1]
        if isinstance(error, NoWorkerError | NoValidWorkerError):
            self._put_back(flight)
            return None
        if isinstance(error, KilledWorker):
            if not flight.alone:
                self._suspects.append(flight)
                return None
            failure = Failure(
                "its worker died, also when it ran alone (killed, out of memory or crashed); look "
                "at the worker's log",
                worker=error.last_worker.address,
                worker_died=True,
            )
            return Ended(flight.task, failure, worker=failure.worker)
        return Ended(flight.task, Failure(f"{type(error).__name__}: {error}"))

    def _look_around(self) -> list[Ended]:
        """Do something about workers that hang or are gone; tasks that are given up for it."""
        now = time.monotonic()
        if self._stop.asked or now - self._looked < self._watch.pause:
            return []
        self._looked = now
        self._count_workers()
        if self._refill_pool is not None:
            self._refill_pool()
        by_key = {future.key: future for future in self._flying}
        tasks = {key: self._flying[future].task for key, future in by_key.items()}
        running = self._running()
        given_up = []
        for worker in self._watch.hanging(running, tasks, self._heartbeats):
            lost = [by_key[key] for key in running[worker] if key in by_key]
            given_up += self._send_elsewhere(worker, lost)
        return given_up

    def _send_elsewhere(self, worker: str, lost: Sequence[Future]) -> list[Ended]:
        """Take the tasks of a worker that hangs away from it; those given up."""
        flights = [self._flying.pop(future) for future in lost]
        self._avoid.add(worker)
        self._call_off(lost)
        threading.Thread(target=self._restart, args=(worker,), daemon=True).start()
        given_up = []
        for flight in flights:
            flight.hung = (*flight.hung, worker)
            if not flight.alone:
                # Not the only one there, perhaps: from the second time on it is a suspect.
                (self._suspects if len(flight.hung) > 1 else self._again).append(flight)
                continue
            seconds = self._watch.limit(flight.task)
            failure = Failure(
                f"it took longer than {seconds:.3g} s, {len(flight.hung)} times (on the workers "
                f"{', '.join(flight.hung)}): see their logs",
                worker=worker,
            )
            given_up.append(Ended(flight.task, failure, worker=worker))
        return given_up

    def _put_back(self, flight: _Flight) -> None:
        (self._suspects if flight.alone else self._again).append(flight)

    def _restart(self, worker: str) -> None:
        # What cannot be restarted (no nanny, a machine that froze) stays avoided.
        with suppress(Exception):
            self._client.restart_workers([worker], timeout=_RESTART, raise_for_error=False)

    def _running(self) -> dict[str, list[str]]:
        """Names of tasks by the worker that does them or still has to hand over what they gave."""
        ended = [future for future in self._flying if future.status == "finished"]
        try:
            running = {worker: list(keys) for worker, keys in self._client.processing().items()}
            held = self._client.who_has(ended) if ended else {}
        except OSError as error:
            raise _lost(self._client) from error
        for key, workers in held.items():
            for worker in workers:
                running.setdefault(worker, []).append(key)
        return running

    def _heartbeats(self) -> dict[str, float]:
        # A client that lost its scheduler knows of nothing: what asks for it next says so.
        workers = self._client.scheduler_info(n_workers=-1).get("workers", {})
        return {address: worker["last_seen"] for address, worker in workers.items()}

    def _count_workers(self) -> None:
        now = time.monotonic()
        if now - self._counted < _COUNTED:
            return
        self._counted, self._threads = now, _threads(self._client)
        self._avoid &= set(self._threads)
        if set(self._threads) - self._avoid:
            self._last_worker = now
        elif now - self._last_worker > self._patience.without_workers:
            hang = f"all {len(self._avoid)} hang ({', '.join(sorted(self._avoid))})"
            raise RunError(
                f"no worker for {self._patience.without_workers:g} s: "
                f"{hang if self._avoid else 'the cluster has none'}; see the logs of workers and "
                "queue. What is done is kept, and the same command does only what is missing"
            )

    def _farewell(self) -> bool:
        """Let what runs end, for a while; whether that is still to be waited for."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._patience.farewell
            running = {key for keys in self._running().values() for key in keys}
            waiting = [future for future in self._flying if future.key not in running]
            self._flying = {f: flight for f, flight in self._flying.items() if f.key in running}
            self._call_off(waiting)
        if not self._flying or now > self._until:
            self._stop.check()
        return True

    def _call_off(self, futures: Sequence[Future]) -> None:
        if futures and self._client.status == "running":
            self._client.cancel(list(futures))


def _here() -> str | None:
    try:
        return str(get_worker().address)
    except ValueError:
        return None


def _lost(client: Client) -> RunError:
    return RunError(
        f"lost the Dask scheduler {client.scheduler.addr} while tasks were running; what is done "
        "is kept, run the same command again"
    )
