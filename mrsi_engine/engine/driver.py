"""The driver: has the missing blocks of a plan done and tells sinks what happens.

Passes over the scan that the stages need come first, each a round of tasks of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial

from distributed import Client

from mrsi_engine.engine.blocks import Receipt
from mrsi_engine.engine.clusters import (
    ClusterChoice,
    Need,
    OpenCluster,
    Tell,
    bytes_needed,
    dashboard_link,
    open_cluster,
    refill_of,
)
from mrsi_engine.engine.devices import check_device
from mrsi_engine.engine.events import (
    BlockDone,
    BlockFailed,
    ClusterTold,
    DamageFound,
    Event,
    PartDone,
    PassFinished,
    PassStarted,
    RunFinished,
    RunStarted,
    Sink,
)
from mrsi_engine.engine.finish import Summary, finalise
from mrsi_engine.engine.opening import opened
from mrsi_engine.engine.passes import Pass, finish_pass, next_pass
from mrsi_engine.engine.patience import Patience
from mrsi_engine.engine.plan import Plan
from mrsi_engine.engine.rounds import Round, next_round
from mrsi_engine.engine.tally import Tally
from mrsi_engine.engine.window import Ended, Failure, Source, run_tasks, slots
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.files import DiskFullError
from mrsi_engine.io.places import place
from mrsi_engine.io.result_store import ResultStore

#: Voxels from which workers are processes. They fit one and a half times as fast as threads, which
#: share Python's lock, but take some 4 s to start: break-even measured at 1 ms a voxel.
PROCESSES_FROM = 20_000

#: Does the tasks of a source.
_Runner = Callable[[Source], Generator[Ended, None, None]]

#: Failed blocks a message lists before it only counts them.
_LISTED = 10


@dataclass(frozen=True)
class RunSummary:
    """A finished run: where it stands, and what this session did.

    ``seconds`` is wall time from the first block sent, ``kernel_seconds`` the sum over workers of
    the time spent in stages, both with the passes over the scan.
    """

    summary: Summary
    blocks_done: int
    voxels_done: int
    workers: int
    seconds: float
    kernel_seconds: float

    @property
    def voxels_per_s(self) -> float:
        """Voxels of this session by its wall time."""
        return self.voxels_done / self.seconds if self.seconds else 0.0


def run(
    plan: Plan,
    *,
    client: Client | None = None,
    workers: int | None = None,
    choice: ClusterChoice | None = None,
    processes: bool | None = None,
    sinks: Sequence[Sink] = (),
    patience: Patience | None = None,
) -> RunSummary:
    """Do every missing pass over the scan and every missing block of a plan, and finish it.

    Passes and blocks whose files are missing or not what was written count as missing.

    Parameters
    ----------
    client, choice, workers
        Where: on the cluster of a client, on one that is chosen, on so many workers of this
        machine, or, with ``workers=0``, in this process. At most one may be given; by default on
        this machine, one worker a core, or a GPU where the plan's device is one.
    processes
        Whether workers of this machine are processes. They are threads for a scan of less than
        ``PROCESSES_FROM`` voxels unless told otherwise.
    sinks
        Called with every event of the run.
    patience
        Limits of time: when a worker hangs, and how long a run goes on without any.

    Raises
    ------
    InputError
        If a stage finds in its pass over the scan that the scan is not fit for it, or this machine
        is to compute and has not got the device, or not one for each worker.
    RunError
        If blocks failed (after all others were done), the disk is full (at once) or the cluster was
        lost. What is done is kept; the same call again does only what is missing.
    Interrupted
        If this process was asked to stop.
    """
    if sum(given is not None for given in (client, workers, choice)) > 1:
        raise InputError("give one of client, workers and choice: they say where to run")
    where = choice or ClusterChoice(workers=workers)
    check_device(plan.device, here=client is None and where.here)
    _forget_damaged(plan, sinks)
    if not plan.store.missing() and next_pass(plan) is None:
        return _drive(plan, run_tasks, 0, None, sinks)
    if client is None and where.workers == 0:
        return _drive(plan, run_tasks, 1, None, sinks)
    patience = patience or Patience()
    with ExitStack() as stack:
        refill = refill_of(client) if client is not None else None
        if client is None:
            need = _need(plan, where, processes)
            cluster = stack.enter_context(open_cluster(where, need, _teller(sinks)))
            client, refill = cluster.client, cluster.refill
            patience = replace(patience, without_workers=cluster.without_workers)
            sinks = [*sinks, _counter(cluster)]
        runner = partial(run_tasks, client=client, patience=patience, refill=refill)
        return _drive(plan, runner, slots(client), dashboard_link(client), sinks)


def _forget_damaged(plan: Plan, sinks: Sequence[Sink]) -> None:
    """Let what an earlier session wrote, and is damaged since, be done again."""
    store, damages = plan.store.forget_damaged()
    if damages:
        found = DamageFound(store.path, tuple(map(str, damages)))
        for sink in sinks:
            sink(found)


def _need(plan: Plan, where: ClusterChoice, processes: bool | None) -> Need:
    """What a plan needs of a cluster."""
    scan, results, procedure = opened(plan)
    return Need(
        place(plan.result).parent,
        bytes=bytes_needed(
            scan.acquisition.points,
            results.block_size,
            scan.dimensions.values(),
            len(procedure.basis.names) if procedure.basis is not None else 0,
            where.threads_per_worker,
        ),
        device=plan.device,
        processes=results.voxels >= PROCESSES_FROM if processes is None else processes,
    )


def _teller(sinks: Sequence[Sink]) -> Tell:
    """Tells the sinks of a run what its cluster does."""

    def tell(line: str) -> None:
        for sink in sinks:
            sink(ClusterTold(line))

    return tell


def _counter(cluster: OpenCluster) -> Sink:
    """Counts for a cluster what ended on it."""

    def count(event: Event) -> None:
        if isinstance(event, BlockDone | BlockFailed | PartDone):
            cluster.block_ended()

    return count


class _Session:
    """Counts what one call of the driver did and tells the sinks."""

    def __init__(self, store: ResultStore, sinks: Sequence[Sink]) -> None:
        self._store, self._sinks = store, sinks
        self.tally = Tally()
        self.failures: dict[int, Failure] = {}

    def start(self, missing: Sequence[int], workers: int, dashboard: str | None) -> None:
        store = self._store
        regions = [store.region(block) for block in missing]
        pending_voxels = sum(stop - start for start, stop in regions)
        self._tell(
            RunStarted(
                store.path,
                store.voxels,
                store.blocks,
                len(missing),
                pending_voxels,
                workers,
                dashboard,
            )
        )

    def pass_started(self, todo: Pass, parts: Round) -> None:
        path, step, voxels = self._store.path, todo.step + 1, sum(parts.missing.values())
        self._tell(PassStarted(path, todo.name, step, todo.steps, len(parts.missing), voxels))

    def part_done(self, parts: Round, receipt: Receipt) -> None:
        self.tally.add_part(receipt)
        self._tell(PartDone(receipt, *parts.region(self._store, receipt.block)))

    def pass_finished(self, todo: Pass, seconds: float) -> None:
        self.tally.prepare_seconds += seconds
        self._tell(PassFinished(self._store.path, todo.name, todo.step + 1, seconds))

    def record(self, block: int, outcome: Receipt | Failure) -> None:
        start, stop = self._store.region(block)
        if isinstance(outcome, Failure):
            self.failures[block] = outcome
            self._tell(BlockFailed(block, outcome, start, stop))
            return
        self.tally.add_block(outcome)
        self._tell(BlockDone(outcome, start, stop))

    def finish(self) -> None:
        self._tell(
            RunFinished(
                self._store.path,
                self.tally.receipts,
                len(self.failures),
                self.tally.voxels,
                self.tally.seconds,
                self.tally.kernel_seconds,
            )
        )

    def _tell(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)


def _drive(
    plan: Plan, runner: _Runner, workers: int, dashboard: str | None, sinks: Sequence[Sink]
) -> RunSummary:
    store = plan.store
    session = _Session(store, sinks)
    session.start(store.missing(), workers, dashboard)
    try:
        blocks = _prepare(plan, runner, session)
        with closing(runner(_source_of(blocks))) as all_ended:
            for ended in all_ended:
                session.record(ended.task.of, ended.outcome)
                _stop_on_full_disk(ended.outcome)
    finally:
        session.finish()
    tally = session.tally
    summary = finalise(plan, tally.timing(workers) if tally.receipts else None)
    _refuse_unfinished(store, summary, session.failures)
    return RunSummary(
        summary=summary,
        blocks_done=tally.receipts,
        voxels_done=tally.voxels,
        workers=workers,
        seconds=tally.seconds,
        kernel_seconds=tally.kernel_seconds,
    )


def _prepare(plan: Plan, runner: _Runner, session: _Session) -> Round:
    """Do the passes over the scan that are missing; the blocks that are."""
    while (parts := next_round(plan)).todo is not None:
        started = time.perf_counter()
        session.pass_started(parts.todo, parts)
        failures = {}
        with closing(runner(_source_of(parts))) as all_ended:
            for ended in all_ended:
                _stop_on_full_disk(ended.outcome)
                if isinstance(ended.outcome, Failure):
                    failures[ended.task.of] = ended.outcome
                else:
                    session.part_done(parts, ended.outcome)
        _refuse_unprepared(plan.store, parts, failures)
        finish_pass(parts.todo)
        session.pass_finished(parts.todo, time.perf_counter() - started)
    return parts


def _source_of(numbers: Round) -> Source:
    tasks = numbers.tasks()
    return lambda: next(tasks, None)


def _refuse_unprepared(store: ResultStore, parts: Round, failures: Mapping[int, Failure]) -> None:
    if not failures or parts.todo is None:
        return
    todo = parts.todo
    head = (
        f"{store.path}: pass {todo.step + 1} of {todo.steps} of stage {todo.name!r} over the scan "
        f"failed in {len(failures)} of {len(todo.parts)} parts; the others are kept, and the same "
        "command does only what is missing"
    )
    raise _told(head, failures, "part", partial(parts.region, store))


def _stop_on_full_disk(outcome: object) -> None:
    if isinstance(outcome, Failure) and outcome.disk_full:
        raise DiskFullError(outcome.error)


def _refuse_unfinished(
    store: ResultStore, summary: Summary, failures: Mapping[int, Failure]
) -> None:
    if summary.finished:
        return
    head = (
        f"{store.path}: {len(summary.missing)} of {summary.blocks} blocks are not done; the others "
        "are kept, and the same command does only what is missing"
    )
    raise _told(head, failures, "block", store.region)


def _told(
    head: str,
    failures: Mapping[int, Failure],
    unit: str,
    region: Callable[[int], tuple[int, int]],
) -> RunError:
    """The error that lists failures with the voxels they concern, tracebacks in its notes."""
    failed = sorted(failures.items())
    listed = [(number, *region(number), failure) for number, failure in failed[:_LISTED]]
    lines = [
        f"{unit} {number} (voxels {start} to {stop - 1}): {failure.error}"
        for number, start, stop, failure in listed
    ]
    if len(failed) > _LISTED:
        lines.append(f"and {len(failed) - _LISTED} more")
    error = RunError("\n".join([head, *lines]))
    for story in dict.fromkeys(failure.traceback for *_, failure in listed):
        error.add_note(story)
    return error
