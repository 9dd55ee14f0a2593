"""Command for the scans of a table: cohort; and what commands for many scans share."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mrsi_engine.cli import output
from mrsi_engine.cli.cohort_options import SCANS, Scans
from mrsi_engine.cli.options import WHERE, Where
from mrsi_engine.cli.places import Place

if TYPE_CHECKING:
    from mrsi_engine.cohort.events import CohortSink
    from mrsi_engine.cohort.run import CohortOutcome


def cohort_command(
    table: Place,
    /,
    *,
    out: Place,
    scans: Scans = SCANS,
    where: Where = WHERE,
) -> None:
    """Run every scan of a table, then make tables, voxels and a page of all.

    The same command again does what is missing and what failed. One scan that fails stops no other:
    the exit code is 0 if all are done, 1 if some failed, 2 for wrong input, 3 if all are done and
    none is of use. mrsi status says how far it is.

    Parameters
    ----------
    table
        TSV or CSV, a line a scan. Column scan is needed; subject, session, mask, water, tissue,
        scalp, basis and pipeline are known; any other is metadata that travels into the tables.
    out
        Folder of the cohort.
    """
    from mrsi_engine.cohort.run import run_cohort

    basis, options = scans.choice(), scans.options(where)
    with cohort_progress(where.log, scans.metrics) as sinks:
        outcome = run_cohort(
            table,
            out,
            basis=basis,
            pipeline=scans.pipeline,
            options=options,
            command=command_line(),
            sinks=sinks,
            tell=output.say if options.dry_run else output.note,
        )
    end_with(outcome)


def end_with(outcome: CohortOutcome) -> None:
    """Say what became of the scans, and exit with the code that says so."""
    if outcome.checked is None:
        say_outcome(outcome)
    if outcome.exit_code:
        sys.exit(outcome.exit_code)


def command_line() -> str:
    """What the user typed."""
    return shlex.join(["mrsi", *sys.argv[1:]])


@contextmanager
def cohort_progress(log: Path | None, metrics: Path | None = None) -> Iterator[list[CohortSink]]:
    """Sinks that draw a cohort: a bar in a terminal, a line a scan elsewhere; its log, figures."""
    from mrsi_engine.cli.cohort_progress import CohortBar, CohortLines
    from mrsi_engine.cohort.metrics import Metrics
    from mrsi_engine.engine.progress import JsonLines

    logs: list[CohortSink] = [] if log is None else [JsonLines(log)]
    with ExitStack() as stack:
        if metrics is not None:
            logs.append(stack.enter_context(Metrics(metrics)))
        if output.err_console.is_terminal:
            yield [stack.enter_context(CohortBar(output.err_console)), *logs]
        else:
            yield [CohortLines(output.say), *logs]


def say_outcome(outcome: CohortOutcome) -> None:
    """Scans that failed or are of no use, and last the counts."""
    from mrsi_engine.cohort.crash import CRASH, crash_name
    from mrsi_engine.cohort.status import counts_in_words

    for scan, error in outcome.failures.items():
        output.say(f"  failed: {scan}: {error}")
    for scan in outcome.unusable:
        output.say(f"  of no use: {scan}")
    if outcome.failures:
        example = outcome.out / CRASH / crash_name(next(iter(outcome.failures)))
        output.say(f"why, and how to repeat one alone: {example}, and the folders beside it")
    output.say(counts_in_words(outcome.counts))
