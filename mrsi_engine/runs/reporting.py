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
from mrsi_engine.io.result_store import ResultStore, open_result
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.io.signals import export_signals, signals_of
from mrsi_engine.io.tables import write_table
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.trace import StageTrace
from mrsi_engine.report.compare import Comparison, compare_with_lcmodel
from mrsi_engine.report.examples import (
    SpectrumExample,
    choose_examples,
    example_voxels,
    stored_examples,
    with_components,
)
from mrsi_engine.report.html import write_report
from mrsi_engine.report.tables import nucleus_of
from mrsi_engine.report.truth import TruthRow
from mrsi_engine.runs.folder import check_links, result_folder, scan_folder
from mrsi_engine.stages.quantify import Quantify

#: Signals the report draws; recomputed for a few voxels, so that they need not be stored.
_DRAWN = ("corrected", "fit", "baseline")


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
    maps = export_maps(result, folder / "maps", fill=fill)
    write_table(result, folder / "voxels.parquet")
    if signals_of(result):
        export_signals(result, folder / "signals")
    return maps


def report_on(
    folder: Path,
    *,
    timings: Mapping[str, float] | None = None,
    truth: Sequence[TruthRow] | None = None,
    comparison: Comparison | None = None,
) -> Path:
    """Write the report of a finished run; a few voxels are processed again to be drawn.

    ``timings`` are those of the stored sessions unless given. Where voxels cannot be processed
    again, because the scan store is gone or an older version made the results, the report says so.

    Raises
    ------
    DamagedError
        If a file of the result store is missing or damaged.
    InputError
        If a link leads out of the folder.
    """
    check_links(folder)
    result = open_result(result_folder(folder))
    examples: list[SpectrumExample] = []
    traces: tuple[StageTrace, ...] = ()
    remarks = []
    try:
        examples, traces = fitted_examples(folder), traced_examples(folder)
    except (InputError, RunError) as error:
        remarks.append(f"No spectra are drawn, as their voxels cannot be processed again: {error}")
    return write_report(
        result,
        folder / "report.html",
        examples=examples,
        timings=timings or _stored_timings(result),
        truth_table=truth,
        comparison=comparison,
        traces=traces,
        remarks=remarks,
    )


def _stored_timings(result: xr.Dataset) -> dict[str, float]:
    sessions = result.attrs.get("timings", [])
    return {"process": sum(session["seconds"] for session in sessions)} if sessions else {}


def fitted_examples(folder: Path) -> list[SpectrumExample]:
    """Spectra of the best, median and worst voxel with their fits, for the report.

    The median one comes with its individual metabolites. Fitting voxels again costs milliseconds;
    keeping every signal would cost a scan's size.
    """
    result = open_result(result_folder(folder))
    voxels = sorted(set(choose_examples(result).values()))
    if not voxels:
        return []
    scan = ScanStore.open(scan_folder(folder))
    store = ResultStore.open(result_folder(folder))
    signals = repeat_voxels(store, scan, voxels).signals
    few = result.isel(voxel=voxels).drop_vars(signals, errors="ignore")
    drawn = {n: (("voxel", "time"), s) for n, s in signals.items() if s.ndim == 2}
    pipeline = Pipeline.from_settings(few.attrs["pipeline"])
    examples = stored_examples(few.assign(drawn), _fit_window(pipeline, result))
    if not any(isinstance(stage, Quantify) for stage in pipeline.stages):
        return examples
    median = choose_examples(result)["median"]
    details = detail_voxels(store, scan, [median])
    return [
        with_components(e, result, median, details) if e.title == "Median voxel" else e
        for e in examples
    ]


def traced_examples(folder: Path) -> tuple[StageTrace, ...]:
    """The voxels that the report shows before and after each stage; empty where there is none."""
    result = open_result(result_folder(folder))
    voxels = list(example_voxels(result))
    if not voxels:
        return ()
    scan, store = ScanStore.open(scan_folder(folder)), ResultStore.open(result_folder(folder))
    return trace_voxels(store, scan, voxels)


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
    result = open_result(result_folder(folder))
    comparison = compare_with_lcmodel(
        result,
        read_lcmodel(table, nucleus_of(result).symbol),
        max_percent_sd=max_percent_sd,
        max_fit_quality=max_fit_quality,
        max_relative_residual=max_relative_residual,
        z=z,
        voxel=voxel,
    )
    report_on(folder, comparison=comparison)
    return comparison


def _fit_window(pipeline: Pipeline, result: xr.Dataset) -> tuple[float, float]:
    axis = Acquisition(**result.attrs["acquisition"])
    fits = (s.window(axis) for s in pipeline.stages if isinstance(s, FitSettings))
    return next(fits, nucleus_of(result).windows.drawn)
