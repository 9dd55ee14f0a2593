"""What is seen of a cohort that runs: a bar in a terminal, a line a scan where it is read later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mrsi_engine.cohort.events import (
    CohortEvent,
    CohortStarted,
    ScanFailed,
    ScanFinished,
)


class _Count:
    """Counts the ends of scans."""

    def __init__(self) -> None:
        self.pending = self.ended = self.failed = self.useless = self.voxels = 0
        self.started = time.monotonic()

    def take(self, event: CohortEvent) -> bool:
        """Count an event; whether a scan ended with it."""
        if isinstance(event, CohortStarted):
            self.pending, self.started = event.pending, time.monotonic()
        elif isinstance(event, ScanFinished):
            self.ended += 1
            self.voxels += event.voxels
            self.useless += not event.accepted
            return True
        elif isinstance(event, ScanFailed) and not event.again:
            self.ended += 1
            self.failed += 1
            return True
        return False

    @property
    def text(self) -> str:
        """Pace, and what went wrong, in a few words."""
        speed = self.voxels / max(time.monotonic() - self.started, 1e-3)
        wrong = [(self.failed, "failed"), (self.useless, "of no use")]
        return ", ".join([f"{speed:,.0f} voxels/s", *(f"{n} {word}" for n, word in wrong if n)])


class CohortBar:
    """One bar for all scans, with voxels a second, what is left, and how many failed.

    Parameters
    ----------
    console
        Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._count, self._progress = (
            _Count(),
            Progress(
                TextColumn("scans"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            ),
        )
        self._task = self._progress.add_task("scans", total=None, note="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # A bar that is not drawn would leave an empty line.
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, event: CohortEvent) -> None:
        """Draw an event."""
        ended = self._count.take(event)
        if isinstance(event, CohortStarted) and event.pending:
            self._progress.update(self._task, total=event.pending)
            self._progress.start()
        elif ended:
            self._progress.update(self._task, completed=self._count.ended, note=self._count.text)


class CohortLines:
    """A line for every scan that ends.

    Parameters
    ----------
    say
        Prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._count, self._say = _Count(), say

    def __call__(self, event: CohortEvent) -> None:
        """Say an event."""
        if self._count.take(event):
            self._say(f"({self._count.ended} of {self._count.pending}) {_said(event)}")


def _said(event: CohortEvent) -> str:
    if isinstance(event, ScanFinished):
        return f"{event.scan}: {event.verdict}"
    assert isinstance(event, ScanFailed)
    how = "refused" if event.refused else f"failed ({event.step})"
    return f"{event.scan}: {how}: {event.error.splitlines()[0] if event.error else 'no word'}"
