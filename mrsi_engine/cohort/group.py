"""The group level of a cohort: its table, all its voxels as one dataset, its page, what to cite."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from pathlib import Path
from typing import Protocol

from mrsi_engine.cohort.ledger import LOST
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.voxels import SCAN_TABLE, VOXELS, ScanVoxels, write_voxels
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically
from mrsi_engine.report.group import write_group_page
from mrsi_engine.report.group_statistics import classes_of
from mrsi_engine.report.group_table import GroupScan, GroupTable, group_table
from mrsi_engine.report.methods import Methods, methods_of
from mrsi_engine.report.summary import SUMMARY_FILE, read_summary
from mrsi_engine.runs.folder import check_links

#: What the files of the group level are called, before their suffixes.
GROUP = "group_mrsi"

#: A scan's report, the folder of crashes, and that of logs.
_REPORT, _CRASH, _LOGS = "report.html", "crash", "logs"

#: Summaries that are read at a time, and threads that wait for them.
_AHEAD, _THREADS = 256, 8


class ScanState(Protocol):
    """What a ledger says of a scan at last."""

    @property
    def state(self) -> str:
        """What became of it."""

    @property
    def error(self) -> str:
        """Why it failed, in one line."""

    @property
    def attempt(self) -> int:
        """How often it was tried."""

    @property
    def seconds(self) -> float:
        """Time of its tasks in the last attempt, s."""


def write_group(
    out: Path,
    rows: Sequence[ScanRow],
    states: Mapping[str, ScanState],
    *,
    title: str = "",
) -> Path:
    """Write the group level of a cohort into its folder; returns the page.

    ``group_mrsi.tsv`` with ``group_mrsi.json``, ``group_mrsi.html``, the dataset ``voxels/`` and
    ``logs/CITATION.md`` and ``.bib``. Made of the scans' own ``summary.json`` and
    ``voxels.parquet``, so that it can be made again at any time.

    Parameters
    ----------
    rows
        All scans of the cohort.
    states
        What became of each, by its folder; a scan without is one that has not been tried.
    title
        Of the page; the name of the folder by default.

    Raises
    ------
    InputError
        If voxel tables do not go together, or a link leads out of the folder.
    RunError
        If a file cannot be written.
    """
    for folder in (out / VOXELS, out / _LOGS):
        check_links(folder, within=out)
    table = group_table(_scans(out, rows, states))
    protocols, bases = (classes_of(table, column) for column in ("protocol", "basis"))
    methods = methods_of(table.pipelines, protocols, bases)
    write_atomically(out / f"{GROUP}.tsv", table.text().encode())
    write_atomically(out / f"{GROUP}.json", table.sidecar().encode())
    write_voxels(out, _voxels(out, rows, table))
    write_citation(out / _LOGS, methods)
    page = out / f"{GROUP}.html"
    return write_group_page(table, methods, page, title=title or out.name)


def write_citation(logs: Path, methods: Methods) -> None:
    """Write the methods text and its references into the folder of logs."""
    write_atomically(logs / "CITATION.md", (methods.markdown() + "\n").encode())
    write_atomically(logs / "CITATION.bib", methods.bibtex().encode())


def write_settings(logs: Path, run: str, settings: Mapping[str, object]) -> Path:
    """Write the settings of a run as ``logs/RUN/settings.toml``; what is ``None`` is left out.

    Parameters
    ----------
    settings
        Text, numbers, truth values, paths, times, and lists and tables of such.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    text = "\n".join(_toml(settings)).strip() + "\n"
    return write_atomically(logs / run / "settings.toml", text.encode())


def _scans(
    out: Path, rows: Sequence[ScanRow], states: Mapping[str, ScanState]
) -> Iterator[GroupScan]:
    """Scans in the order of the table; only some summaries are in memory at a time."""
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(rows), _AHEAD):
            part = rows[start : start + _AHEAD]
            yield from threads.map(lambda row: _scan(out, row, states.get(row.folder)), part)


def _scan(out: Path, row: ScanRow, state: ScanState | None) -> GroupScan:
    folder = out / row.folder
    summary, error = None, "" if state is None else state.error
    # Of a scan that failed now, results of an earlier run are none of this cohort.
    lost = state is not None and state.state in LOST
    if not lost and (folder / SUMMARY_FILE).is_file():
        try:
            summary = read_summary(folder)
        except InputError as problem:
            error = error or str(problem)
    places = "|".join(re.escape(p) for p in sorted(_folders(out, row), key=len, reverse=True))
    error = re.sub(rf"(?<![\w/.-])(?:{places})/", "", error)
    crash = f"{_CRASH}/{row.folder.replace('/', '_')}"
    report = f"{row.folder}/{_REPORT}"
    return GroupScan(
        scan=row.folder,
        stem=row.stem,
        subject=row.subject or "",
        session=row.session or "",
        state="" if state is None else str(state.state),
        error=error,
        attempts=0 if state is None else state.attempt,
        seconds=0.0 if state is None else state.seconds,
        metadata=row.metadata,
        summary=summary,
        report=report if (out / report).is_file() else "",
        crash=crash if error and (out / crash).is_dir() else "",
    )


def _folders(out: Path, row: ScanRow) -> set[str]:
    """Where files of a scan lie: no part of what is shared, and with spaces hard to tell."""
    files = [row.scan, row.basis or "", row.pipeline or ""]
    for given in row.files.values():
        files += map(str, given.values() if isinstance(given, Mapping) else [given])
    return {str(out), *(file.rpartition("/")[0] for file in files)} - {""}


def _voxels(out: Path, rows: Sequence[ScanRow], table: GroupTable) -> Iterator[ScanVoxels]:
    done = set(table.done["scan"])
    for row in rows:
        source = out / row.folder / SCAN_TABLE
        if row.folder in done and source.is_file():
            yield ScanVoxels(source, row.subject or "", row.session or "", row.name)


def _toml(table: Mapping[str, object], name: str = "") -> Iterator[str]:
    """A table as lines of TOML: its values, then the tables in it."""
    known = {key: value for key, value in table.items() if value is not None}
    inside = {key: value for key, value in known.items() if isinstance(value, Mapping)}
    if name:
        yield f"\n[{name}]"
    for key, value in known.items():
        if key not in inside:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in inside.items():
        yield from _toml(value, f"{name}.{_key(key)}" if name else _key(key))


def _key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isalnum() and bare.isascii() else json.dumps(key, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        inside = (f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(inside) + " }"
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return "[" + ", ".join(_value(item) for item in items) + "]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
