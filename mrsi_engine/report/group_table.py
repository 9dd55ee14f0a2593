"""The group table: a row a scan of a cohort, failed ones among them, and what its columns are."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from mrsi_engine.io.personal import is_personal, without_folders
from mrsi_engine.quantities import Quantity, safe_label
from mrsi_engine.report.columns import Column, quantity_columns, summary_columns
from mrsi_engine.report.summary import ScanSummary

#: What BIDS writes for a value that is not known.
MISSING = "n/a"

#: What would end a value or a line.
_NO_WORD = r"[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+"

#: Rows that are put into columns at a time: dictionaries take ten times the memory of columns.
_CHUNK = 256

#: What is known of every scan of a cohort, whatever became of it.
OF_COHORT = (
    Column("scan", "", "its folder in that of the cohort"),
    Column("subject", "", "label of the subject, without sub-"),
    Column("session", "", "label of the session, without ses-"),
    Column("stem", "", "what the names of its maps begin with; in the voxel tables, too"),
    Column("state", "", "what became of it"),
    Column("error", "", "why it failed or was refused, in one line; folders are left out"),
    Column("attempts", "1", "how often it was tried"),
    Column("task_seconds", "s", "time of its tasks in the last attempt, summed over workers"),
    Column("report", "", "its report, beside this file"),
)


@dataclass(frozen=True)
class GroupScan:
    """One scan of a cohort as the group level sees it.

    Parameters
    ----------
    scan
        Its folder in that of the cohort, with ``/``.
    stem, subject, session
        Its names; empty where it has none.
    state, error, attempts, seconds
        What became of it.
    metadata
        What the table of the cohort says of it beside.
    summary
        Its summary, ``None`` where there are no results.
    report, crash
        Its report and the folder of its crash beside the group's files; empty without one.
    """

    scan: str
    stem: str
    subject: str = ""
    session: str = ""
    state: str = ""
    error: str = ""
    attempts: int = 0
    seconds: float = 0.0
    metadata: Mapping[str, str] = field(default_factory=dict)
    summary: ScanSummary | None = None
    report: str = ""
    crash: str = ""


@dataclass(frozen=True, eq=False)
class GroupTable:
    """The group table.

    Parameters
    ----------
    frame
        A row a scan, a column each of ``columns``.
    columns
        What they are, by name, in their order.
    metadata
        Those that are from the cohort's own table.
    quantities
        What the numbers are of, by the names that columns begin with.
    left_out
        Columns of the cohort's table that are personal by their names.
    pipelines
        Settings of the pipelines, and how many scans went through each, the most first.
    crashes
        Folders of crashes by scan.
    """

    frame: pd.DataFrame
    columns: Mapping[str, Column]
    metadata: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    left_out: tuple[str, ...]
    pipelines: tuple[tuple[Mapping[str, Any], int], ...]
    crashes: Mapping[str, str]

    @cached_property
    def done(self) -> pd.DataFrame:
        """Rows of scans that have results."""
        return self.frame[self.frame["voxels"].notna()]

    def text(self) -> str:
        """As tab-separated values, as BIDS has them: nothing is quoted."""
        words = {c.name: self.frame[c.name] for c in self.columns.values() if not c.unit}
        plain = {
            name: column.str.replace(_NO_WORD, " ", regex=True) for name, column in words.items()
        }
        return self.frame.assign(**plain).to_csv(
            sep="\t", index=False, na_rep=MISSING, float_format="%.6g", quoting=csv.QUOTE_NONE
        )

    def sidecar(self) -> str:
        """What the columns are, as BIDS describes those of a table: JSON."""
        told = {
            column.name: {
                "Description": column.description,
                **({"Units": column.unit} if column.unit not in ("", "1") else {}),
            }
            for column in self.columns.values()
        }
        return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def group_table(scans: Iterator[GroupScan] | Sequence[GroupScan]) -> GroupTable:
    """The table of these scans; they are read once and not kept.

    A quantity that has another unit in some scans than in those before gets columns of its own
    there, so that no column mixes units.
    """
    gathered = _Gathered()
    frames, rows = [], []
    for scan in scans:
        rows.append(gathered.row(scan))
        if len(rows) == _CHUNK:
            frames.append(pd.DataFrame(rows))
            rows = []
    if rows or not frames:
        frames.append(pd.DataFrame(rows))
    columns = gathered.columns()
    frame = pd.concat(frames, ignore_index=True).reindex(columns=list(columns))
    return GroupTable(
        frame=_typed(frame, columns),
        columns=columns,
        metadata=tuple(gathered.metadata.values()),
        quantities=tuple(gathered.quantities.values()),
        left_out=tuple(sorted(gathered.left_out)),
        pipelines=tuple(sorted(gathered.pipelines.values(), key=lambda found: -found[1])),
        crashes=gathered.crashes,
    )


def _typed(frame: pd.DataFrame, columns: Mapping[str, Column]) -> pd.DataFrame:
    """Columns with a unit as numbers, whole ones as such although some are missing."""
    numbers = frame[[c.name for c in columns.values() if c.unit]].astype(float)
    whole = (numbers.isna() | (numbers == numbers.round())).all() & numbers.notna().any()
    counts = [str(name) for name in numbers.columns[whole] if columns[str(name)].unit == "1"]
    typed = numbers.astype(dict.fromkeys(counts, "Int64"))
    words = frame[[c.name for c in columns.values() if not c.unit]].astype("str")
    words = words.where(frame[words.columns].notna())
    return pd.concat([words, typed], axis=1)[list(columns)].copy()


class _Gathered:
    """What is met on the way through the scans."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.quantities: dict[tuple[str, str], Quantity] = {}
        self.tissues: dict[str, None] = {}
        self.left_out: set[str] = set()
        self.pipelines: dict[str, tuple[Mapping[str, Any], int]] = {}
        self.crashes: dict[str, str] = {}

    def row(self, scan: GroupScan) -> dict[str, object]:
        """A scan's row, its columns by the names they have in the whole table."""
        if scan.crash:
            self.crashes[scan.scan] = scan.crash
        row: dict[str, object] = {
            "scan": scan.scan,
            "subject": scan.subject or None,
            "session": scan.session or None,
            "stem": scan.stem,
            "state": scan.state or None,
            "error": without_folders(" ".join(scan.error.split())) or None,
            "attempts": scan.attempts or None,
            "task_seconds": scan.seconds or None,
            "report": scan.report or None,
        }
        row |= self._metadata(scan.metadata)
        return row if scan.summary is None else {**row, **self._summary(scan.summary)}

    def columns(self) -> dict[str, Column]:
        """All columns, in their order."""
        told = [*OF_COHORT, *(_of_table(own, n) for n, own in self.metadata.items())]
        of_summaries = summary_columns(tuple(self.quantities.values()), tuple(self.tissues))
        return {column.name: column for column in told} | of_summaries

    def _metadata(self, given: Mapping[str, str]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in given.items():
            if is_personal(name):
                self.left_out.add(name)
                continue
            own = self.metadata.setdefault(name, f"table_{name}" if name in _TAKEN else name)
            found[own] = None if value in ("", MISSING) else value
        return found

    def _summary(self, summary: ScanSummary) -> Mapping[str, object]:
        self.tissues |= dict.fromkeys(summary.tissues)
        key = json.dumps(summary.pipeline, sort_keys=True)
        settings, count = self.pipelines.get(key, (summary.pipeline, 0))
        self.pipelines[key] = (settings, count + 1)
        renamed = self._renames(summary)
        if not renamed:
            return summary.row
        return {renamed.get(name, name): value for name, value in summary.row.items()}

    def _renames(self, summary: ScanSummary) -> dict[str, str]:
        """New names of columns of quantities that have another unit than in scans before."""
        renamed: dict[str, str] = {}
        for quantity in summary.quantities:
            known = self._known(quantity)
            if known.name != quantity.name:
                pairs = zip(
                    quantity_columns(quantity, summary.tissues),
                    quantity_columns(known, summary.tissues),
                    strict=True,
                )
                renamed |= {old.name: new.name for old, new in pairs}
        return renamed

    def _known(self, quantity: Quantity) -> Quantity:
        """The quantity as the table has it."""
        key = (quantity.name, quantity.units)
        if key not in self.quantities:
            taken = {q.name for q in self.quantities.values()}
            new = f"{quantity.name}_{safe_label(quantity.units)}"
            own = replace(quantity, name=new) if quantity.name in taken else quantity
            self.quantities[key] = own
        return self.quantities[key]


def _of_table(name: str, given: str) -> Column:
    return Column(name, "", f"column {given!r} of the cohort's own table")


_TAKEN = frozenset(column.name for column in OF_COHORT) | frozenset(summary_columns(()))
