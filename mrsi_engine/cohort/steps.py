"""The steps in the life of a scan, as workers do them.

Each looks at what is on disk and does what is missing, so any can be done again, at any time and
anywhere. What goes wrong comes back with the step it happened in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from mrsi_engine.cohort.events import Step
from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.finish import Summary, finalise
from mrsi_engine.engine.passes import Pass, finish_pass, next_pass
from mrsi_engine.engine.plan import Plan
from mrsi_engine.engine.rounds import Round, next_round
from mrsi_engine.engine.window import Failure, failure_of
from mrsi_engine.errors import RunError
from mrsi_engine.io.places import place
from mrsi_engine.runs.folder import check_links, scan_folder
from mrsi_engine.runs.one_scan import Clock, check_scan, finish_scan, import_once, plan_scan

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Begun:
    """A scan that was imported and planned; its passes and blocks are to be done as tasks.

    ``steps`` are seconds by step, ``timings`` those that the report shows.
    """

    plan: Plan
    voxels: int
    round: Round
    steps: Mapping[Step, float]
    timings: Mapping[str, float]


@dataclass(frozen=True)
class Finished:
    """A scan that is done; ``steps`` are seconds by step, of those that were done here."""

    voxels: int
    accepted: bool
    verdict: str
    summary: Mapping[str, object]
    steps: Mapping[Step, float]
    kernel_seconds: float = 0.0


@dataclass(frozen=True)
class StepFailed:
    """What went wrong in which step; ``blocks`` of a scan failed, if it was cut into any."""

    step: Step
    failure: Failure
    blocks: int = 0


@dataclass
class _Course:
    """The step that is being done, and seconds by step."""

    step: Step = Step.IMPORT
    seconds: dict[Step, float] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)

    @contextmanager
    def __call__(self, step: Step) -> Iterator[None]:
        self.step, started = step, time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started


def begin_scan(job: ScanJob) -> Begun | Finished | StepFailed:
    """Import a scan and plan its run; one of few voxels is done to its end at once."""
    return _attempt(lambda course: _begin(job, course))


def _begin(job: ScanJob, course: _Course) -> Begun | Finished:
    pipeline, folder, options, clock = (
        *(job.load_pipeline(), job.folder, job.options),
        course.clock,
    )
    with course(Step.IMPORT):
        check_links(folder, within=place(job.out))
        with clock("basis"):
            _, basis = check_scan(job.inputs, job.basis, pipeline, folder, options)
        with clock("import"):
            scan = import_once(job.inputs, scan_folder(folder), options.overwrite)
        plan = plan_scan(scan, basis, pipeline, folder, options)
    if scan.voxels > job.whole_voxels:
        plan.store.forget_damaged()
        return Begun(plan, scan.voxels, next_round(plan), course.seconds, clock.seconds)
    with course(Step.PROCESS), clock("process"):
        done = run(plan, workers=0)
    return _finish(job, done.summary, course, done.kernel_seconds)


def end_pass(todo: Pass) -> Round | StepFailed:
    """Combine what the parts of a pass found; what comes next."""
    return _attempt(lambda course: _end_pass(todo, course))


def _end_pass(todo: Pass, course: _Course) -> Round:
    course.step = Step.PREPARE
    # A worker that died after it had done this may have left no summaries to do it again.
    if next_pass(todo.plan) == todo:
        finish_pass(todo)
    return next_round(todo.plan)


def end_scan(
    job: ScanJob, plan: Plan, timing: Mapping[str, object] | None, timings: Mapping[str, float]
) -> Finished | StepFailed:
    """Finish a scan whose blocks are done: maps, tables, report.

    Parameters
    ----------
    timing
        Figures of the session that did its blocks, if one was needed.
    timings
        Seconds that the report shows, by step.
    """

    def end(course: _Course) -> Finished:
        course.step = Step.PROCESS
        course.clock.seconds.update(timings)
        summary = finalise(plan, timing)
        if not summary.finished:
            raise RunError(
                f"{summary.result}: {len(summary.missing)} blocks that were done are gone; do not "
                "touch the folder of a scan while it is run"
            )
        return _finish(job, summary, course)

    return _attempt(end)


def _finish(
    job: ScanJob, summary: Summary, course: _Course, kernel_seconds: float = 0.0
) -> Finished:
    with course(Step.FINISH):
        done = finish_scan(job.folder, summary, job.options, course.clock, reports=job.reports)
    verdict = done.verdict.text
    return Finished(
        summary.voxels, done.accepted, verdict, done.row, course.seconds, kernel_seconds
    )


def _attempt(step: Callable[[_Course], _Found]) -> _Found | StepFailed:
    course = _Course()
    try:
        return step(course)
    except Exception as error:
        return StepFailed(course.step, failure_of(error))
