"""One scan from file to report: what ``mrsi run`` does, as functions."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mrsi_engine.choices import MIN_USABLE, Fill
from mrsi_engine.companions import TISSUE, CompanionFiles, Kind, companion, companions
from mrsi_engine.conventions import Acquisition
from mrsi_engine.engine.clusters import warm_up
from mrsi_engine.engine.devices import AUTO, check_device, gpu_workers
from mrsi_engine.engine.driver import PROCESSES_FROM, run
from mrsi_engine.engine.events import DamageFound, Sink
from mrsi_engine.engine.finish import Summary
from mrsi_engine.engine.plan import Plan, plan
from mrsi_engine.engine.procedure import procedure_for
from mrsi_engine.engine.voxels import ScanLayout
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import remove_leftover
from mrsi_engine.io.import_signals import Progress
from mrsi_engine.io.importing import changed_since, import_scan, timing_of
from mrsi_engine.io.integrity import Damage, OnDamage
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader, check_mappable, read_header
from mrsi_engine.io.places import check_reachable
from mrsi_engine.io.result_store import ResultStore, open_result
from mrsi_engine.io.scan_store import SCAN_STORE, ScanStore, damaged_files
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.report.truth import result_truth_table
from mrsi_engine.report.verdict import Verdict, verdict_on
from mrsi_engine.runs.bases import BasisChoice, load_basis
from mrsi_engine.runs.delay import note_delay
from mrsi_engine.runs.folder import (
    check_folder,
    killed_imports,
    remove_exports,
    result_folder,
    scan_folder,
)
from mrsi_engine.runs.reporting import export, report_on
from mrsi_engine.spectra.basis import Basis


@dataclass(frozen=True)
class Inputs:
    """The files of one scan; made by :meth:`of`.

    ``files`` are what comes with it, by the names of :mod:`mrsi_engine.companions`.
    """

    scan: Path
    files: Mapping[str, CompanionFiles] = field(default_factory=dict)
    tissue_classes: tuple[str, ...] = ()
    points: int | None = None
    keep_personal: bool = False

    @classmethod
    def of(
        cls,
        scan: Path,
        *,
        tissue_classes: tuple[str, ...] = (),
        points: int | None = None,
        keep_personal: bool = False,
        **files: CompanionFiles | None,
    ) -> Inputs:
        """A scan with the files given of each companion, e.g. ``mask=PATH``.

        ``tissue`` is a 4-D file named by ``tissue_classes``, or a file a class.

        Raises
        ------
        InputError
            If there is no companion of a name.
        """
        given = {companion(name).name: one for name, one in files.items() if one is not None}
        return cls(scan, given, tissue_classes, points, keep_personal)

    def import_settings(self) -> dict[str, Any]:
        """What :func:`~mrsi_engine.io.importing.import_scan` takes beside scan and store."""
        return {
            **self.files,
            "tissue_classes": self.tissue_classes,
            "points": self.points,
            "keep_personal": self.keep_personal,
        }


@dataclass(frozen=True)
class Options:
    """How to run: where, in what blocks, and what to keep.

    ``min_usable`` is the share of usable voxels from which a run is accepted.
    """

    workers: int | None = None
    scheduler: str | None = None
    threads_per_worker: int = 1
    block_size: int | None = None
    device: str = AUTO
    keep: tuple[str, ...] = ()
    fill: Fill = "nan"
    overwrite: bool = False
    min_usable: float = MIN_USABLE

    def check(self) -> Options:
        """These options, once they are known to say a possible way to run.

        Raises
        ------
        InputError
            If a number is out of range, two places to run are given, there is no such device, or
            more workers than GPUs, or what hands those out is not installed.
        """
        for name, least in (("workers", 0), ("threads_per_worker", 1), ("block_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, expected at least {least}")
        if not 0 <= self.min_usable <= 1:
            raise InputError(f"min_usable is {self.min_usable:g}, expected a share from 0 to 1")
        if self.workers is not None and self.scheduler is not None:
            raise InputError("workers and scheduler both say where to run; give one of them")
        check_device(self.device, here=self.scheduler is None)
        if self.scheduler is None:
            gpu_workers(self.device, self.workers)
        return self


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run left: its stores, files, and seconds by step.

    ``accepted`` says whether enough of it is usable.
    """

    folder: Path
    summary: Summary
    report: Path
    maps: list[Path]
    verdict: Verdict
    accepted: bool
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def result(self) -> xr.Dataset:
        """The results, opened anew."""
        return open_result(result_folder(self.folder))


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
) -> FinishedRun:
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
    clock = Clock()
    with clock("basis"):
        header, chosen = check_scan(inputs, basis, pipeline, folder, options)
    _warm_up(header, options)
    with clock("import"):
        store = import_once(
            inputs, scan_folder(folder), options.overwrite, progress, _teller(sinks)
        )
    with clock("process"):
        planned = plan_scan(store, chosen, pipeline, folder, options, _teller(sinks))
        done = run(
            planned,
            workers=options.workers,
            scheduler=options.scheduler,
            threads_per_worker=options.threads_per_worker,
            sinks=sinks,
        )
    return finish_scan(folder, done.summary, options, clock, truth=truth)


def check_scan(
    inputs: Inputs, basis: BasisChoice | None, pipeline: Pipeline, folder: Path, options: Options
) -> tuple[NIfTIMRSHeader, Basis | None]:
    """Header and basis of a scan, once they, pipeline, folder and options fit each other.

    Arguments as for :func:`process`. No signal is read.

    Raises
    ------
    InputError
        If they do not.
    """
    options.check()
    check_folder(folder)
    check_reachable(inputs.scan)
    header = read_header(inputs.scan)
    check_mappable(header)
    return header, _load_suited_basis(basis, pipeline, inputs, header, options)


def _load_suited_basis(
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
    pipeline.check_nucleus(acquisition)
    sequence = header.extension.get("SequenceName")
    name = sequence if isinstance(sequence, str) else None
    basis = None if choice is None else load_basis(choice, acquisition, name)
    procedure_for(acquisition, pipeline, basis, options.keep, layout=_layout(inputs, header))
    return basis


def _layout(inputs: Inputs, header: NIfTIMRSHeader) -> ScanLayout:
    """What the scan store will hold, as far as headers and names say it."""
    given = [row for row in companions() if row.stored and row.name in inputs.files]
    _check_classes(inputs)
    classes, timing = {}, {}
    for row in given:
        files = inputs.files[row.name]
        if row.kind is Kind.FRACTIONS:
            by_class = tuple(files) if isinstance(files, Mapping) else None
            classes[row.name] = inputs.tissue_classes if by_class is None else by_class
        if row.kind is Kind.SIGNAL and not isinstance(files, Mapping):
            timing[row.name] = timing_of(read_header(files).acquisition)
    names = tuple(row.name for row in given)
    return ScanLayout(tuple(header.dimensions.items()), names, classes, timing)


def _check_classes(inputs: Inputs) -> None:
    """Refuse a file of several classes without their names, and names without such a file."""
    tissue = inputs.files.get(TISSUE.name)
    several = tissue is not None and not isinstance(tissue, Mapping)
    if several and not inputs.tissue_classes:
        raise InputError(
            f"{tissue}: name the classes in the file's last dimension, in its order, e.g. "
            "--tissue-classes gm wm csf"
        )
    if inputs.tissue_classes and not several:
        raise InputError("--tissue-classes names what --tissue holds; give --tissue FILE")


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


def plan_scan(
    store: ScanStore,
    basis: Basis | None,
    pipeline: Pipeline,
    folder: Path,
    options: Options,
    on_damage: OnDamage | None = None,
) -> Plan:
    """The plan of an imported scan; with ``overwrite``, what another run exported is deleted.

    Parameters and errors as for :func:`~mrsi_engine.engine.plan.plan`.
    """
    planned = plan(
        store.path,
        pipeline,
        basis,
        result_folder(folder),
        block_size=options.block_size,
        keep=options.keep,
        overwrite=options.overwrite,
        device=options.device,
        on_damage=on_damage,
    )
    if options.overwrite:
        remove_exports(folder)
    return planned


def finish_scan(
    folder: Path,
    summary: Summary,
    options: Options,
    clock: Clock,
    *,
    truth: Mapping[str, np.ndarray] | None = None,
) -> FinishedRun:
    """What follows once all blocks of a scan are done: delay, verdict, maps, table and report.

    Parameters
    ----------
    summary
        What :func:`~mrsi_engine.engine.finish.finalise` said.
    clock
        Of the steps so far; the report shows them.
    truth
        As for :func:`process`.
    """
    result = note_delay(folder)
    verdict = note_verdict(folder, result)
    with clock("export"):
        maps = export(result, folder, options.fill)
    rows = result_truth_table(result, truth) if truth else None
    report = report_on(folder, timings=clock.seconds, truth=rows)
    accepted = verdict.accepted(options.min_usable)
    return FinishedRun(folder, summary, report, maps, verdict, accepted, clock.seconds)


def note_verdict(folder: Path, result: xr.Dataset) -> Verdict:
    """What is said of a result, kept among its attributes."""
    verdict = verdict_on(result)
    if result.attrs.get("verdict") != verdict.attributes():
        ResultStore.open(result_folder(folder)).annotate(verdict=verdict.attributes())
    return verdict


def _teller(sinks: Sequence[Sink]) -> OnDamage:
    """Tells the sinks of a run what was damaged."""

    def tell(store: Path, damages: Sequence[Damage]) -> None:
        for sink in sinks:
            sink(DamageFound(store, tuple(map(str, damages))))

    return tell


def import_once(
    inputs: Inputs,
    target: Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_damage: OnDamage | None = None,
) -> ScanStore:
    """The scan store of these files, imported unless it is there already and whole.

    Parameters
    ----------
    on_damage
        Called with the store and what is damaged of it, before it is imported again.

    Raises
    ------
    InputError
        If ``target`` was made from other files or settings and ``overwrite`` is not set.
    DamagedError
        If the attributes of ``target`` are damaged, so that this cannot be told.
    """
    _check_classes(inputs)
    settings = inputs.import_settings()
    if SCAN_STORE.holds(target) and not overwrite:
        made = SCAN_STORE.attributes(target)
        changed = changed_since(made["inputs"], inputs.scan, **settings)
        if changed:
            raise InputError(
                f"{target}: imported from other files or with other settings (its scan was "
                f"{made['source']}); changed since: {', '.join(changed)}. Give another --out, or "
                "--overwrite to replace it"
            )
        damages = damaged_files(target)
        if not damages:
            return ScanStore.open(target)
        if on_damage is not None:
            on_damage(target, damages)
        overwrite = True
    store = import_scan(inputs.scan, target, overwrite=overwrite, progress=progress, **settings)
    for leftover in killed_imports(target):
        remove_leftover(leftover)
    return store


class Clock:
    """Seconds by step, in the order the steps were taken."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - started
