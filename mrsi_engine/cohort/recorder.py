"""From events to the ledger: what happened to each scan is written down as it happens."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

from mrsi_engine.cohort.crash import Crashes
from mrsi_engine.cohort.events import (
    CohortEvent,
    CohortStarted,
    ScanAdvanced,
    ScanFailed,
    ScanFinished,
    ScanStarted,
    Step,
)
from mrsi_engine.cohort.fingerprint import Fingerprints
from mrsi_engine.cohort.ledger import OPEN, Ledger, Record, State
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.report.summary import SUMMARY_FILE

#: A file that another machine wrote may be seen late: looked for so often, so long apart (s).
_LOOKS, _PAUSE = 6, 0.5

#: Column of a summary that holds the usable share, in percent.
_USABLE = "usable_share"


class Recorder:
    """A sink that keeps the ledger of a cohort, and a folder of each scan that failed.

    ``done`` is written only once the scan's ``summary.json`` is seen.

    Parameters
    ----------
    ledger
        Open for writing.
    out
        Folder of the cohort.
    rows
        Its scans, by their folders.
    """

    def __init__(
        self,
        ledger: Ledger,
        out: Path,
        rows: Mapping[str, ScanRow],
        fingerprints: Fingerprints,
        crashes: Crashes,
    ) -> None:
        self._ledger, self._out, self._rows = ledger, out, rows
        self._fingerprints, self._crashes = fingerprints, crashes
        self._identities: dict[str, dict[str, Any]] = {}
        self._logs: dict[str, list[str]] = {}

    def __call__(self, event: CohortEvent) -> None:
        """Write an event down."""
        self._on(event)

    @singledispatchmethod
    def _on(self, event: CohortEvent) -> None:
        raise TypeError(f"not an event of a cohort: {event!r}")

    @_on.register
    def _(self, event: CohortStarted) -> None:
        """The ledger knows that."""

    @_on.register
    def _(self, event: ScanStarted) -> None:
        # As the files are when they are read, not as they are at the end.
        self._identities[event.scan] = self._fingerprints.of(self._rows[event.scan])
        self._logs.setdefault(event.scan, [])
        self._write(Record(event.scan, State.RUNNING, attempt=event.attempt))

    @_on.register
    def _(self, event: ScanAdvanced) -> None:
        before = self._ledger.record(event.scan)
        self._write(
            replace(
                before,
                state=State.RUNNING,
                step=event.step,
                seconds=round(before.seconds + event.seconds, 3),
                voxels=event.voxels or before.voxels,
                worker=" ".join(event.workers) or before.worker,
            )
        )

    @_on.register
    def _(self, event: ScanFinished) -> None:
        if not self._is_there(event.scan):
            path = self._out / event.scan / SUMMARY_FILE
            error = f"{path}: not there, though a worker wrote it: do workers see this folder?"
            self._on(ScanFailed(event.scan, Step.FINISH, error))
            return
        share = event.summary.get(_USABLE)
        self._write(
            replace(
                self._ledger.record(event.scan),
                state=State.DONE if event.accepted else State.UNUSABLE,
                step=Step.FINISH,
                error="",
                voxels=event.voxels,
                usable=round(share / 100, 4) if isinstance(share, int | float) else None,
                verdict=event.verdict,
                identity=self._identities.pop(event.scan, {}),
            )
        )
        self._crashes.remove(self._rows[event.scan])
        self._logs.pop(event.scan, None)

    @_on.register
    def _(self, event: ScanFailed) -> None:
        ended = State.REFUSED if event.refused else State.FAILED
        row = self._rows[event.scan]
        error = event.error.removeprefix(f"{row.scan}: ")
        self._write(
            replace(
                self._ledger.record(event.scan),
                state=State.WAITING if event.again else ended,
                step=event.step,
                error=" ".join(error.split("\n", 1)[0].split()),
                worker=event.worker or self._ledger.record(event.scan).worker,
            )
        )
        if not event.again:
            log = self._logs.pop(event.scan, [])
            self._crashes.write(row, event.error, event.traceback, log)

    def _write(self, record: Record) -> None:
        if self._ledger.state(record.scan) not in OPEN:
            return  # what comes late of a scan that was given up
        timed = replace(record, time="")
        self._ledger.write(timed)
        if record.scan in self._logs:
            self._logs[record.scan].append(self._ledger.record(record.scan).line())

    def _is_there(self, scan: str) -> bool:
        folder = self._out / scan
        for _ in range(_LOOKS):
            # A listing asks the server; what it said of a single name may be remembered.
            if (folder / SUMMARY_FILE).is_file() or SUMMARY_FILE in _names(folder):
                return True
            time.sleep(_PAUSE)
        return False


def interrupt_open(ledger: Ledger) -> None:
    """Write down that scans that were begun go no further in this session."""
    begun = [r for r in ledger.story.of(*OPEN) if r.state is State.RUNNING or r.attempt]
    ledger.write(*(replace(record, state=State.INTERRUPTED, time="") for record in begun))


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []
