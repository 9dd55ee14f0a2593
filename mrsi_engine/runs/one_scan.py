"""One scan from file to report: what ``mrsi run`` does, as functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrsi_engine.choices import Reports
from mrsi_engine.companions import TISSUE, CompanionFiles, Kind, companion, companions
from mrsi_engine.conventions import Acquisition
from mrsi_engine.engine.clusters import warm_up
from mrsi_engine.engine.driver import PROCESSES_FROM, run
from mrsi_engine.engine.events import DamageFound, Sink
from mrsi_engine.engine.interrupts import interruptible
from mrsi_engine.engine.plan import Plan, plan
from mrsi_engine.engine.procedure import procedure_for
from mrsi_engine.engine.voxels import ScanLayout
from mrsi_engine.errors import InputError
from mrsi_engine.io.companion_headers import companion_headers
from mrsi_engine.io.files import remove_leftover
from mrsi_engine.io.import_signals import Progress
from mrsi_engine.io.importing import changed_since, import_scan, timing_of
from mrsi_engine.io.integrity import Damage, OnDamage
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader, check_mappable, read_header
from mrsi_engine.io.places import check_reachable
from mrsi_engine.io.scan_store import SCAN_STORE, ScanStore, damaged_files
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice, load_basis
from mrsi_engine.runs.finishing import Clock, FinishedRun, finish_scan
from mrsi_engine.runs.folder import (
    check_folder,
    killed_imports,
    remove_exports,
    result_folder,
    scan_folder,
)
from mrsi_engine.runs.options import Options
from mrsi_engine.spectra.basis import Basis


@dataclass(frozen=True)
class Inputs:
    """The files of one scan; made by :meth:`of`.

    ``files`` are what comes with it, by the names of :mod:`mrsi_engine.companions`, ``stated``
    fields of NIfTI-MRS said beside the files, see :func:`~mrsi_engine.io.importing.import_scan`.
    """

    scan: Path
    files: Mapping[str, CompanionFiles] = field(default_factory=dict)
    tissue_classes: tuple[str, ...] = ()
    points: int | None = None
    keep_personal: bool = False
    stated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        scan: Path,
        *,
        tissue_classes: tuple[str, ...] = (),
        points: int | None = None,
        keep_personal: bool = False,
        stated: Mapping[str, Mapping[str, Any]] | None = None,
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
        return cls(scan, given, tissue_classes, points, keep_personal, stated or {})

    def import_settings(self) -> dict[str, Any]:
        """What :func:`~mrsi_engine.io.importing.import_scan` takes beside scan and store."""
        return {
            **self.files,
            "tissue_classes": self.tissue_classes,
            "points": self.points,
            "keep_personal": self.keep_personal,
            "stated": self.stated,
        }


@interruptible
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
    reports: Reports = "all",
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
    reports
        Whether to make one, see :func:`~mrsi_engine.runs.finishing.finish_scan`.

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
        done = run(planned, choice=options.where, sinks=sinks)
    return finish_scan(folder, done.summary, options, clock, truth=truth, reports=reports)


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
    header, protocol = read_protocol(inputs)
    return header, suited_basis(basis, pipeline, protocol, options.keep)


@dataclass(frozen=True)
class Protocol:
    """What of a scan decides which basis and pipeline fit it.

    ``sequence`` is as its header calls it, ``layout`` what its store will hold, as far as headers
    and names say it.
    """

    acquisition: Acquisition
    sequence: str | None
    layout: ScanLayout


def read_protocol(inputs: Inputs) -> tuple[NIfTIMRSHeader, Protocol]:
    """Header and protocol of a scan, once the headers of its companions fit it; read once each.

    Raises
    ------
    InputError
        If a file is missing or damaged, or does not fit the scan.
    """
    _check_classes(inputs)
    header = read_header(inputs.scan, inputs.stated.get("scan"))
    check_mappable(header)
    signals = companion_headers(header, inputs.files, inputs.tissue_classes, inputs.stated)
    sequence = header.extension.get("SequenceName")
    layout = _layout(inputs, header, signals)
    name = sequence if isinstance(sequence, str) else None
    return header, Protocol(_axis(inputs, header), name, layout)


def suited_basis(
    choice: BasisChoice | None, pipeline: Pipeline, protocol: Protocol, keep: Sequence[str] = ()
) -> Basis | None:
    """The basis, once it, the scan's axis and the pipeline are known to fit each other.

    Said before the import, which can take minutes and would have to be replaced.

    Raises
    ------
    InputError
        If they do not.
    """
    acquisition = protocol.acquisition
    pipeline.check_nucleus(acquisition)
    basis = None if choice is None else load_basis(choice, acquisition, protocol.sequence)
    procedure_for(acquisition, pipeline, basis, keep, layout=protocol.layout)
    return basis


def _layout(
    inputs: Inputs, header: NIfTIMRSHeader, signals: Mapping[str, NIfTIMRSHeader]
) -> ScanLayout:
    given = [row for row in companions() if row.stored and row.name in inputs.files]
    classes = {}
    for row in companions(Kind.FRACTIONS):
        files = inputs.files.get(row.name)
        if files is not None:
            by_class = tuple(files) if isinstance(files, Mapping) else None
            classes[row.name] = inputs.tissue_classes if by_class is None else by_class
    timing = {name: timing_of(signal.acquisition) for name, signal in signals.items()}
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
    local = options.where.workers != 0 and options.where.here
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
            _remove_leftovers(target)
            return ScanStore.open(target)
        if on_damage is not None:
            on_damage(target, damages)
        overwrite = True
    store = import_scan(inputs.scan, target, overwrite=overwrite, progress=progress, **settings)
    _remove_leftovers(target)
    return store


def _remove_leftovers(target: Path) -> None:
    for leftover in killed_imports(target):
        remove_leftover(leftover)
