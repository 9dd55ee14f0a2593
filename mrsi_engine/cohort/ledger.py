"""The ledger of a cohort: an append-only record of what happened to each scan.

JSON lines in ``OUT/ledger/``, a segment (a file) a session of the driver, which alone writes, under
the lock of the folder. A segment begins with a line that says of which session it is; every other
line is a :class:`Record`, whole in itself, so that the state of a scan is its last record and a
line that is torn by a crash or a full disk costs nothing but itself. Segments are read by the order
of their names, while they grow.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from mrsi_engine.cohort.events import Step
from mrsi_engine.cohort.segments import Segment
from mrsi_engine.errors import RunError

#: Folder of the ledger in that of a cohort.
LEDGER = "ledger"

#: What a line that is no record begins with, and is.
_SESSION, _GROUPED = '{"session"', '{"group": "made"}'

#: Records of a segment: one on an object store is written whole each time.
ROLL = 1000


class State(StrEnum):
    """Where a scan stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    UNUSABLE = "unusable"
    FAILED = "failed"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"


#: States of scans whose results are there; nobody should use those of ``unusable`` ones.
FINISHED = (State.DONE, State.UNUSABLE)

#: States of scans that ended without results.
LOST = (State.FAILED, State.REFUSED)

#: Scans in these states are left there by a driver that lives no more.
OPEN = (State.WAITING, State.RUNNING)

#: What may follow a state. A scan ends as waiting or running, and begins anew as waiting; of one
#: that ended well the record may be written again, with the new dates of files that are the same.
FOLLOWS: Mapping[State | None, tuple[State, ...]] = {
    None: (State.WAITING,),
    State.WAITING: (*State,),
    State.RUNNING: (*State,),
    **dict.fromkeys((*LOST, State.INTERRUPTED), (State.WAITING,)),
    **{state: (State.WAITING, state) for state in FINISHED},
}


@dataclass(frozen=True)
class Session:
    """A call of the driver: when, where, by which command, with which versions."""

    started: str
    host: str
    pid: int
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a scan at a time.

    Parameters
    ----------
    scan
        Its folder in that of the cohort.
    state, step, attempt
        Where it stands; ``step`` is the last one that ended, or the one that failed.
    time
        UTC, ISO 8601.
    error, worker
        Why it failed, in one line, and where it ran last.
    seconds, voxels
        Time of its tasks in this attempt (s), and voxels quantified.
    usable, verdict
        Share of usable voxels, and what to think of the scan.
    identity
        What its numbers depend on, see :mod:`mrsi_engine.cohort.fingerprint`.
    """

    scan: str
    state: State
    time: str = ""
    step: Step | None = None
    attempt: int = 0
    error: str = ""
    worker: str = ""
    seconds: float = 0.0
    voxels: int = 0
    usable: float | None = None
    verdict: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """As a line of JSON, without what there is nothing to say of."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        usual = {f.name: f.default for f in fields(self)} | {"identity": {}}
        return json.dumps({name: v for name, v in told.items() if v != usual[name]})

    @classmethod
    def parsed(cls, line: str) -> Record:
        """The record of a line.

        Raises
        ------
        ValueError
            If it is none; fields of a later version are left out.
        """
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("not a record")
        known = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        step = known.get("step")
        state = State(known.pop("state", ""))
        if not isinstance(known.get("scan"), str):
            raise ValueError("not a record: no scan")
        return cls(**{**known, "state": state, "step": step and Step(step)})


@dataclass(frozen=True)
class Pace:
    """Scans that ended in a session, and the voxels quantified in them; when the last one did."""

    scans: int = 0
    voxels: int = 0
    last: str = ""

    def after(self, record: Record) -> Pace:
        """The pace once a record is written."""
        if record.state not in (*FINISHED, *LOST) or not record.attempt:
            return self
        done = record.voxels if record.state in FINISHED else 0
        return Pace(self.scans + 1, self.voxels + done, record.time)


@dataclass(frozen=True)
class Story:
    """A ledger as read: the last record of each scan, its sessions and the pace of the last one.

    ``grouped`` says whether the group level was made since a scan last changed its state;
    ``problems`` are lines that are damaged.
    """

    scans: Mapping[str, Record] = field(default_factory=dict)
    sessions: tuple[Session, ...] = ()
    pace: Pace = Pace()
    grouped: bool = False
    problems: tuple[str, ...] = ()

    @cached_property
    def counts(self) -> dict[State, int]:
        """Scans by state, in the order of states; only those that occur."""
        found = dict.fromkeys(State, 0)
        for record in self.scans.values():
            found[record.state] += 1
        return {state: count for state, count in found.items() if count}

    def of(self, *states: State) -> tuple[Record, ...]:
        """Records of the scans in one of these states, by their folders."""
        chosen = (record for record in self.scans.values() if record.state in states)
        return tuple(sorted(chosen, key=lambda record: record.scan))


class LedgerReader:
    """Reads a ledger again and again while it grows; what is complete is read once.

    Parameters
    ----------
    out
        Folder of the cohort.
    """

    def __init__(self, out: Path) -> None:
        self._folder = out / LEDGER
        self._complete: dict[str, _Chapter] = {}

    def read(self) -> Story:
        """What the ledger says now; an empty story where there is none."""
        return _told(self._chapters())

    def _chapters(self) -> Iterator[_Chapter]:
        if not self._folder.is_dir():
            return
        paths = sorted(self._folder.glob("*.jsonl"), key=lambda path: path.name)
        for path in paths:
            chapter = self._complete.get(path.name) or _chapter(path)
            if path != paths[-1]:
                # One that has a successor gets no more lines.
                self._complete[path.name] = chapter
            yield chapter


@dataclass(frozen=True)
class _Chapter:
    """A segment as read; a line that is ``None`` says that the group level was made."""

    session: Session | None
    lines: tuple[Record | None, ...]
    problems: tuple[str, ...]


def _chapter(path: Path) -> _Chapter:
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    session: Session | None = None
    found: list[Record | None] = []
    problems = []
    for number, line in enumerate(lines, 1):
        try:
            if line.startswith(_SESSION):
                session = Session(**json.loads(line)["session"])
            else:
                found.append(None if line == _GROUPED else Record.parsed(line))
        except (ValueError, TypeError):
            problems.append(f"{path}: line {number} is damaged and left out")
    if rest:
        problems.append(f"{path}: the last line is cut short and left out")
    return _Chapter(session, tuple(found), tuple(problems))


def _told(chapters: Iterable[_Chapter]) -> Story:
    scans: dict[str, Record] = {}
    sessions: list[Session] = []
    problems: list[str] = []
    pace, grouped = Pace(), False
    for chapter in chapters:
        if chapter.session is not None and chapter.session not in sessions:
            sessions.append(chapter.session)
            pace = Pace()
        for record in chapter.lines:
            if record is None:
                grouped = True
                continue
            before = scans.get(record.scan)
            grouped = grouped and before is not None and before.state is record.state
            scans[record.scan] = record
            pace = pace.after(record)
        problems += chapter.problems
    return Story(scans, tuple(sessions), pace, grouped, tuple(problems))


class Ledger:
    """The ledger of a cohort, open for writing by the one driver that holds the lock.

    Parameters
    ----------
    out
        Folder of the cohort.
    session
        The session that begins.
    before
        What the ledger says, if that was read already.
    roll
        Records of a segment.

    Raises
    ------
    DiskFullError
        If the disk is full.
    """

    def __init__(
        self, out: Path, session: Session, before: Story | None = None, *, roll: int = ROLL
    ) -> None:
        self._folder, self._session, self._roll = out / LEDGER, session, roll
        before = before or LedgerReader(out).read()
        self._sessions, self._problems = (*before.sessions, session), before.problems
        # What numbers depend on takes the most room, and is not asked again in this session.
        self._scans = {name: replace(r, identity={}) for name, r in before.scans.items()}
        self._pace, self._written, self._guard = Pace(), 0, threading.Lock()
        self._segment = self._begin()

    @property
    def story(self) -> Story:
        """What the ledger says now, but for what numbers depend on; from any thread."""
        with self._guard:
            known = dict(self._scans)
            return Story(known, self._sessions, self._pace, problems=self._problems)

    def state(self, scan: str) -> State | None:
        """Where a scan stands; ``None`` where nothing is known of it."""
        record = self._scans.get(scan)
        return None if record is None else record.state

    def record(self, scan: str) -> Record:
        """The last record of a scan that is known, but for what its numbers depend on."""
        return self._scans[scan]

    def write(self, *records: Record) -> None:
        """Append records, with the time unless they say it.

        Raises
        ------
        RunError
            If a state cannot follow that of the scan (a defect).
        DiskFullError
            If the disk is full.
        """
        timed = [record if record.time else replace(record, time=now()) for record in records]
        for start in range(0, len(timed), self._roll):
            self._append(timed[start : start + self._roll])

    def _append(self, records: Sequence[Record]) -> None:
        with self._guard:
            if self._written + len(records) > self._roll:
                self._segment.close()
                self._segment = self._begin()
            lines = []
            for record in records:
                self._check(record)
                self._scans[record.scan] = replace(record, identity={})
                self._pace = self._pace.after(record)
                lines.append(record.line())
            self._segment.append(lines)
            self._written += len(records)

    def write_grouped(self) -> None:
        """Append that the group level was made of what is known now."""
        with self._guard:
            self._segment.append([_GROUPED])

    def flush(self) -> None:
        """Write what an object store has not been given yet; from any thread."""
        with self._guard:
            self._segment.flush()

    def close(self) -> None:
        """End the session."""
        self._segment.close()

    def _begin(self) -> Segment:
        self._written = 0
        names = [path.name for path in self._folder.glob("*.jsonl")] if self._exists() else []
        number = 1 + max((int(name.split("-")[0]) for name in names), default=0)
        stamp = self._session.started[:19].replace(":", "").replace("-", "")
        segment = Segment(self._folder / f"{number:06d}-{stamp}.jsonl")
        head = {f.name: getattr(self._session, f.name) for f in fields(Session)}
        segment.append([json.dumps({"session": head})])
        return segment

    def _exists(self) -> bool:
        return self._folder.is_dir()

    def _check(self, record: Record) -> None:
        before = self._scans.get(record.scan)
        was = None if before is None else before.state
        if record.state not in FOLLOWS[was]:
            raise RunError(
                f"ledger: {record.scan} was {was or 'unknown'} and cannot be {record.state} now"
            )


def now() -> str:
    """The time, UTC, as records and pages say it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
