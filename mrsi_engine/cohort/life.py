"""The lives of many scans, as tasks on one cluster.

A scan of few voxels is one task from import to report. A larger one is a task that imports it, one
for each part of a pass over it and for each block, and one that finishes it. Scans that were begun
go first. The driver holds what is under way and nothing of what was or will be.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing

from distributed import Client

from mrsi_engine.cohort.course import Course
from mrsi_engine.cohort.events import CohortSink, ScanFailed, ScanStarted
from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.engine.clusters import refill_of
from mrsi_engine.engine.patience import Patience
from mrsi_engine.engine.window import Ended, Failure, Task, run_tasks
from mrsi_engine.io.files import DiskFullError


def live(
    client: Client | None,
    jobs: Iterable[ScanJob],
    sink: CohortSink,
    *,
    retries: int = 1,
    stop_on_first_failure: bool = False,
    patience: Patience | None = None,
    refill: Callable[[], None] | None = None,
) -> None:
    """Run scans from their files to their reports, and tell what happens to each.

    A scan that fails never stops the others. What is on disk decides what is still to be done, so
    the same call again, after whatever death, does what is missing and nothing else.

    Parameters
    ----------
    client
        Of the cluster; without one all is done in this process, one scan after the other.
    jobs
        Taken from as there is room for them.
    sink
        Told of everything, in this thread.
    retries
        How often a scan that failed is tried again, after all others; one whose input is wrong
        never.
    stop_on_first_failure
        Return once a scan failed for good, calling off what is under way.
    patience
        Limits of time.
    refill
        Brings the cluster back to its size, where it lost workers; for a local one that is known.

    Raises
    ------
    DiskFullError
        If a disk is full.
    Interrupted
        If this process was asked to stop.
    RunError
        If the cluster was lost.
    """
    lives = _Lives(jobs, sink, retries)
    if refill is None and client is not None:
        refill = refill_of(client)
    ended = run_tasks(lives.next_task, client, patience=patience, refill=refill)
    with closing(ended) as all_ended:
        for one in all_ended:
            failed = lives.take(one)
            if failed is not None and failed.disk_full:
                raise DiskFullError(failed.error)
            if failed is not None and stop_on_first_failure:
                return


class _Lives:
    """Hands out the tasks of scans, those of scans that were begun first."""

    def __init__(self, jobs: Iterable[ScanJob], sink: CohortSink, retries: int) -> None:
        self._jobs = enumerate(jobs)
        self._sink, self._retries = sink, retries
        self._begun: list[Course] = []
        self._listed: set[int] = set()
        self._again: deque[Course] = deque()

    def next_task(self) -> Task | None:
        """The next task, if there is one now."""
        while self._begun or self._begin():
            if (task := self._begun[0].next_task()) is not None:
                return task
            self._listed.discard(heapq.heappop(self._begun).number)
        return None

    def _list(self, course: Course) -> None:
        if course.number not in self._listed:
            self._listed.add(course.number)
            heapq.heappush(self._begun, course)

    def _begin(self) -> bool:
        """Begin a scan, if there is one left."""
        if (found := next(self._jobs, None)) is not None:
            number, job = found
            course = Course(job, number, 1, self._sink)
        elif self._again:
            course = self._again.popleft()
        else:
            return False
        self._sink(ScanStarted(course.job.name, course.attempt))
        self._list(course)
        return True

    def take(self, ended: Ended) -> Failure | None:
        """Take up how a task ended; the failure, if its scan failed for good."""
        course: Course = ended.task.of[0]
        failed = course.take(ended)
        if failed is None:
            self._list(course)
            return None
        failure = failed.failure
        again = not (failure.refused or failure.disk_full) and course.attempt <= self._retries
        self._sink(
            ScanFailed(
                course.job.name,
                failed.step,
                failure.error,
                failure.traceback,
                failure.worker,
                failure.refused,
                again,
                failed.blocks,
            )
        )
        if not again:
            return failure
        self._again.append(Course(course.job, course.number, course.attempt + 1, self._sink))
        return None
