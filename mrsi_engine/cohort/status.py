"""How far a cohort is: figures for a terminal, a page and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mrsi_engine.cohort.ledger import (
    FINISHED,
    LEDGER,
    LOST,
    OPEN,
    LedgerReader,
    Record,
    State,
    Story,
)
from mrsi_engine.cohort.lock import Holder, holder_lives, holder_of
from mrsi_engine.errors import InputError


@dataclass(frozen=True)
class Status:
    """How far a cohort is.

    Parameters
    ----------
    out
        Its folder, as it was named.
    counts
        Scans by state.
    running, failures, unusable
        The last records of those that run, failed, or are of no use.
    voxels_per_s, seconds_left
        Pace of the session that runs or ran last, and what is left at that pace; ``None`` where
        nothing ended yet, and without a driver.
    driver
        Who runs it; ``None`` if nobody does.
    since, versions
        When the last session began, and its versions.
    problems
        Lines of the ledger that are damaged.
    """

    out: str
    counts: Mapping[State, int]
    running: tuple[Record, ...]
    failures: tuple[Record, ...]
    unusable: tuple[Record, ...]
    voxels_per_s: float | None
    seconds_left: float | None
    driver: Holder | None
    since: str
    versions: Mapping[str, str]
    problems: tuple[str, ...]

    @property
    def total(self) -> int:
        """Scans of the cohort."""
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        """Scans that need nothing more."""
        return sum(self.counts.get(state, 0) for state in (*FINISHED, *LOST))

    @property
    def line(self) -> str:
        """Counts and pace in a line."""
        return f"{counts_in_words(self.counts)}{pace_in_words(self)}"

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        return {
            "out": self.out,
            "driver": None
            if self.driver is None
            else {"host": self.driver.host, "pid": self.driver.pid, "since": self.driver.since},
            "since": self.since,
            "counts": {str(state): self.counts.get(state, 0) for state in State},
            "scans": self.total,
            "voxels_per_s": self.voxels_per_s,
            "seconds_left": self.seconds_left,
            "running": [_plain(record) for record in self.running],
            "failures": [_plain(record) for record in self.failures],
            "unusable": [_plain(record) for record in self.unusable],
            "versions": dict(self.versions),
            "problems": list(self.problems),
        }


def read_status(out: Path, reader: LedgerReader | None = None) -> Status:
    """How far the cohort in a folder is; nothing is written there.

    Parameters
    ----------
    reader
        Of its ledger, if it is asked again and again.

    Raises
    ------
    InputError
        If the folder holds no cohort.
    """
    if not (out / LEDGER).is_dir():
        raise InputError(f"{out}: holds no cohort (no folder {LEDGER}); give the --out of one")
    driver = holder_of(out)
    lives = driver is not None and holder_lives(out, driver)
    return status_of(out, (reader or LedgerReader(out)).read(), driver if lives else None)


def status_of(
    out: Path, story: Story, driver: Holder | None, now: datetime | None = None
) -> Status:
    """How far a cohort is by what its ledger says."""
    last = story.sessions[-1] if story.sessions else None
    speed, left = None, None
    if last is not None and story.pace.scans:
        until = (now or datetime.now().astimezone()) if driver else _time(story.pace.last)
        seconds = max((until - _time(last.started)).total_seconds(), 1e-3)
        speed = story.pace.voxels / seconds
        open_scans = sum(story.counts.get(state, 0) for state in OPEN)
        left = open_scans * seconds / story.pace.scans if driver else None
    return Status(
        out=str(out),
        counts=story.counts,
        running=story.of(State.RUNNING),
        failures=story.of(*LOST),
        unusable=story.of(State.UNUSABLE),
        voxels_per_s=speed,
        seconds_left=left,
        driver=driver,
        since="" if last is None else last.started,
        versions={} if last is None else last.versions,
        problems=story.problems,
    )


def counts_in_words(counts: Mapping[State, int]) -> str:
    """``12 scans: 10 done, 1 of no use, 1 failed``."""
    told = [f"{count} {state_in_words(state)}" for state, count in counts.items()]
    return f"{sum(counts.values())} scans: {', '.join(told) or 'none'}"


def state_in_words(state: State) -> str:
    """A state as people read it."""
    return "of no use" if state is State.UNUSABLE else str(state)


def pace_in_words(status: Status) -> str:
    """Voxels a second and what is left, as far as known."""
    speed = "" if status.voxels_per_s is None else f"; {status.voxels_per_s:,.3g} voxels/s"
    return speed + (
        "" if status.seconds_left is None else f", {duration(status.seconds_left)} left"
    )


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 20 s`` or ``7 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 60} min {whole % 60:02} s" if whole >= 60 else f"{whole} s"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _plain(record: Record) -> dict[str, Any]:
    names = ("scan", "state", "time", "step", "attempt", "error", "worker", "seconds", "verdict")
    return {name: getattr(record, name) for name in names}
