"""The course of one scan, in the driver: which tasks it has now, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from mrsi_engine.cohort.events import CohortSink, ScanAdvanced, ScanFinished, Step
from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.cohort.steps import Begun, Finished, StepFailed, begin_scan, end_pass, end_scan
from mrsi_engine.engine.blocks import Receipt
from mrsi_engine.engine.rounds import Round
from mrsi_engine.engine.tally import Tally
from mrsi_engine.engine.window import Ended, Failure, Task
from mrsi_engine.io.places import place

#: Bytes of a voxel in a file of which nothing else is known: some 500 points.
_BYTES_A_VOXEL = 4096


@dataclass
class _Spent:
    """What a step has taken so far."""

    seconds: float = 0.0
    kernel_seconds: float = 0.0
    voxels: int = 0
    workers: set[str] = field(default_factory=set)

    def add(self, ended: Ended) -> None:
        """Count a task."""
        self.seconds += ended.seconds
        if isinstance(ended.outcome, Receipt):
            self.kernel_seconds += ended.outcome.kernel_seconds
            self.voxels += ended.outcome.voxels
        if ended.worker is not None:
            self.workers.add(ended.worker)


class Course:
    """One try to run a scan; ``number`` is its place among all, ``attempt`` counts from 1."""

    def __init__(self, job: ScanJob, number: int, attempt: int, sink: CohortSink) -> None:
        self.job, self.number, self.attempt = job, number, attempt
        self._sink = sink
        self._step = Step.IMPORT
        self._spent, self._tally = _Spent(), Tally()
        self._begun: Begun | None = None
        self._round: Round | None = None
        self._round_began = 0.0
        self._left = 0
        self._failures: dict[int, Failure] = {}
        size = _about(job)
        kind = "scan" if size <= job.whole_voxels else "import"
        self._tasks = iter([self._task(kind, partial(begin_scan, job), size, begun=False)])

    def __lt__(self, other: Course) -> bool:
        return self.number < other.number

    def next_task(self) -> Task | None:
        """A task that can be done now, if there is one left."""
        return next(self._tasks, None)

    def take(self, ended: Ended) -> StepFailed | None:
        """Take up how a task ended; the failure, if this try is over with it."""
        self._spent.add(ended)
        match ended.outcome:
            case Begun() as begun:
                self._begun, self._tally = begun, Tally()
                self._spent.voxels = begun.voxels
                self._advanced(Step.IMPORT)
                self._begin_round(begun.round)
            case Round() as found:
                self._tally.prepare_seconds += time.perf_counter() - self._round_began
                if found.todo is None:
                    self._advanced(Step.PREPARE)
                self._begin_round(found)
            case Finished() as done:
                self._finished(done)
            case StepFailed() as failed:
                return failed
            case Failure() as failure if self._round is None or failure.disk_full:
                return StepFailed(self._step, failure)
            case outcome:
                number: int = ended.task.of[1]
                return self._take_of_round(number, outcome)
        return None

    def _begin_round(self, found: Round) -> None:
        self._round, self._failures, self._left = found, {}, len(found.missing)
        self._step = Step.PROCESS if found.todo is None else Step.PREPARE
        self._round_began = time.perf_counter()
        self._tasks = (replace(task, of=(self, task.of)) for task in found.tasks())
        if not self._left:
            self._end_round(found)

    def _take_of_round(self, number: int, outcome: Receipt | Failure) -> StepFailed | None:
        assert self._round is not None
        self._left -= 1
        if isinstance(outcome, Failure):
            self._failures[number] = outcome
        elif self._round.todo is None:
            self._tally.add_block(outcome)
        else:
            self._tally.add_part(outcome)
        if self._left:
            return None
        if self._failures:
            blocks = len(self._failures) if self._round.todo is None else 0
            return StepFailed(self._step, _summed_up(self._failures, self._round), blocks)
        self._end_round(self._round)
        return None

    def _end_round(self, done: Round) -> None:
        """Combine what a pass found, or finish the scan."""
        assert self._begun is not None
        begun, tally, self._round = self._begun, self._tally, None
        if done.todo is not None:
            task = self._task("combine", partial(end_pass, done.todo), begun.voxels)
        else:
            timings = {**begun.timings, "process": tally.seconds}
            timing = tally.timing(len(self._spent.workers)) if tally.receipts else None
            if timing:
                self._advanced(Step.PROCESS)
            self._step = Step.FINISH
            end = partial(end_scan, self.job, begun.plan, timing, timings)
            task = self._task("finish", end, begun.voxels)
        self._tasks = iter([task])

    def _finished(self, done: Finished) -> None:
        workers, name = tuple(self._spent.workers), self.job.name
        for step, seconds in done.steps.items():
            kernel_seconds = done.kernel_seconds if step is Step.PROCESS else 0.0
            self._sink(ScanAdvanced(name, step, seconds, kernel_seconds, done.voxels, workers))
        self._sink(ScanFinished(name, done.voxels, done.accepted, done.verdict, done.summary))

    def _advanced(self, step: Step) -> None:
        spent, self._spent = self._spent, _Spent()
        workers = tuple(sorted(spent.workers))
        figures = (spent.seconds, spent.kernel_seconds, spent.voxels, workers)
        self._sink(ScanAdvanced(self.job.name, step, *figures))

    def _task(
        self, kind: str, do: Callable[[], object], voxels: int, *, begun: bool = True
    ) -> Task:
        name = f"{self.number}-{self.attempt}"
        return Task(kind, name, do, voxels, of=(self, 0), begun=begun)


def _about(job: ScanJob) -> int:
    """Voxels of a scan, as far as the driver can know without reading it."""
    if job.voxels is not None:
        return job.voxels
    try:
        return place(job.row.scan).stat().st_size // _BYTES_A_VOXEL
    except OSError:
        return 0


def _summed_up(failures: Mapping[int, Failure], done: Round) -> Failure:
    """Many failures of a round as one."""
    unit = "blocks" if done.todo is None else f"parts of a pass of stage {done.todo.name!r}"
    number, first = min(failures.items())
    if len(done.missing) == 1:
        return first
    return replace(
        first,
        error=f"{len(failures)} of {len(done.missing)} {unit} failed; number {number}: "
        f"{first.error}",
    )
