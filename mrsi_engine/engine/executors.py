"""Who does the blocks: this process one after the other, or the workers of a Dask cluster.

An executor takes a job and block numbers and yields outcomes as they come, in any order. It never
raises for a block that failed, and closing it calls off what has not begun. The parts of a pass
over the scan are done in the same way; "block" stands for both here.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from uuid import uuid4

from distributed import Client, Future, Worker, WorkerPlugin, as_completed
from distributed.scheduler import KilledWorker

from mrsi_engine.engine.blocks import Receipt, make_ready, run_block
from mrsi_engine.engine.events import Failure, Outcome
from mrsi_engine.engine.passes import Pass, make_ready_for_pass, run_part
from mrsi_engine.engine.plan import Plan
from mrsi_engine.errors import MRSIError, RunError
from mrsi_engine.io.files import DiskFullError


@dataclass(frozen=True)
class Job:
    """What is done to each of some numbers: the blocks of a plan, or the parts of a pass.

    ``do`` travels with every task; ``key`` begins the names of its tasks at the scheduler.
    ``make_ready`` makes what all of them share in a process.
    """

    key: str
    do: Callable[[int], Receipt]
    make_ready: Callable[[], None]

    @classmethod
    def of_blocks(cls, plan: Plan) -> Self:
        """The blocks of a plan."""
        key = f"block-{plan.fingerprint[:8]}"
        return cls(key, partial(run_block, plan), partial(make_ready, plan))

    @classmethod
    def of_parts(cls, todo: Pass) -> Self:
        """The parts of a pass over the scan."""
        key = f"prepare-{todo.plan.fingerprint[:8]}-{todo.stage}-{todo.step}"
        return cls(key, partial(run_part, todo), partial(make_ready_for_pass, todo))


Executor = Callable[[Job, Sequence[int]], Generator[Outcome, None, None]]

#: Blocks sent ahead for each one that can run; waiting ones cost the scheduler, not the workers.
_AHEAD = 4
_LEAST_AHEAD = 8

#: Of a traceback, which travels with the failure, the end is kept.
_TRACEBACK_CHARACTERS = 4000


_LOG = logging.getLogger(__name__)


class _Stalled(Exception):
    """No block ended for a long time."""


def in_this_process(job: Job, blocks: Sequence[int]) -> Generator[Outcome, None, None]:
    """Do blocks one after the other, without a scheduler."""
    for block in blocks:
        yield attempt(job, block)


def on_cluster(
    client: Client, job: Job, blocks: Sequence[int], *, stall_seconds: float
) -> Generator[Outcome, None, None]:
    """Do blocks on the workers of a client's cluster.

    A block whose worker died may be innocent: the scheduler suspects all that were assigned to it.
    So suspects get another try at the end, each alone on the cluster.

    Raises
    ------
    RunError
        If the scheduler is lost, or no block ends for twice ``stall_seconds``.
    """
    suspects = []
    with _workers_ready(client, job):
        for outcome in _in_spite_of_a_stall(client, job, blocks, stall_seconds):
            if isinstance(outcome, Failure) and outcome.worker_died:
                suspects.append(outcome.block)
            else:
                yield outcome
        for block in suspects:
            yield from _in_spite_of_a_stall(client, job, [block], stall_seconds)


class MakeReady(WorkerPlugin):
    """Makes what a job needs on every worker of a cluster, and on those that join later.

    It does so in the background: a block that comes meanwhile waits for it. What goes wrong here
    goes wrong in that block again, which can tell it; a worker without blocks needs no telling.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self, worker: Worker) -> None:
        """Begin; called in the event loop of the worker, which must go on."""
        threading.Thread(target=self._attempt, name=self._job.key, daemon=True).start()

    def _attempt(self) -> None:
        try:
            self._job.make_ready()
        except Exception:
            _LOG.debug("not ready for %s", self._job.key, exc_info=True)


@contextmanager
def _workers_ready(client: Client, job: Job) -> Iterator[None]:
    name = f"make-ready-{job.key}-{uuid4().hex[:8]}"
    try:
        client.register_plugin(MakeReady(job), name=name)
    except OSError as error:
        raise _lost(client) from error
    try:
        yield
    finally:
        # A worker that joins another run must not make ready for this one.
        with suppress(OSError, ValueError):
            if client.status == "running":
                client.unregister_worker_plugin(name)


def attempt(job: Job, block: int) -> Outcome:
    """Do a block; what went wrong comes back as text, which any process can read."""
    try:
        return job.do(block)
    except Exception as error:
        return Failure(
            block,
            error=str(error)
            if isinstance(error, MRSIError)
            else f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc()[-_TRACEBACK_CHARACTERS:],
            disk_full=isinstance(error, DiskFullError),
        )


def slots(client: Client) -> int:
    """Blocks a cluster can do at once.

    Raises
    ------
    RunError
        If its scheduler does not answer.
    """
    if client.status != "running":
        raise _lost(client)
    try:
        return sum(client.nthreads().values())
    except OSError as error:
        raise _lost(client) from error


def _in_spite_of_a_stall(
    client: Client, job: Job, blocks: Sequence[int], stall_seconds: float
) -> Generator[Outcome, None, None]:
    outstanding = dict.fromkeys(blocks)
    stuck: set[str] = set()
    for _ in range(2):
        window = _Window(client, job, tuple(outstanding), stall_seconds, stuck)
        try:
            for outcome in window.outcomes():
                del outstanding[outcome.block]
                yield outcome
        except _Stalled:
            stuck = window.stuck
            continue
        return
    raise RunError(
        f"no block ended for {stall_seconds:g} s, twice; {len(outstanding)} blocks are outstanding "
        f"(the first is block {min(outstanding)}) on the workers {sorted(stuck)}: see their logs, "
        "then run the same command again"
    )


class _Window:
    """A bounded number of blocks on a cluster, refilled in batches; workers to avoid are stuck."""

    def __init__(
        self,
        client: Client,
        job: Job,
        blocks: Sequence[int],
        stall_seconds: float,
        avoid: Collection[str],
    ) -> None:
        self._client, self._job = client, job
        self._waiting, self._avoid = deque(blocks), avoid
        self._flying: dict[Future, int] = {}
        self._stall_seconds = stall_seconds
        self._moved = False
        self._completed = self._watch()
        self.stuck: set[str] = set()

    def outcomes(self) -> Generator[Outcome, None, None]:
        try:
            while self._waiting or self._flying:
                self._refill()
                for future, result in self._batch():
                    outcome = _outcome(self._client, self._flying.pop(future), future, result)
                    # A result held would be computed again when its worker dies.
                    future.release()
                    yield outcome
        finally:
            if self._flying and self._client.status == "running":
                self._client.cancel(list(self._flying))

    def _refill(self) -> None:
        size = max(_LEAST_AHEAD, _AHEAD * slots(self._client))
        if self._waiting and len(self._flying) <= size // 2:
            count = min(size - len(self._flying), len(self._waiting))
            sent = self._send([self._waiting.popleft() for _ in range(count)])
            self._flying.update(sent)
            self._completed.update(sent)

    def _send(self, blocks: Sequence[int]) -> dict[Future, int]:
        # Unique keys: the scheduler may still remember an earlier attempt.
        attempt_id = uuid4().hex[:8]
        futures = self._client.map(
            attempt,
            [self._job] * len(blocks),
            blocks,
            key=[f"{self._job.key}-{b}-{attempt_id}" for b in blocks],
            pure=False,
            **self._elsewhere(),
        )
        return dict(zip(futures, blocks, strict=True))

    def _elsewhere(self) -> dict[str, Any]:
        # Only when needed: tasks bound to workers wait on them, not at the scheduler.
        free = set(self._client.nthreads()).difference(self._avoid) if self._avoid else None
        return {"workers": sorted(free), "allow_other_workers": True} if free else {}

    def _batch(self) -> list[tuple[Future, Any]]:
        try:
            batch = [next(self._completed), *self._completed.next_batch(block=False)]
        except TimeoutError:
            if not self._moved:
                self.stuck = {w for w, keys in self._client.processing().items() if keys}
                raise _Stalled from None
            self._moved, self._completed = False, self._watch()
            return []
        self._moved = True
        return batch

    def _watch(self) -> as_completed:
        return as_completed(
            list(self._flying),
            loop=self._client.loop,
            with_results=True,
            raise_errors=False,
            timeout=self._stall_seconds,
        )


def _outcome(client: Client, block: int, future: Future, result: Any) -> Outcome:
    if future.status == "finished":
        return result
    if future.status != "error":
        raise _lost(client)
    error = result[1]
    if isinstance(error, KilledWorker):
        return Failure(
            block,
            "its worker died, also when it ran alone (killed, out of memory or "
            "crashed); look at the worker's log",
            worker_died=True,
        )
    return Failure(block, f"{type(error).__name__}: {error}")


def _lost(client: Client) -> RunError:
    return RunError(
        f"lost the Dask scheduler {client.scheduler.addr} while blocks were running; what is done "
        "is kept, run the same command again"
    )
