"""Who does the blocks: this process one after the other, or the workers of a Dask cluster.

An executor takes a plan and block numbers and yields outcomes as they come, in any order. It never
raises for a block that failed, and closing it calls off what has not begun.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any
from uuid import uuid4

from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from mrsi_engine.engine.blocks import Plan, run_block
from mrsi_engine.engine.events import Failure, Outcome
from mrsi_engine.errors import MRSIError, RunError
from mrsi_engine.io.result_store import DiskFullError

Executor = Callable[[Plan, Sequence[int]], Generator[Outcome, None, None]]

#: Blocks sent ahead for each one that can run; waiting ones cost the scheduler, not the workers.
_AHEAD = 4
_LEAST_AHEAD = 8

#: Of a traceback, which travels with the failure, the end is kept.
_TRACEBACK_CHARACTERS = 4000


class _Stalled(Exception):
    """No block ended for a long time."""


def in_this_process(plan: Plan, blocks: Sequence[int]) -> Generator[Outcome, None, None]:
    """Do blocks one after the other, without a scheduler."""
    for block in blocks:
        yield attempt(plan, block)


def on_cluster(
    client: Client, plan: Plan, blocks: Sequence[int], *, stall_seconds: float
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
    for outcome in _in_spite_of_a_stall(client, plan, blocks, stall_seconds):
        if isinstance(outcome, Failure) and outcome.worker_died:
            suspects.append(outcome.block)
        else:
            yield outcome
    for block in suspects:
        yield from _in_spite_of_a_stall(client, plan, [block], stall_seconds)


def attempt(plan: Plan, block: int) -> Outcome:
    """Do a block; what went wrong comes back as text, which any process can read."""
    try:
        return run_block(plan, block)
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
    client: Client, plan: Plan, blocks: Sequence[int], stall_seconds: float
) -> Generator[Outcome, None, None]:
    outstanding = dict.fromkeys(blocks)
    for _ in range(2):
        try:
            for outcome in _flow(client, plan, tuple(outstanding), stall_seconds):
                del outstanding[outcome.block]
                yield outcome
        except _Stalled:
            continue
        return
    raise RunError(
        f"no block ended for {stall_seconds:g} s, twice; {len(outstanding)} blocks are outstanding "
        f"on {slots(client)} threads, the first is block {min(outstanding)}. See the cluster's "
        "dashboard or logs, then run the same command again"
    )


def _flow(
    client: Client, plan: Plan, blocks: Sequence[int], stall_seconds: float
) -> Generator[Outcome, None, None]:
    """Keep a bounded number of blocks on the cluster, refilled in batches."""
    waiting = deque(blocks)
    flying: dict[Future, int] = {}
    completed = _completed(client, stall_seconds)
    moved = False
    try:
        while waiting or flying:
            ahead = max(_LEAST_AHEAD, _AHEAD * slots(client))
            if waiting and len(flying) <= ahead // 2:
                sent = _send(client, plan, waiting, ahead - len(flying))
                flying.update(sent)
                completed.update(sent)
            try:
                batch = [next(completed), *completed.next_batch(block=False)]
            except TimeoutError:
                if not moved:
                    raise _Stalled from None
                completed, moved = _completed(client, stall_seconds), False
                completed.update(flying)
                continue
            moved = True
            for future, result in batch:
                outcome = _outcome(client, flying.pop(future), future, result)
                # A result held would be computed again when its worker dies.
                future.release()
                yield outcome
    finally:
        if flying and client.status == "running":
            client.cancel(list(flying))


def _completed(client: Client, stall_seconds: float) -> as_completed:
    return as_completed(
        loop=client.loop, with_results=True, raise_errors=False, timeout=stall_seconds
    )


def _send(client: Client, plan: Plan, waiting: deque[int], count: int) -> dict[Future, int]:
    batch = [waiting.popleft() for _ in range(min(count, len(waiting)))]
    attempt_id = uuid4().hex[:8]
    keys = [f"block-{plan.fingerprint[:8]}-{block}-{attempt_id}" for block in batch]
    futures = client.map(attempt, [plan] * len(batch), batch, key=keys, pure=False)
    return dict(zip(futures, batch, strict=True))


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
