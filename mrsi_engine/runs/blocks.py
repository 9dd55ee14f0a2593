"""One scan in three verbs and no cluster: plan, run some blocks, finish.

What an array of jobs of a batch system does: each job takes its share of the blocks, knows of no
other and needs no scheduler. Blocks that a job did not live to do are missing, and the same command
does them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mrsi_engine.choices import AUTO
from mrsi_engine.engine.blocks import Receipt, run_block
from mrsi_engine.engine.devices import check_device
from mrsi_engine.engine.finish import finalise
from mrsi_engine.engine.passes import next_pass, prepare
from mrsi_engine.engine.plan import Plan
from mrsi_engine.engine.window import Failure, attempt
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.import_signals import Progress
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.folder import check_links, result_folder, scan_folder
from mrsi_engine.runs.one_scan import (
    Clock,
    FinishedRun,
    Inputs,
    Options,
    check_scan,
    finish_scan,
    import_once,
    plan_scan,
)


def plan_blocks(
    inputs: Inputs,
    basis: BasisChoice | None,
    pipeline: Pipeline,
    folder: Path,
    options: Options,
    progress: Progress | None = None,
) -> Plan:
    """Import a scan, make its result store and do the passes over it; no block is done.

    Arguments and errors as for :func:`~mrsi_engine.runs.one_scan.process`. The passes are done in
    this process: they read the scan once or twice and fit nothing.
    """
    _, chosen = check_scan(inputs, basis, pipeline, folder, options)
    store = import_once(inputs, scan_folder(folder), options.overwrite, progress)
    planned = plan_scan(store, chosen, pipeline, folder, options)
    planned.store.forget_damaged()
    prepare(planned)
    return planned


def run_blocks(
    folder: Path, share: int, of: int, device: str = AUTO
) -> Iterator[tuple[int, Receipt | Failure]]:
    """Do the blocks of one of ``of`` shares of a planned scan that are not done yet.

    Block ``b`` belongs to share ``b % of``: the shares of all jobs are the whole, whenever each
    begins and whatever the others have done. A block that fails does not stop the others, but a
    full disk does.

    Raises
    ------
    InputError
        If there is no such share, no plan in the folder, or one whose passes are not done.
    """
    if not 0 <= share < of:
        raise InputError(f"share {share} of {of}: shares are counted from 0 to {of - 1}")
    check_device(device, here=True)
    check_links(folder)
    planned = Plan.open(result_folder(folder), device)
    if next_pass(planned) is not None:
        raise InputError(f"{folder}: not prepared to its end; run mrsi blocks plan again")
    for block in planned.store.missing():
        if block % of == share:
            outcome = attempt(partial(run_block, planned, block)).outcome
            yield block, outcome
            if isinstance(outcome, Failure) and outcome.disk_full:
                return


def finish_blocks(folder: Path, options: Options) -> FinishedRun:
    """Maps, tables and report of a scan whose blocks are all done.

    Raises
    ------
    InputError
        If there is no plan in the folder.
    RunError
        If blocks are missing: names them as a batch system takes the numbers of an array.
    """
    check_links(folder)
    clock = Clock()
    with clock("process"):
        planned = Plan.open(result_folder(folder), options.device)
        planned.store.forget_damaged()
        summary = finalise(planned)
    if not summary.finished:
        raise RunError(
            f"{folder}: {len(summary.missing)} of {summary.blocks} blocks are missing: "
            f"{in_ranges(summary.missing)}; run these again, then finish"
        )
    return finish_scan(folder, summary, options, clock)


def in_ranges(numbers: tuple[int, ...]) -> str:
    """Ascending numbers as SLURM's ``--array`` takes them: ``0-3,7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)
