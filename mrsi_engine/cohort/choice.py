"""Which scans of a cohort are to be run, by what its ledger says and what is on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrsi_engine.choices import Rerun
from mrsi_engine.cohort.fingerprint import Fingerprints
from mrsi_engine.cohort.ledger import FINISHED, LOST, Record, State
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.errors import MRSIError
from mrsi_engine.io.importing import changed_since
from mrsi_engine.io.scan_store import SCAN_STORE
from mrsi_engine.report.summary import SUMMARY_FILE
from mrsi_engine.runs.folder import scan_folder

#: Files looked at at once: on a network each waits for its server.
_THREADS = 16

#: The report in a scan's folder.
REPORT = "report.html"


@dataclass(frozen=True)
class Choice:
    """What is to be done about the scans of a cohort.

    Parameters
    ----------
    todo
        To be run.
    finished
        Folders of those that are done and whose files and settings are the same.
    left
        Folders of those that the user wants left as they are.
    changed
        Folders of those to be run that were done by other files, settings or revisions.
    touched
        Records of finished scans whose files have other dates but the same content, with these.
    """

    todo: tuple[ScanRow, ...]
    finished: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    touched: tuple[Record, ...] = field(default=())


def choose_scans(
    rows: Sequence[ScanRow],
    known: Mapping[str, Record],
    out: Path,
    options: CohortOptions,
    fingerprints: Fingerprints,
) -> Choice:
    """Decide which scans are to be run.

    A scan is finished if the ledger says so, its ``summary.json`` is there, its settings are those
    it was run with, and so are its files: by size and date, and only where these changed by
    content. One whose settings or files changed is run: it is its stores that know whether they
    still hold, and refuse if not (unless they are to be overwritten).

    Parameters
    ----------
    rows, known
        The scans, and the last record of each by its folder.
    """
    look = _Look(known, out, options, fingerprints)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(look, rows))
    wanted = [_wanted(one, options.rerun) for one in found]
    chosen = list(zip(rows, found, wanted, strict=True))
    return Choice(
        todo=tuple(row for row, _, want in chosen if want),
        finished=tuple(row.folder for row, one, _ in chosen if one.finished),
        left=tuple(row.folder for row, one, want in chosen if not (want or one.finished)),
        changed=tuple(row.folder for row, one, want in chosen if one.changed and want),
        touched=tuple(one.record for _, one, want in chosen if one.record and not want),
    )


@dataclass(frozen=True)
class _Found:
    """How a scan was found: finished, lost, or changed (else missing); a record to write anew."""

    finished: bool = False
    lost: bool = False
    changed: bool = False
    record: Record | None = None


def _wanted(found: _Found, rerun: Rerun) -> bool:
    if rerun == "all":
        return True
    wanted = {"failed": found.lost, "missing": not found.lost, "unfinished": True}
    return wanted[rerun] and not found.finished


@dataclass(frozen=True)
class _Look:
    """Looks at one scan; called in threads."""

    known: Mapping[str, Record]
    out: Path
    options: CohortOptions
    fingerprints: Fingerprints

    def __call__(self, row: ScanRow) -> _Found:
        record = self.known.get(row.folder)
        if record is None or record.state not in FINISHED:
            return _Found(lost=record is not None and record.state in LOST)
        if not self._is_there(row, record):
            return _Found()
        now, before = self.fingerprints.of(row), record.identity
        if now == before:
            return _Found(finished=True)
        if now["settings"] == before.get("settings") and self._same_content(row):
            return _Found(finished=True, record=replace(record, identity=now, time=""))
        return _Found(changed=True)

    def _is_there(self, row: ScanRow, record: Record) -> bool:
        """Whether a scan's folder holds what the options ask for."""
        folder = self.out / row.folder
        flagged = record.state is State.UNUSABLE
        wanted = {"all": True, "flagged": flagged, "none": False}[self.options.reports]
        names = [SUMMARY_FILE, *([REPORT] if wanted else [])]
        return all((folder / name).is_file() for name in names)

    def _same_content(self, row: ScanRow) -> bool:
        """Whether the files of a scan are those its store was made from."""
        inputs = row.inputs(self.options.points, self.options.keep_personal)
        try:
            made: dict[str, Any] = SCAN_STORE.attributes(scan_folder(self.out / row.folder))
            return not changed_since(made["inputs"], inputs.scan, **inputs.import_settings())
        except (MRSIError, OSError, KeyError):
            return False
