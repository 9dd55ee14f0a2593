"""Sinks of run events: a progress bar and a log file."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

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
)
from mrsi_engine.io.places import local_place


class _VoxelsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- voxels/s" if speed is None else f"{speed:,.0f} voxels/s")


class RichProgress:
    """A progress bar in voxels with rate and remaining time, on standard error.

    Passes over the scan that come before the blocks get a bar of their own, named ``prepare``.

    Parameters
    ----------
    console
        Where to draw; by default standard error, so that results can be piped.
    description
        What stands before the bar.
    """

    def __init__(self, console: Console | None = None, description: str = "fit") -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _VoxelsPerSecond(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="red"),
            console=console or Console(stderr=True),
        )
        self._task = self._progress.add_task(description, total=None, start=False, note="")
        self._failed = 0
        self._pass: TaskID | None = None

    def __call__(self, event: Event) -> None:
        """Draw an event."""
        self._on(event)

    @singledispatchmethod
    def _on(self, event: Event) -> None:
        raise TypeError(f"not an event of a run: {event!r}")

    @_on.register
    def _(self, event: DamageFound) -> None:
        for line in event.lines:
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    @_on.register
    def _(self, event: ClusterTold) -> None:
        self._progress.console.print(event.line, markup=False, highlight=False, soft_wrap=True)

    @_on.register
    def _(self, event: RunStarted) -> None:
        self._progress.update(self._task, total=event.pending_voxels)
        self._progress.start_task(self._task)
        self._progress.start()

    @_on.register
    def _(self, event: PassStarted) -> None:
        name = f"prepare {event.stage} {event.step}/{event.steps}"
        self._pass = self._progress.add_task(name, total=event.pending_voxels, note="")

    @_on.register
    def _(self, event: PartDone) -> None:
        if self._pass is not None:
            self._progress.advance(self._pass, event.stop - event.start)

    @_on.register
    def _(self, event: PassFinished) -> None:
        if self._pass is not None:
            self._progress.remove_task(self._pass)
            self._pass = None
        # The clock of the blocks starts now.
        self._progress.reset(self._task)

    @_on.register
    def _(self, event: BlockDone) -> None:
        self._progress.advance(self._task, event.stop - event.start)

    @_on.register
    def _(self, event: BlockFailed) -> None:
        self._failed += 1
        self._progress.update(self._task, note=f"{self._failed} failed")

    @_on.register
    def _(self, event: RunFinished) -> None:
        self._progress.stop()


class JsonLines:
    """Append every event to a file as one line of JSON, with the time it happened.

    Parameters
    ----------
    path
        The file, a local one; made with its folders if missing.

    Raises
    ------
    InputError
        If it is on an object store, where nothing can be appended to.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = local_place(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, event: Any) -> None:
        """Write an event: a dataclass, of a run or of a cohort."""
        line = {"time": _now(), "event": type(event).__name__, **dataclasses.asdict(event)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=_plain) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _plain(value: Any) -> str:
    return str(value)
