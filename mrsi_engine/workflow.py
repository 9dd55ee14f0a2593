"""One scan from file to report: what ``mrsi run`` and ``mrsi demo`` do, as functions."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from mrsi_engine.conventions import Acquisition
from mrsi_engine.engine.blocks import Summary, detail_voxels, plan, repeat_voxels, trace_voxels
from mrsi_engine.engine.clusters import warm_up
from mrsi_engine.engine.devices import AUTO, check_device, device_here, gpu_workers
from mrsi_engine.engine.driver import PROCESSES_FROM, run
from mrsi_engine.engine.events import Sink
from mrsi_engine.engine.recipe import recipe_for
from mrsi_engine.engine.voxels import Layout
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.basis_cache import cached_basis
from mrsi_engine.io.basis_files import read_basis
from mrsi_engine.io.importing import changed_since, import_scan, signal_dimensions
from mrsi_engine.io.lcmodel_results import read_lcmodel_csv
from mrsi_engine.io.maps import export_maps
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader, read_header, stem_of
from mrsi_engine.io.phantom_files import write_phantom
from mrsi_engine.io.result_store import ResultStore, is_result_store, open_result
from mrsi_engine.io.scan_store import ScanStore, is_scan_store
from mrsi_engine.io.signals import export_signals
from mrsi_engine.io.tables import write_table
from mrsi_engine.networks import training
from mrsi_engine.networks.fpc import FpcRecipe, train_fpc
from mrsi_engine.networks.fpc_signals import MixtureSettings, MixtureSource, Source, TransientSource
from mrsi_engine.networks.model import REPORT, Model, load_model, save_model
from mrsi_engine.networks.quantifier import RealSignals, Recipe, train_quantifier
from mrsi_engine.networks.recipes import AnyRecipe
from mrsi_engine.networks.simulation import Simulator
from mrsi_engine.report.compare import Comparison, compare_with_lcmodel
from mrsi_engine.report.examples import (
    DEFAULT_WINDOW,
    SpectrumExample,
    choose_examples,
    example_voxels,
    stored_examples,
    with_components,
)
from mrsi_engine.report.html import write_report
from mrsi_engine.report.training import write_training_report
from mrsi_engine.report.truth import TruthRow, result_truth_table
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.spectra.phantom import Phantom, PhantomSettings, make_phantom
from mrsi_engine.spectra.simulation import BASIS_NAME_FORM, parse_basis_name
from mrsi_engine.stages.base import Context
from mrsi_engine.stages.calibration import calibrated
from mrsi_engine.stages.fit_settings import FitSettings
from mrsi_engine.stages.pipeline import Pipeline
from mrsi_engine.stages.quantify import Quantify
from mrsi_engine.stages.trace import StageTrace

DEFAULT_PIPELINE = "brain-1h-3t"

#: Signals the report draws; recomputed for a few voxels, so that they need not be stored.
_DRAWN = ("corrected", "fit", "baseline")

#: Echo time (s) from which macromolecules have decayed and are not added to a simulated basis.
_LONG_ECHO = 0.1

#: Field (MHz) up to which the measured 3 T pattern stands for the macromolecules.
_PATTERN_MHZ = (110.0, 140.0)

_PHANTOM_BASIS = "press-3t-te30"
_PHANTOM_POINTS, _PHANTOM_DWELL = 1024, 0.4e-3

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Inputs:
    """The files of one scan. ``tissue`` is a 4-D file named by ``classes``, or a file a class."""

    scan: Path
    mask: Path | None = None
    water: Path | None = None
    tissue: Path | Mapping[str, Path] | None = None
    tissue_classes: tuple[str, ...] = ()
    scalp: Path | None = None
    points: int | None = None

    def import_settings(self) -> dict[str, Any]:
        """What :func:`~mrsi_engine.io.importing.import_scan` takes beside scan and store."""
        return {
            "mask": self.mask,
            "water": self.water,
            "tissue": self.tissue,
            "tissue_classes": self.tissue_classes,
            "scalp": self.scalp,
            "points": self.points,
        }


@dataclass(frozen=True)
class BasisChoice:
    """A basis by file, folder or name, and what a file does not say."""

    source: str
    reference_ppm: float | None = None
    conjugate: bool = False


@dataclass(frozen=True)
class Options:
    """How to run: where, in what blocks, and what to keep."""

    workers: int | None = None
    scheduler: str | None = None
    threads_per_worker: int = 1
    block_size: int | None = None
    device: str = AUTO
    keep: tuple[str, ...] = ()
    fill: Literal["nan", "mrsiprep"] = "nan"
    overwrite: bool = False

    def check(self) -> Options:
        """These options, once they are known to say a possible way to run.

        Raises
        ------
        InputError
            If a number is too small, two places to run are given, there is no such device, or more
            workers than GPUs, or what hands those out is not installed.
        """
        for name, least in (("workers", 0), ("threads_per_worker", 1), ("block_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, expected at least {least}")
        if self.workers is not None and self.scheduler is not None:
            raise InputError("workers and scheduler both say where to run; give one of them")
        check_device(self.device, here=self.scheduler is None)
        if self.scheduler is None:
            gpu_workers(self.device, self.workers)
        return self


@dataclass(frozen=True)
class Outcome:
    """What a finished run left: its stores, files, and seconds by step."""

    folder: Path
    summary: Summary
    report: Path
    maps: list[Path]
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def result(self) -> xr.Dataset:
        """The results, opened anew."""
        return open_result(result_folder(self.folder))


def scan_folder(folder: Path) -> Path:
    """Where a run keeps its scan store."""
    return folder / "scan.zarr"


def result_folder(folder: Path) -> Path:
    """Where a run keeps its result store."""
    return folder / "result.zarr"


def process(
    inputs: Inputs,
    basis: BasisChoice | None,
    pipeline: Pipeline,
    folder: Path,
    options: Options,
    *,
    sinks: Sequence[Sink] = (),
    progress: Progress | None = None,
    truth: Mapping[str, np.ndarray] | None = None,
) -> Outcome:
    """Import, process, export and report one scan; continues what an earlier call left undone.

    Parameters
    ----------
    basis
        May be left out where no stage of the pipeline needs one.
    folder
        Gets ``scan.zarr``, ``result.zarr``, ``maps/``, ``voxels.parquet`` and ``report.html``.
    sinks
        Told of every block.
    progress
        Told of every time point that is imported.
    truth
        Known amplitudes ``(x, y, z)`` by label, for the report.

    Raises
    ------
    InputError
        If any input is wrong, or the folder holds another run and ``overwrite`` was not asked for.
    RunError
        If the run failed; what was done is kept.
    """
    clock = _Clock()
    options.check()
    _check_folder(folder)
    with clock("basis"):
        header = read_header(inputs.scan)
        chosen = _suited_basis(basis, pipeline, inputs, header, options)
    _warm_up(header, options)
    with clock("import"):
        store = imported(inputs, scan_folder(folder), options.overwrite, progress)
    with clock("process"):
        summary = _processed(store, chosen, pipeline, folder, options, sinks)
    result = open_result(result_folder(folder))
    with clock("export"):
        maps = export(result, folder, options.fill)
    rows = result_truth_table(result, truth) if truth else None
    report = report_on(folder, timings=clock.seconds, truth=rows)
    return Outcome(folder, summary, report, maps, clock.seconds)


def _suited_basis(
    choice: BasisChoice | None,
    pipeline: Pipeline,
    inputs: Inputs,
    header: NIfTIMRSHeader,
    options: Options,
) -> Basis | None:
    """The basis, once it, the scan's axis and the pipeline are known to fit each other.

    Said before the import, which can take minutes and would have to be replaced.
    """
    acquisition = _axis(inputs, header)
    basis = None if choice is None else load_basis(choice, acquisition)
    recipe_for(acquisition, pipeline, basis, options.keep, layout=_layout(inputs, header))
    return basis


def _layout(inputs: Inputs, header: NIfTIMRSHeader) -> Layout:
    water = None if inputs.water is None else read_header(inputs.water).acquisition
    by_file = inputs.tissue if isinstance(inputs.tissue, Mapping) else None
    return Layout(
        tuple(signal_dimensions(header).items()),
        water is not None,
        inputs.scalp is not None,
        inputs.tissue_classes if by_file is None else tuple(by_file),
        None if water is None else water.echo_time,
        None if water is None else water.repetition_time,
    )


def _axis(inputs: Inputs, header: NIfTIMRSHeader) -> Acquisition:
    acquisition = header.acquisition
    possible = inputs.points is not None and 2 <= inputs.points <= acquisition.points
    # An impossible number of points is refused by the import, with what the file holds.
    return acquisition.with_points(inputs.points or 0) if possible else acquisition


def _warm_up(header: NIfTIMRSHeader, options: Options) -> None:
    """Let worker processes import what they need while the scan is imported."""
    local = options.workers != 0 and options.scheduler is None
    if local and math.prod(header.grid.shape) >= PROCESSES_FROM:
        warm_up()


def _processed(
    store: ScanStore,
    basis: Basis | None,
    pipeline: Pipeline,
    folder: Path,
    options: Options,
    sinks: Sequence[Sink],
) -> Summary:
    planned = plan(
        store.path,
        pipeline,
        basis,
        result_folder(folder),
        block_size=options.block_size,
        keep_signals=options.keep,
        overwrite=options.overwrite,
        device=options.device,
    )
    if options.overwrite:
        _remove_exports(folder)
    done = run(
        planned,
        workers=options.workers,
        scheduler=options.scheduler,
        threads_per_worker=options.threads_per_worker,
        sinks=sinks,
    )
    return done.summary


def _remove_exports(folder: Path) -> None:
    """Delete what an earlier run exported: maps of its own metabolites would stay otherwise."""
    for kept in ("maps", "signals"):
        for file in (folder / kept).glob("*_mrsi.*"):
            file.unlink()
    for name in ("voxels.parquet", "report.html"):
        (folder / name).unlink(missing_ok=True)


def imported(
    inputs: Inputs, target: Path, overwrite: bool = False, progress: Progress | None = None
) -> ScanStore:
    """The scan store of these files, imported unless it is there already.

    Raises
    ------
    InputError
        If ``target`` was made from other files or settings and ``overwrite`` is not set.
    """
    settings = inputs.import_settings()
    if is_scan_store(target) and not overwrite:
        store = ScanStore.open(target)
        changed = changed_since(store, inputs.scan, **settings)
        if not changed:
            return store
        raise InputError(
            f"{target}: imported from other files or with other settings (its scan was "
            f"{store.source}); changed since: {', '.join(changed)}. Give another --out, or "
            "--overwrite to replace it"
        )
    store = import_scan(inputs.scan, target, overwrite=overwrite, progress=progress, **settings)
    for leftover in _killed_imports(target):
        shutil.rmtree(leftover, ignore_errors=True)
    return store


def _killed_imports(target: Path) -> list[Path]:
    """What imports into this store left that did not live to clean up."""
    return list(target.parent.glob(f".{target.name}.*.partial"))


def load_basis(choice: BasisChoice, acquisition: Acquisition) -> Basis:
    """The basis a user named: a file, a folder, or the name of a simulated one.

    A simulated basis is made for the scan's axis, once, and has macromolecules: the measured
    pattern at 3 T, single lines at other fields, none at echo times of 100 ms or more.

    Raises
    ------
    InputError
        If there is no such file and the name is not of a simulated basis, the basis is wrong, or
        something is said of a simulated basis that only a file can leave open.
    """
    if not Path(choice.source).exists():
        settings = parse_basis_name(choice.source)
        if settings is None:
            raise InputError(
                f"{choice.source}: no such basis file or folder, and not the name of a simulated "
                f"basis ({BASIS_NAME_FORM})"
            )
        if choice.reference_ppm is not None or choice.conjugate:
            raise InputError(
                f"{choice.source}: a simulated basis knows its reference and its frequency axis; "
                "leave out --basis-reference and --basis-conjugate"
            )
        return completed(cached_basis(settings.for_scan(acquisition)))
    return read_basis(choice.source, reference_ppm=choice.reference_ppm, conjugate=choice.conjugate)


def completed(basis: Basis) -> Basis:
    """A simulated basis with the macromolecules its field and echo time call for."""
    echo_time = basis.acquisition.echo_time or 0.0
    if basis.macromolecules or (basis.sequence != "fid" and echo_time >= _LONG_ECHO):
        return basis
    low, high = _PATTERN_MHZ
    at_3t = low < basis.acquisition.spectrometer_frequency < high
    return with_macromolecules(basis, "pattern" if at_3t else "lines")


def export(result: xr.Dataset, folder: Path, fill: Literal["nan", "mrsiprep"]) -> list[Path]:
    """Maps, the voxel table and, where they were kept, the signals of a result."""
    maps = export_maps(result, folder / "maps", fill=fill)
    write_table(result, folder / "voxels.parquet")
    if any(name in result for name in _DRAWN):
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
    """
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
    examples = stored_examples(few.assign(drawn), _fit_window(pipeline))
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


def simulate_scan(
    folder: Path, settings: PhantomSettings, basis: BasisChoice | None = None
) -> Phantom:
    """Simulate a scan with known truth and write it to ``folder`` as NIfTI-MRS.

    Parameters
    ----------
    basis
        What the spectra are made of; PRESS, TE 30 ms at 3 T by default.

    Raises
    ------
    InputError
        If a setting or the basis is wrong, or the folder holds files that are no simulated scan,
        some of which could have the same names.
    """
    if folder.exists() and not (folder / "truth").is_dir():
        _check_empty(folder, "files that are not of a simulated scan")
    named = parse_basis_name(_PHANTOM_BASIS)
    assert named is not None
    axis = replace(named, points=_PHANTOM_POINTS, dwell_time=_PHANTOM_DWELL).acquisition
    phantom = make_phantom(settings, load_basis(basis or BasisChoice(_PHANTOM_BASIS), axis), axis)
    write_phantom(phantom, folder)
    return phantom


def demo(
    folder: Path,
    settings: PhantomSettings,
    options: Options,
    *,
    sinks: Sequence[Sink] = (),
    progress: Progress | None = None,
) -> tuple[Outcome, list[TruthRow]]:
    """Simulate a brain, run the default pipeline on it, and compare with the truth.

    The simulated files go to ``scan`` in the folder; else see :func:`process`.
    """
    options.check()
    _check_folder(folder)
    phantom = simulate_scan(folder / "scan", settings)
    inputs = Inputs(
        scan=folder / "scan" / "scan.nii.gz",
        mask=folder / "scan" / "mask.nii.gz",
        water=folder / "scan" / "water.nii.gz",
        tissue={name: folder / "scan" / f"{name}.nii.gz" for name in phantom.tissue},
        scalp=folder / "scan" / "scalp.nii.gz" if settings.nuisance in ("lipid", "all") else None,
    )
    outcome = process(
        inputs,
        BasisChoice(_PHANTOM_BASIS),
        Pipeline.load(DEFAULT_PIPELINE),
        folder,
        options,
        sinks=sinks,
        progress=progress,
        truth=phantom.truth,
    )
    return outcome, result_truth_table(outcome.result, phantom.truth)


def compared(
    folder: Path,
    table: Path,
    *,
    max_percent_sd: float = 10.0,
    max_fit_quality: float = 3.0,
    max_relative_residual: float = 0.2,
) -> Comparison:
    """Compare a finished run with LCModel's table, and put the comparison into its report."""
    comparison = compare_with_lcmodel(
        open_result(result_folder(folder)),
        read_lcmodel_csv(table),
        max_percent_sd=max_percent_sd,
        max_fit_quality=max_fit_quality,
        max_relative_residual=max_relative_residual,
    )
    report_on(folder, comparison=comparison)
    return comparison


def folders_of(scans: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The output folder of each scan: ``out`` for one, a folder by its name for each of several.

    Raises
    ------
    InputError
        If two scans would get the same folder.
    """
    if len(scans) == 1:
        return {scans[0]: out}
    folders = {scan: out / stem_of(scan) for scan in scans}
    twice = [str(s) for s in scans if list(folders.values()).count(folders[s]) > 1]
    if twice:
        raise InputError(f"{', '.join(twice)}: same name, so same output folder; run them apart")
    return folders


def train(
    folder: Path,
    recipe: AnyRecipe,
    basis: BasisChoice | None,
    *,
    pipeline: Pipeline | None = None,
    scan: Path | None = None,
    start: str | None = None,
    resume: bool = False,
    device: str = AUTO,
    on_point: Callable[[training.Progress], None] | None = None,
) -> tuple[Model, training.Progress]:
    """Train a network and write it to a folder, with a report.

    Parameters
    ----------
    recipe
        For quantification, or for frequency and phase correction.
    basis
        May be left out where the recipe simulates without one.
    pipeline
        Whose fit the error bars of a quantification model are calibrated for, if its recipe asks
        for that; the default one if not given.
    scan
        Output folder of a run that kept its corrected signals, or a scan store without water, to
        learn from instead of simulated signals.
    start
        Folder or name of a model whose weights this one begins with.
    resume
        Go on from the folder's checkpoint.

    Raises
    ------
    InputError
        If recipe, basis, scan, start and folder do not go together.
    """
    check_device(device, here=True)
    here = device_here(device)
    if isinstance(recipe, FpcRecipe):
        source = _fpc_source(recipe, basis, scan, start)
        model, progress = train_fpc(
            recipe, source, folder, resume=resume, device=here, on_point=on_point
        )
    else:
        model, progress = _trained_quantifier(
            folder, recipe, basis, scan, start, resume=resume, device=here, on_point=on_point
        )
        if recipe.calibration:
            model = calibrate(folder, pipeline or Pipeline.load(DEFAULT_PIPELINE), device=here)
    write_training_report(model.card, folder / REPORT)
    return model, progress


def _trained_quantifier(
    folder: Path,
    recipe: Recipe,
    basis: BasisChoice | None,
    scan: Path | None,
    start: str | None,
    *,
    resume: bool,
    device: torch.device,
    on_point: Callable[[training.Progress], None] | None,
) -> tuple[Model, training.Progress]:
    if basis is None:
        raise InputError(f"recipe {recipe.name}: needs a basis; give it with --basis")
    begun = None if start is None else load_model(start, "quantification")
    if scan is None:
        signals, axis = None, recipe.axis.of(_own_axis(basis))
    else:
        signals, axis = _signals_to_learn(scan)
    fitted = load_basis(basis, axis).matched_to(axis)
    return train_quantifier(
        recipe,
        fitted,
        folder,
        scan=signals,
        start=begun,
        resume=resume,
        device=device,
        on_point=on_point,
    )


def calibrate(folder: Path, pipeline: Pipeline, *, device: torch.device) -> Model:
    """Calibrate the error bars of a trained quantification model; its card keeps that.

    Parameters
    ----------
    folder
        Of the model; its recipe says how many signals.
    pipeline
        Whose fit the model is to be used in.

    Raises
    ------
    InputError
        If the pipeline does not quantify, or its fit is not for the model.
    """
    model = load_model(folder, "quantification")
    recipe, basis = Recipe.model_validate(model.card.recipe), model.basis
    found = next((s for s in pipeline.stages if isinstance(s, Quantify)), None)
    if found is None:
        raise InputError(
            f"pipeline {pipeline.name}: none of its stages quantifies, so there is no fit to "
            "calibrate error bars for"
        )
    stage = found.model_copy(update={"method": "network", "model": str(folder.resolve())})
    stage.check(Context(basis.acquisition, basis, device))
    unused = recipe.training.model_copy(update={"seed": recipe.training.seed + recipe.members})
    simulator = Simulator(recipe.simulation, basis, device)
    made = calibrated(stage, model.to(device), simulator, recipe.calibration, unused.seed_of(0))
    model = replace(model, card=model.card.model_copy(update={"calibration": made}))
    save_model(folder, model)
    return model


def _fpc_source(
    recipe: FpcRecipe, basis: BasisChoice | None, scan: Path | None, start: str | None
) -> Source:
    settings = recipe.simulation
    for option, given in (("--scan", scan), ("--start", start)):
        if given is not None:
            raise InputError(
                f"{given}: recipe {recipe.name} is for frequency and phase correction, which is "
                f"learned from simulated signals and from the beginning; leave out {option}"
            )
    if not isinstance(settings, MixtureSettings):
        if basis is not None:
            raise InputError(
                f"recipe {recipe.name}: simulates a spectrum of its own; leave out --basis"
            )
        return TransientSource(settings)
    if basis is None:
        raise InputError(
            f"recipe {recipe.name}: simulates signals from a basis; give it with --basis"
        )
    axis = recipe.axis.of(_own_axis(basis))
    return MixtureSource(settings, load_basis(basis, axis).matched_to(axis))


def _own_axis(choice: BasisChoice) -> Acquisition:
    """The axis that a basis has when no scan says otherwise."""
    named = None if Path(choice.source).exists() else parse_basis_name(choice.source)
    if named is not None:
        return named.acquisition
    return read_basis(
        choice.source, reference_ppm=choice.reference_ppm, conjugate=choice.conjugate
    ).acquisition


def _signals_to_learn(path: Path) -> tuple[RealSignals, Acquisition]:
    if is_scan_store(path):
        store = ScanStore.open(path)
        if store.dimensions:
            raise InputError(
                f"{path}: its signals have dimensions {list(store.dimensions)}; run a pipeline "
                "that combines them with --keep corrected, and give that run's folder"
            )
        return RealSignals(store.read_fids(0, store.voxels), str(path)), store.acquisition
    if not is_result_store(result_folder(path)):
        raise InputError(f"{path}: neither the output folder of a run nor a scan store")
    result = open_result(result_folder(path))
    if "corrected" not in result:
        raise InputError(f"{path}: kept no corrected signals; run it again with --keep corrected")
    axis = Acquisition(**result.attrs["acquisition"])
    return RealSignals(result["corrected"].values, str(path)), axis


def _fit_window(pipeline: Pipeline) -> tuple[float, float]:
    fits = (s.window_ppm for s in pipeline.stages if isinstance(s, FitSettings))
    return next(fits, DEFAULT_WINDOW)


def _check_folder(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and _is_ours(folder)):
        _check_empty(folder, "files that are not of a run of this engine")


def _check_empty(folder: Path, found: str) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; --out needs a folder")
    if any(folder.iterdir()):
        raise InputError(f"{folder}: holds {found}; give an empty or new folder with --out")


def _is_ours(folder: Path) -> bool:
    """Whether a run, a killed import or a simulation began in this folder."""
    scan = scan_folder(folder)
    stored = is_scan_store(scan) or is_result_store(result_folder(folder))
    return stored or bool(_killed_imports(scan)) or (folder / "scan" / "truth").is_dir()


class _Clock:
    """Seconds by step, in the order the steps were taken."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started
