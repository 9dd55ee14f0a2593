"""Commands for scans: run, import, export, compare."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mrsi_engine.choices import DEFAULT_PIPELINE, MIN_USABLE, Fill, TimingMismatch
from mrsi_engine.cli import output
from mrsi_engine.cli.cohort import cohort_progress, command_line, end_with
from mrsi_engine.cli.options import FILES, WHERE, Files, Where
from mrsi_engine.cli.places import Place
from mrsi_engine.errors import UNUSABLE, InputError

if TYPE_CHECKING:
    from mrsi_engine.runs.bases import BasisChoice
    from mrsi_engine.runs.one_scan import Inputs, Options


def run_command(
    scans: Annotated[tuple[Place, ...], Parameter(consume_multiple=True)],
    /,
    *,
    basis: str | None = None,
    out: Place,
    pipeline: str = DEFAULT_PIPELINE,
    keep: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    fill: Fill = "nan",
    basis_reference: float | None = None,
    basis_conjugate: Annotated[bool, Parameter(negative="")] = False,
    basis_te_mismatch: TimingMismatch = "refuse",
    min_usable: float = MIN_USABLE,
    files: Files = FILES,
    where: Where = WHERE,
) -> None:
    """Import, process, export and report one scan or several.

    The same command again does only what is missing. Several scans are a cohort, see mrsi cohort:
    all headers are read first, and one that fails does not stop the others.

    Parameters
    ----------
    scans
        NIfTI-MRS files. Several get a folder each under --out.
    basis
        LCModel .basis, FSL-MRS JSON folder, jMRUI text, Osprey .mat, or a simulated one, e.g.
        press-3t-te30; needed by pipelines that quantify.
    out
        Output folder.
    pipeline
        Name of a ready-made pipeline or a TOML file; see mrsi pipeline list.
    keep
        Signals to store and write as NIfTI-MRS: corrected, fit, baseline.
    fill
        What maps hold where there is no fit: NaN, or what MRSIPrep reads.
    basis_reference
        Chemical shift (ppm) at 0 Hz of the basis, where its file does not say.
    basis_conjugate
        Turn the frequency axis of the basis round.
    basis_te_mismatch
        Whether a basis of another echo time or sequence than the scan's may be used.
    min_usable
        Share of usable voxels below which a run is of no use and the exit code 3.
    """
    from mrsi_engine.pipeline.pipeline import Pipeline
    from mrsi_engine.runs.bases import BasisChoice
    from mrsi_engine.runs.one_scan import process

    if basis is None and (basis_reference is not None or basis_conjugate):
        raise InputError("--basis-reference and --basis-conjugate say how to read --basis; give it")
    chosen = (
        BasisChoice(basis, basis_reference, basis_conjugate, basis_te_mismatch) if basis else None
    )
    options = where.options(keep, fill, min_usable)
    if len(scans) > 1:
        _run_together([files.of(scan) for scan in scans], out, chosen, pipeline, options, where.log)
        return
    steps = Pipeline.load(pipeline)
    with output.run_progress(where.log) as (sinks, progress):
        outcome = process(
            files.of(scans[0]), chosen, steps, out, options, sinks=sinks, progress=progress
        )
    output.announce(outcome)
    if not outcome.accepted:
        sys.exit(UNUSABLE)


def _run_together(
    inputs: Sequence[Inputs],
    out: Path,
    basis: BasisChoice | None,
    pipeline: str,
    options: Options,
    log: Path | None,
) -> None:
    """Run several scans as a cohort."""
    from mrsi_engine.cohort.options import CohortOptions
    from mrsi_engine.cohort.rows import row_of
    from mrsi_engine.cohort.run import run_cohort

    first = inputs[0]
    with cohort_progress(log) as sinks:
        outcome = run_cohort(
            [row_of(one) for one in inputs],
            out,
            basis=basis,
            pipeline=pipeline,
            options=CohortOptions(options, points=first.points, keep_personal=first.keep_personal),
            command=command_line(),
            sinks=sinks,
            tell=output.note,
        )
    end_with(outcome)


def import_command(
    scan: Place,
    /,
    *,
    out: Place,
    files: Files = FILES,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Import a NIfTI-MRS scan into a chunked store.

    Parameters
    ----------
    scan
        NIfTI-MRS file, .nii or .nii.gz.
    out
        Folder of the store, e.g. scan.zarr.
    overwrite
        Replace a store that is there.
    """
    from mrsi_engine.runs.one_scan import import_once

    with output.ImportBar() as progress:
        store = import_once(files.of(scan), out, overwrite, progress, output.tell_damage)
    output.say_notes(store.notes)
    output.say(
        f"{out}: {store.voxels} voxels of {' x '.join(map(str, store.shape))}, "
        f"{store.acquisition.points} points, mask from {store.mask_origin}"
    )


def export_command(folder: Place, /, *, fill: Fill = "nan") -> None:
    """Write maps, table and report of a finished run again.

    Parameters
    ----------
    folder
        Output folder of the run.
    fill
        What maps hold where there is no fit: NaN, or what MRSIPrep reads.
    """
    from mrsi_engine.io.result_store import open_result
    from mrsi_engine.runs.folder import result_folder
    from mrsi_engine.runs.reporting import export, report_on

    maps = export(open_result(result_folder(folder)), folder, fill)
    report = report_on(folder)
    output.say(f"{len(maps)} maps in {folder / 'maps'}, report {report}")


def compare_command(
    folder: Place,
    /,
    *,
    lcmodel: Place,
    slice_: Annotated[int | None, Parameter(name="--slice")] = None,
    voxel: tuple[int, int] | None = None,
    max_percent_sd: float = 10.0,
    max_fit_quality: float = 3.0,
    max_relative_residual: float = 0.2,
) -> None:
    """Compare a finished run with LCModel's results and add a scatter plot to its report.

    Parameters
    ----------
    folder
        Output folder of the run.
    lcmodel
        LCModel's CSV of many voxels, or .table or .coord of one.
    slice_
        Which slice (z, counted from 0) LCModel analysed, where the scan has several.
    voxel
        Which voxel (x and y, counted from 0) a .table or .coord is of, where the scan has several.
    max_percent_sd
        Largest %SD of LCModel for a voxel to count.
    max_fit_quality
        Largest fit quality (1 is noise alone) for a voxel of ours to count, ...
    max_relative_residual
        ... or largest relative residual: the noise of filtered data cannot be measured.
    """
    from mrsi_engine.runs.reporting import compare_run

    comparison = compare_run(
        folder,
        lcmodel,
        max_percent_sd=max_percent_sd,
        max_fit_quality=max_fit_quality,
        max_relative_residual=max_relative_residual,
        z=slice_,
        voxel=voxel,
    )
    output.out_console.print(output.comparison_table(comparison))
