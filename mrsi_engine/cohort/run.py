"""A cohort from its table to the group level: what ``mrsi cohort`` does, as one function."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

from distributed import Client

from mrsi_engine.choices import DEFAULT_PIPELINE
from mrsi_engine.cohort.choice import Choice, choose_scans
from mrsi_engine.cohort.crash import Crashes, flags_of, versions
from mrsi_engine.cohort.dataset import check_output, describe_output, read_description
from mrsi_engine.cohort.events import CohortEvent, CohortSink, CohortStarted, ScanFailed, Step
from mrsi_engine.cohort.fingerprint import Fingerprints
from mrsi_engine.cohort.group import write_group, write_settings
from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.cohort.ledger import (
    LOST,
    OPEN,
    Ledger,
    LedgerReader,
    Record,
    Session,
    State,
    Story,
    now,
)
from mrsi_engine.cohort.life import live
from mrsi_engine.cohort.lock import CohortLock, locked
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.preflight import THREADS, CheckedScan, Preflight, preflight
from mrsi_engine.cohort.pulse import Pulse
from mrsi_engine.cohort.recorder import Recorder, interrupt_open
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.table import clashes, read_table, write_table
from mrsi_engine.cohort.where import open_where
from mrsi_engine.engine.interrupts import interruptible
from mrsi_engine.errors import UNUSABLE, InputError, RunError
from mrsi_engine.io.places import check_reachable, is_remote, place
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice, basis_for
from mrsi_engine.runs.folder import check_links, remove_run

#: The table of a cohort as it was run, and the folder of logs, in that of the cohort.
TABLE, LOGS = "cohort.tsv", "logs"

#: Folders of scans, of crashes and of tables of voxels lie so deep in that of the cohort.
_LEVELS = 3

#: Told lines for the user.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class CohortOutcome:
    """What a run of a cohort came to.

    Parameters
    ----------
    out
        Its folder.
    counts
        Scans of the table by state.
    failures
        The error in one line of each that failed or was refused, by its folder.
    unusable
        Folders of those that are done and of no use.
    checked
        Of a dry run, what would run.
    """

    out: Path
    counts: Mapping[State, int] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    unusable: tuple[str, ...] = ()
    checked: Preflight | None = None

    @property
    def exit_code(self) -> int:
        """0 if all scans are done, 1 if some failed, 3 if all are done and of no use.

        A scan of no use beside others that are is done: it is counted and listed.
        """
        if self.checked is not None:
            return self.checked.exit_code
        left = sum(self.counts.get(state, 0) for state in (*OPEN, State.INTERRUPTED))
        if self.failures or left:
            return RunError.exit_code
        total = sum(self.counts.values())
        return UNUSABLE if total and len(self.unusable) == total else 0


@interruptible
def run_cohort(
    table: str | Path | Sequence[ScanRow],
    out: str | Path,
    *,
    basis: BasisChoice | str | None = None,
    pipeline: Pipeline | str | Path = DEFAULT_PIPELINE,
    options: CohortOptions | None = None,
    client: Client | None = None,
    group: bool = True,
    command: str = "",
    sinks: Sequence[CohortSink] = (),
    tell: Tell | None = None,
) -> CohortOutcome:
    """Run every scan of a cohort that is not done yet, then make the group level.

    A scan that fails stops no other. The same call again does what is missing and what failed;
    scans that are done and whose files and settings are the same are known within seconds.

    Parameters
    ----------
    table
        TSV or CSV, see :func:`~mrsi_engine.cohort.table.read_table`, or its rows.
    out
        Folder of the cohort, or its address on an object store.
    basis, pipeline
        Of scans that have none of their own.
    client
        Of a cluster that is there; otherwise ``options.scan`` says where to run.
    group
        Whether to make the group level at the end.
    command
        What the user typed, for the ledger.
    sinks
        Told of everything that happens, in this thread.
    tell
        Told lines for the user.

    Raises
    ------
    InputError
        If the table, options, pipeline or basis are wrong, no scan can run, or another driver runs
        a cohort in this folder (says its host, process and since when).
    DiskFullError
        If the disk is full.
    RunError
        If the cluster, or the lock of the folder, was lost.
    Interrupted
        If this process was asked to stop; the same call goes on.
    """
    cohort = _Cohort(
        _rows(table),
        place(out),
        BasisChoice(basis) if isinstance(basis, str) else basis,
        pipeline if isinstance(pipeline, Pipeline) else Pipeline.load(pipeline),
        pipeline.name if isinstance(pipeline, Pipeline) else str(pipeline),
        (options or CohortOptions()).check(),
        tell or _silent,
    )
    check_reachable(cohort.out)
    check_links(cohort.out, levels=_LEVELS)
    if cohort.options.dry_run:
        return cohort.dry_run()
    with locked(cohort.out) as lock:
        if (dead := lock.taken_from) is not None:
            cohort.tell(f"goes on where process {dead.pid} on {dead.host} ended without a word")
        return cohort.outcome(cohort.run(lock, client, command, group, sinks))


@dataclass(frozen=True)
class _Cohort:
    """What a cohort is and how it is to be run."""

    rows: tuple[ScanRow, ...]
    out: Path
    basis: BasisChoice | None
    pipeline: Pipeline
    source: str
    options: CohortOptions
    tell: Tell

    def dry_run(self) -> CohortOutcome:
        """What would run, and nothing else; writes nothing."""
        chosen = self.choose(LedgerReader(self.out).read().scans)
        checked = self.check(chosen.todo)
        for line in checked.lines():
            self.tell(line)
        return CohortOutcome(self.out, checked=checked)

    def run(
        self,
        lock: CohortLock,
        client: Client | None,
        command: str,
        group: bool,
        sinks: Sequence[CohortSink],
    ) -> Story:
        """Run what is to be run; what the ledger says then."""
        before = LedgerReader(self.out).read()
        for problem in before.problems:
            self.tell(f"ledger: {problem}")
        chosen = self.choose(before.scans)
        checked = self.check(chosen.todo)
        if checked.refused and not checked.scans and not (chosen.finished or chosen.left):
            raise InputError(_all_refused(checked))
        if group:
            check_output(self.out)
        known = _known_rows(self.out / TABLE)
        rows = tuple({row.folder: row for row in (*known, *self.rows)}.values())
        self._write_down(command, rows)
        as_before = rows == known and before.grouped and not chosen.todo
        session = Session(now(), socket.gethostname(), os.getpid(), command, versions())
        with _begun(Ledger(self.out, session, before)) as ledger:
            del before
            self._open(ledger, chosen)
            if group:
                self._describe(rows)
            with Pulse(self.out, ledger, lock) as pulse:
                self._run(checked, ledger, client, [pulse.check, self._recorder(ledger), *sinks])
            if group and not as_before:
                page = write_group(self.out, rows, ledger.story.scans)
                ledger.write_grouped()
                self.tell(f"group level: {page}")
            return ledger.story

    def _run(
        self,
        checked: Preflight,
        ledger: Ledger,
        client: Client | None,
        sinks: Sequence[CohortSink],
    ) -> None:
        """Run the scans that can."""
        waiting = len(checked.scans) + len(checked.refused)
        _tell_all(sinks, CohortStarted(waiting, len(self.rows) - waiting))
        try:
            for folder, error in checked.refused.items():
                _tell_all(sinks, ScanFailed(folder, Step.IMPORT, error, refused=True))
            if not (checked.refused and self.options.stop_on_first_failure):
                self._live(checked.scans, client, sinks)
        finally:
            interrupt_open(ledger)

    def choose(self, known: Mapping[str, Record]) -> Choice:
        """Which scans are to be run."""
        chosen = choose_scans(self.rows, known, self.out, self.options, self._fingerprints)
        if chosen.finished:
            self.tell(f"{len(chosen.finished)} of {len(self.rows)} scans are done already")
        if chosen.changed and self.options.rerun != "all":
            self.tell(
                f"{len(chosen.changed)} scans were done with other files, settings or revisions of "
                "stages; what no longer holds is refused (--overwrite does it again)"
            )
        if chosen.left:
            self.tell(f"{len(chosen.left)} scans are left as they are (--rerun)")
        return chosen

    def check(self, rows: Sequence[ScanRow]) -> Preflight:
        """Headers, companions and bases of the scans to be run."""
        return preflight(
            rows, self.out, basis=self.basis, pipeline=self.pipeline, options=self.options
        )

    def outcome(self, story: Story) -> CohortOutcome:
        """What the scans of the table came to."""
        folders = {row.folder for row in self.rows}
        told = replace(story, scans={f: r for f, r in story.scans.items() if f in folders})
        failures = {record.scan: record.error for record in told.of(*LOST)}
        unusable = tuple(record.scan for record in told.of(State.UNUSABLE))
        return CohortOutcome(self.out, told.counts, failures, unusable)

    @cached_property
    def _fingerprints(self) -> Fingerprints:
        return Fingerprints(self.basis, self.pipeline, self.options)

    def _recorder(self, ledger: Ledger) -> Recorder:
        rows = {row.folder: row for row in self.rows}
        crashes = Crashes(self.out, flags_of(self.basis, self.source, self.options))
        return Recorder(ledger, self.out, rows, self._fingerprints, crashes)

    def _open(self, ledger: Ledger, chosen: Choice) -> None:
        """Write down what a driver that died left open, what is known anew, and what waits."""
        left_open = ledger.story.of(*OPEN)
        ledger.write(*(replace(r, state=State.INTERRUPTED, time="") for r in left_open))
        ledger.write(*chosen.touched)
        ledger.write(*(Record(row.folder, State.WAITING) for row in chosen.todo))

    def _describe(self, rows: Sequence[ScanRow]) -> None:
        """Let the folder say what it is, unless it says so as results of a BIDS dataset."""
        if "DatasetLinks" not in read_description(self.out):
            tops = {row.folder.split("/")[0] for row in rows}
            others = [name for name in tops if not name.startswith("sub-")]
            describe_output(self.out, others=others)

    def _write_down(self, command: str, rows: Sequence[ScanRow]) -> None:
        """Keep the table with all scans of the folder, and the settings of this run."""
        write_table(rows, self.out / TABLE)
        started = now()
        settings = {
            "command": command,
            "started": started,
            "versions": versions(),
            "basis": None if self.basis is None else asdict(self.basis),
            "pipeline": self.pipeline.settings(),
            "options": asdict(self.options),
        }
        write_settings(self.out / LOGS, started[:19].replace(":", "").replace("-", ""), settings)

    def _live(
        self, scans: Sequence[CheckedScan], client: Client | None, sinks: Sequence[CohortSink]
    ) -> None:
        if not scans:
            return
        if self.options.rerun == "all":
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(lambda scan: remove_run(self.out / scan.row.folder), scans))
        with open_where(self.options.scan, scans, self.out, client, self.tell) as where:
            heard = [*sinks, where.heard]
            live(
                where.client,
                map(self._job, scans),
                lambda event: _tell_all(heard, event),
                retries=self.options.retries,
                stop_on_first_failure=self.options.stop_on_first_failure,
                patience=where.patience,
                refill=where.refill,
            )

    def _job(self, scan: CheckedScan) -> ScanJob:
        options = self.options
        out = self.out if is_remote(self.out) else self.out.absolute()
        return ScanJob.of(
            scan.row,
            out,
            scan.pipeline,
            basis_for(scan.row.basis, self.basis),
            options.scan,
            points=options.points,
            keep_personal=options.keep_personal,
            reports=options.reports,
            voxels=scan.voxels,
        )


def _rows(table: str | Path | Sequence[ScanRow]) -> tuple[ScanRow, ...]:
    # A place on an object store is no instance of Path.
    if isinstance(table, str | Path) or hasattr(table, "read_text"):
        return read_table(cast(Path, table))
    rows = tuple(table)
    problems = clashes({row.scan: row for row in rows})
    if problems:
        raise InputError("\n  ".join(problems))
    if not rows:
        raise InputError("a cohort of no scans; give at least one")
    return rows


def _known_rows(path: Path) -> tuple[ScanRow, ...]:
    """Scans that earlier runs wrote down."""
    return read_table(path) if path.is_file() else ()


@contextmanager
def _begun(ledger: Ledger) -> Iterator[Ledger]:
    try:
        yield ledger
    finally:
        ledger.close()


def _tell_all(sinks: Sequence[CohortSink], event: CohortEvent) -> None:
    for sink in sinks:
        sink(event)


def _all_refused(checked: Preflight) -> str:
    folder, error = next(iter(checked.refused.items()))
    if len(checked.refused) == 1:
        return error
    return f"none of {len(checked.refused)} scans can run; the first, {folder}: {error}"


def _silent(line: str) -> None:
    """Tells nobody."""
