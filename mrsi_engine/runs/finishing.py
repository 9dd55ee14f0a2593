"""The last step of a scan: what is noted of its results, and what is written of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xarray as xr

from mrsi_engine.choices import Reports
from mrsi_engine.engine.finish import Summary
from mrsi_engine.io.result_store import open_result
from mrsi_engine.report.summary import write_summary
from mrsi_engine.report.truth import result_truth_table
from mrsi_engine.report.verdict import Verdict, verdict_on
from mrsi_engine.runs.delay import unstated_delay
from mrsi_engine.runs.folder import REPORT, remove_killed_exports, result_folder
from mrsi_engine.runs.opened import OpenedRun, open_run
from mrsi_engine.runs.options import Options
from mrsi_engine.runs.reporting import report_on, write_exports


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run left: its stores, files, and seconds by step.

    ``accepted`` says whether enough of it is usable; ``report`` is ``None`` where none was asked
    for. ``row`` is the scan's row of the group table.
    """

    folder: Path
    summary: Summary
    report: Path | None
    maps: list[Path]
    verdict: Verdict
    accepted: bool
    timings: Mapping[str, float] = field(default_factory=dict)
    row: Mapping[str, object] = field(default_factory=dict)

    @property
    def result(self) -> xr.Dataset:
        """The results, opened anew."""
        return open_result(result_folder(self.folder))


class Clock:
    """Seconds by step, in the order the steps were taken."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time what is done inside as a step."""
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started


def finish_scan(
    folder: Path,
    summary: Summary,
    options: Options,
    clock: Clock,
    *,
    truth: Mapping[str, np.ndarray] | None = None,
    reports: Reports = "all",
) -> FinishedRun:
    """What follows once all blocks of a scan are done: delay, verdict, maps, table and report.

    Stores are opened once. A report that is left out can be made later by ``mrsi export``; one of
    an earlier run is deleted then, as its numbers may be others.

    Parameters
    ----------
    summary
        What :func:`~mrsi_engine.engine.finish.finalise` said.
    clock
        Of the steps so far; the report shows them.
    truth
        Known amplitudes ``(x, y, z)`` by label, for the report.
    reports
        ``"flagged"`` makes one only where the verdict has more to say than how many are usable.

    Raises
    ------
    DamagedError
        If a file of the result store is missing or damaged; nothing is written then.
    RunError
        If a file cannot be written.
    """
    run = open_run(folder, signals=True)
    verdict = note_verdict(run)
    accepted = verdict.accepted(options.min_usable)
    with clock("export"):
        remove_killed_exports(folder)
        maps = write_exports(run.result, folder, options.fill, run.tissue)
    report = None
    if reports == "all" or (reports == "flagged" and is_flagged(verdict, accepted)):
        rows = result_truth_table(run.result, truth) if truth else None
        report = report_on(folder, run=run, timings=clock.seconds, truth=rows)
    else:
        (folder / REPORT).unlink(missing_ok=True)
    # Last: where it is, all the rest is.
    row = write_summary(folder, run.result, run.tissue)
    return FinishedRun(folder, summary, report, maps, verdict, accepted, clock.seconds, row)


def note_verdict(run: OpenedRun) -> Verdict:
    """Keep what is said of a result, and the delay of its FIDs, among its attributes.

    ``unstated_delay_ms`` is how much later FIDs begin than header and basis say, 0 where that is
    not sure.
    """
    known = run.result.attrs.get("unstated_delay_ms")
    delay = unstated_delay(run) if known is None else known
    verdict = verdict_on(run.result.assign_attrs(unstated_delay_ms=delay))
    run.annotate(unstated_delay_ms=delay, verdict=verdict.attributes())
    return verdict


def is_flagged(verdict: Verdict, accepted: bool) -> bool:
    """Whether somebody should look at a scan before its numbers are used."""
    return not accepted or bool(verdict.advice or verdict.remarks)
