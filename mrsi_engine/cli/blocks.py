"""Commands for jobs that take a share of a scan's blocks each, without Dask."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter

from mrsi_engine.choices import AUTO, DEFAULT_PIPELINE, MIN_USABLE, Fill, TimingMismatch
from mrsi_engine.cli import output
from mrsi_engine.cli.options import FILES, Files
from mrsi_engine.cli.places import Place
from mrsi_engine.errors import UNUSABLE, RunError

blocks_app = App(
    name="blocks",
    help="One scan in three steps for array jobs: plan, run shares of its blocks, finish.",
)


@blocks_app.command(name="plan")
def blocks_plan_command(
    scan: Place,
    /,
    *,
    out: Place,
    basis: str | None = None,
    pipeline: str = DEFAULT_PIPELINE,
    basis_te_mismatch: TimingMismatch = "refuse",
    keep: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    block_size: int | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    files: Files = FILES,
) -> None:
    """Import a scan and prepare its blocks; prints how many there are.

    The same command again continues.

    Parameters
    ----------
    scan
        NIfTI-MRS file.
    out
        Output folder, which the jobs have to see.
    basis
        As for mrsi run.
    pipeline
        Name of a ready-made pipeline or a TOML file.
    basis_te_mismatch
        Whether a basis of another echo time or sequence than the scan's may be used.
    keep
        Signals to store and write as NIfTI-MRS: corrected, fit, baseline.
    block_size
        Voxels a block; results do not depend on it.
    overwrite
        Replace what another run left in the output folder.
    """
    from mrsi_engine.pipeline.pipeline import Pipeline
    from mrsi_engine.runs.bases import BasisChoice
    from mrsi_engine.runs.blocks import plan_blocks
    from mrsi_engine.runs.one_scan import Options

    chosen = BasisChoice(basis, te_mismatch=basis_te_mismatch) if basis else None
    options = Options(workers=0, block_size=block_size, keep=keep, overwrite=overwrite)
    with output.ImportBar() as bar:
        planned = plan_blocks(files.of(scan), chosen, Pipeline.load(pipeline), out, options, bar)
    output.say(str(planned.store.blocks))


@blocks_app.command(name="run")
def blocks_run_command(
    out: Place, share: int, /, *, of: int | None = None, device: str = AUTO
) -> None:
    """Do one block, or one of several shares of all blocks; those that are done are left alone.

    Parameters
    ----------
    out
        Output folder of mrsi blocks plan.
    share
        Number of the block, from 0; with --of the number of the share.
    of
        Into how many shares all blocks are dealt; by default every block is one.
    device
        auto, cpu or cuda.
    """
    from mrsi_engine.engine.plan import Plan
    from mrsi_engine.engine.window import Failure
    from mrsi_engine.runs.blocks import run_blocks
    from mrsi_engine.runs.folder import result_folder

    shares = Plan.open(result_folder(out)).store.blocks if of is None else of
    failed = 0
    for block, outcome in run_blocks(out, share, shares, device):
        if isinstance(outcome, Failure):
            failed += 1
            output.complain(f"block {block}: {outcome.error}")
        else:
            output.say(f"block {block}: {outcome.voxels} voxels in {outcome.seconds:.1f} s")
    if failed:
        sys.exit(RunError.exit_code)


@blocks_app.command(name="finish")
def blocks_finish_command(
    out: Place, /, *, fill: Fill = "nan", min_usable: float = MIN_USABLE
) -> None:
    """Write maps, tables and report once all blocks are done; else say which are missing.

    Parameters
    ----------
    out
        Output folder of mrsi blocks plan.
    fill
        What maps hold where there is no fit: NaN, or what MRSIPrep reads.
    min_usable
        Share of usable voxels below which a run is of no use and the exit code 3.
    """
    from mrsi_engine.runs.blocks import finish_blocks
    from mrsi_engine.runs.one_scan import Options

    outcome = finish_blocks(out, Options(workers=0, fill=fill, min_usable=min_usable).check())
    output.announce(outcome)
    if not outcome.accepted:
        sys.exit(UNUSABLE)
