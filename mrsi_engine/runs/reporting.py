"""What a finished run is written and drawn as, once more if need be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import xarray as xr

from mrsi_engine.choices import Fill
from mrsi_engine.conventions import Acquisition
from mrsi_engine.engine.revisit import detail_voxels, repeat_voxels, trace_voxels
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.fit.settings import FitSettings
from mrsi_engine.io.lcmodel_results import read_lcmodel
from mrsi_engine.io.maps import export_maps
from mrsi_engine.io.result_store import ResultStore, in_memory
from mrsi_engine.io.signals import export_signals, signals_of
from mrsi_engine.io.tables import Tissue, write_table
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.trace import StageTrace
from mrsi_engine.report.compare import Comparison, compare_with_lcmodel
from mrsi_engine.report.examples import (
    SpectrumExample,
    choose_examples,
    example_voxels,
    spectrum_example,
    with_components,
)
from mrsi_engine.report.html import write_report
from mrsi_engine.report.tables import nucleus_of
from mrsi_engine.report.truth import TruthRow
from mrsi_engine.runs.folder import REPORT, check_links
from mrsi_engine.runs.opened import OpenedRun, open_run
from mrsi_engine.stages.quantify import Quantify


def export(result: xr.Dataset, folder: Path, fill: Fill) -> list[Path]:
    """Maps, the voxel table and, where they were kept, the signals of a result.

    Raises
    ------
    DamagedError
        If a file of the result store is missing or damaged; nothing is written then.
    InputError
        If a link leads out of the folder.
    """
    check_links(folder)
    ResultStore.open(result.encoding["source"]).check()
    return write_exports(in_memory(result), folder, fill)


def write_exports(
    result: xr.Dataset, folder: Path, fill: Fill, tissue: Tissue | None = None
) -> list[Path]:
    """Maps, table and signals of a result that is known to be whole; its tissue is read if None."""
    maps = export_maps(result, folder / "maps", fill=fill)
    write_table(result, folder / "voxels.parquet", tissue)
    if signals_of(result):
        export_signals(result, folder / "signals")
    return maps


def report_on(
    folder: Path,
    *,
    run: OpenedRun | None = None,
    timings: Mapping[str, float] | None = None,
    truth: Sequence[TruthRow] | None = None,
    comparison: Comparison | None = None,
) -> Path:
    """Write the report of a finished run; a few voxels are processed again to be drawn.

    ``run`` is what stands in the folder, opened here unless given; ``timings`` are those of the
    stored sessions unless given. Where voxels cannot be processed again, because the scan store is
    gone or an older version made the results, the report says so.

    Raises
    ------
    DamagedError
        If a file of the result store is missing or damaged.
    InputError
        If a link leads out of the folder.
    """
    run = run or open_run(folder)
    examples: list[SpectrumExample] = []
    traces: tuple[StageTrace, ...] = ()
    remarks = []
    try:
        examples, traces = fitted_examples(run), traced_examples(run)
    except (InputError, RunError) as error:
        remarks.append(f"No spectra are drawn, as their voxels cannot be processed again: {error}")
    return write_report(
        run.result,
        folder / REPORT,
        examples=examples,
        timings=timings or _stored_timings(run.result),
        truth_table=truth,
        comparison=comparison,
        traces=traces,
        remarks=remarks,
    )


def _stored_timings(result: xr.Dataset) -> dict[str, float]:
    sessions = result.attrs.get("timings", [])
    return {"process": sum(session["seconds"] for session in sessions)} if sessions else {}


def fitted_examples(run: OpenedRun) -> list[SpectrumExample]:
    """Spectra of the best, median and worst voxel with their fits, for the report.

    The median one comes with its individual metabolites. Fitting voxels again costs milliseconds;
    keeping every signal would cost a scan's size.
    """
    result, chosen = run.result, choose_examples(run.result)
    voxels = sorted(set(chosen.values()))
    if not voxels:
        return []
    signals = repeat_voxels(run.store, run.scan, voxels).signals
    pipeline = Pipeline.from_settings(result.attrs["pipeline"])
    window = _fit_window(pipeline, result)
    drawn = [n for n in ("corrected", "fit", "baseline") if n in signals and signals[n].ndim == 2]
    if not {"corrected", "fit"} <= {*drawn}:
        return []
    examples = {
        name: spectrum_example(
            result,
            voxel,
            {signal: signals[signal][voxels.index(voxel)] for signal in drawn},
            f"{name.capitalize()} voxel",
            window,
        )
        for name, voxel in chosen.items()
    }
    if any(isinstance(stage, Quantify) for stage in pipeline.stages):
        median = chosen["median"]
        details = detail_voxels(run.store, run.scan, [median])
        examples["median"] = with_components(examples["median"], result, median, details)
    return list(examples.values())


def traced_examples(run: OpenedRun) -> tuple[StageTrace, ...]:
    """The voxels that the report shows before and after each stage; empty where there is none."""
    voxels = list(example_voxels(run.result))
    return trace_voxels(run.store, run.scan, voxels) if voxels else ()


def compare_run(
    folder: Path,
    table: Path,
    *,
    max_percent_sd: float = 10.0,
    max_fit_quality: float = 3.0,
    max_relative_residual: float = 0.2,
    z: int | None = None,
    voxel: tuple[int, int] | None = None,
) -> Comparison:
    """Compare a finished run with LCModel's table, and put the comparison into its report.

    Arguments as for :func:`~mrsi_engine.report.compare.compare_with_lcmodel`.
    """
    run = open_run(folder)
    result = run.result
    comparison = compare_with_lcmodel(
        result,
        read_lcmodel(table, nucleus_of(result).symbol),
        max_percent_sd=max_percent_sd,
        max_fit_quality=max_fit_quality,
        max_relative_residual=max_relative_residual,
        z=z,
        voxel=voxel,
    )
    report_on(folder, run=run, comparison=comparison)
    return comparison


def _fit_window(pipeline: Pipeline, result: xr.Dataset) -> tuple[float, float]:
    axis = Acquisition(**result.attrs["acquisition"])
    fits = (s.window(axis) for s in pipeline.stages if isinstance(s, FitSettings))
    return next(fits, nucleus_of(result).windows.drawn)
