"""Import: a NIfTI-MRS scan and what comes with it become a scan store, in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.companions import CompanionFiles, Kind, companion, companions
from mrsi_engine.conventions import Acquisition, ScanNoise
from mrsi_engine.dimensions import COIL
from mrsi_engine.errors import InputError
from mrsi_engine.input_files import check_input_file
from mrsi_engine.io.import_inputs import (
    Inputs,
    Request,
    find_inputs,
    in_file_order,
)
from mrsi_engine.io.import_output import check_output, replacing
from mrsi_engine.io.import_signals import (
    Progress,
    Signals,
    Ticker,
    absorb,
    begin_together,
    shared_points,
)
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader, stem_of
from mrsi_engine.io.noise_at_import import (
    SAMPLE,
    NoiseAtImport,
    noise_of_scan,
    processing_of,
)
from mrsi_engine.io.personal import personal_fields, without_personal
from mrsi_engine.io.places import place
from mrsi_engine.io.room import check_room
from mrsi_engine.io.scan_store import DEFAULT_CHUNK, ScanStore
from mrsi_engine.io.signal_mask import signal_mask
from mrsi_engine.nuclei import nucleus

#: Raised whenever the numbers of an import change.
REVISION = 1

#: Bytes of samples held in memory before they go to a scratch file.
MEMORY_BUDGET = 512 << 20

#: Scans of up to this many voxels are kept whole without a mask.
HANDFUL = 10

# Share of the voxels that a mask from signal energy may leave out and say nothing.
_MOST_LEFT_OUT = 0.5


def import_scan(
    scan: str | Path,
    out: str | Path,
    *,
    tissue_classes: Sequence[str] = (),
    chunk: int = DEFAULT_CHUNK,
    memory_budget: int = MEMORY_BUDGET,
    points: int | None = None,
    keep_personal: bool = False,
    stated: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **files: CompanionFiles | None,
) -> ScanStore:
    """Turn a NIfTI-MRS scan into a scan store, reading it once from start to end.

    Voxels stand in the file's order: x runs fastest, then y, then z. Voxels of the mask that hold
    NaN, Inf or zeros are kept. FIDs begin at time zero or after it: samples from before an echo and
    a digital filter's group delay are left out (:mod:`mrsi_engine.io.beginning`). The store appears
    under its name only once it is complete.

    Parameters
    ----------
    scan
        NIfTI-MRS file, ``.nii`` or ``.nii.gz``, ``(x, y, z, time)`` complex, raw data with
        ``DIM_COIL`` and ``DIM_DYN`` in any order.
    out
        Folder of the store.
    files
        What comes with the scan, by the names of :mod:`mrsi_engine.companions`: ``mask``,
        ``water``, ``tissue``, ``scalp`` and whatever was registered beside them.

        ``mask``: NIfTI volume on the scan's grid, above zero where to quantify; one of fractions
        counts from 0.5 on. Without one, a mask is made by
        :func:`~mrsi_engine.io.signal_mask.signal_mask` from the water reference if there is one,
        else from the scan; scans of up to :data:`HANDFUL` voxels are kept whole.

        ``water``: reference with the scan's dwell time and frequency, at least as many points, its
        coils if it has any, and any number of transients; it is brought to the scan's first
        sample. One on another grid is resampled by the affines
        (:class:`~mrsi_engine.io.resampling.Resampling`, on complex FIDs); voxels it does not reach
        get zeros.

        ``tissue``: a 4-D NIfTI of fractions whose last dimension ``tissue_classes`` names, or one
        3-D file a class, e.g. ``{"gm": ..., "wm": ..., "csf": ...}``. On another grid they are
        resampled too; voxels they do not reach get NaN.

        ``scalp``: mask of the scalp. Its voxels outside ``mask`` are kept and flagged: stages may
        learn from them, nothing is quantified there. Without a mask all of them count as outside.
    tissue_classes
        What the last dimension of a 4-D tissue file holds.
    chunk
        Voxels a chunk of the store; fewer in raw data, by the number of FIDs a voxel.
    memory_budget
        Bytes of samples held in memory; beyond it they go to a scratch file beside ``out``. The
        process itself takes up to twice as much, and 130 MB for its libraries.
    points
        Keep only that many samples of every FID, from time zero on.
    keep_personal
        Keep what the header says of the person and the machine; by default it is left out
        (:mod:`mrsi_engine.io.personal`).
    stated
        Fields of NIfTI-MRS that are said of ``scan`` or a companion (by its name) beside its file,
        e.g. by a BIDS sidecar: they fill what the header lacks and must not contradict it.
    overwrite
        Replace a scan store that stands at ``out``; nothing else is ever replaced.
    progress
        Called as time points are read.

    Raises
    ------
    InputError
        If a file is missing, damaged or does not fit the scan, or ``out`` is taken.
    RunError
        If the disk is full or the store cannot be written.
    """
    request = _request(scan, files, tissue_classes, chunk, points, keep_personal, stated)
    target = place(out).resolve()
    check_output(target, overwrite)
    inputs = find_inputs(request)
    check_room(inputs, target.parent, memory_budget)
    with replacing(target, overwrite) as folder:
        _fill(folder, request, inputs, memory_budget, Ticker(inputs, progress))
    return ScanStore.open(out)


def changed_since(
    inputs: Mapping[str, Any],
    scan: str | Path,
    *,
    tissue_classes: Sequence[str] = (),
    chunk: int = DEFAULT_CHUNK,
    points: int | None = None,
    keep_personal: bool = False,
    stated: Mapping[str, Mapping[str, Any]] | None = None,
    **files: CompanionFiles | None,
) -> list[str]:
    """Which files and settings differ from those a store was made from, its ``inputs``.

    The files are read to compare their contents, not their names or dates.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    request = _request(scan, files, tissue_classes, chunk, points, keep_personal, stated)
    signals = [_checksum(request.path(row.name)) for row, _ in request.of_kind(Kind.SIGNAL)]
    now = _provenance(request, [_checksum(request.scan), *signals])
    names = {**inputs, **now}
    return [name for name in names if inputs.get(name) != now.get(name)]


def _request(
    scan: str | Path,
    files: Mapping[str, CompanionFiles | None],
    classes: Sequence[str],
    chunk: int,
    points: int | None,
    keep_personal: bool,
    stated: Mapping[str, Mapping[str, Any]] | None,
) -> Request:
    if chunk < 1:
        raise InputError(f"chunk is {chunk}, expected at least one voxel")
    given = {companion(name).name: one for name, one in files.items() if one is not None}
    said = {name: dict(fields) for name, fields in (stated or {}).items() if fields}
    return Request(place(scan), given, tuple(classes), chunk, points, keep_personal, said)


def _fill(folder: Path, request: Request, inputs: Inputs, memory_budget: int, tick: Ticker) -> None:
    """Read all samples, then write the store: the two halves of the transposition."""
    with ExitStack() as stack:
        held = absorb(stack, inputs, memory_budget, folder.parent, tick)
        signals, axis, notes = begin_together(held, inputs)
        voxels, origin, said = _choose(inputs, signals)
        found = _noise(signals[0], voxels, axis)
        points = shared_points(signals, found.points)
        kept = _Kept(axis.with_points(points), voxels, origin, found.noise)
        personal = _left_out(request, inputs.scan)
        said = [*inputs.notes, *notes, *said, *found.notes, *personal]
        store = _create(folder, request, inputs, signals, kept, said)
        for signal in signals:
            group = _voxels_at_once(store, signal, memory_budget)
            for start in range(0, len(voxels), group):
                fids = signal.fids(voxels[start : start + group])
                if signal is signals[0]:
                    store.write_fids(start, found.whitened(fids, axis)[..., :points])
                else:
                    store.write(signal.name, start, fids[..., :points])


@dataclass(frozen=True)
class _Kept:
    """What of a scan is kept: samples, voxels (in file order) and why these, and its noise."""

    acquisition: Acquisition
    voxels: NDArray[np.intp]
    mask_origin: str
    noise: ScanNoise


def _noise(signals: Signals, voxels: NDArray[np.intp], acquisition: Acquisition) -> NoiseAtImport:
    """What an even sample of the scan's FIDs says of its noise."""
    a_voxel = signals.header.signals
    count = min(len(voxels), max(1, SAMPLE // a_voxel))
    chosen = voxels[np.linspace(0, len(voxels) - 1, count).round().astype(int)]
    fids = signals.fids(chosen).reshape(-1, acquisition.points)
    fids = fids[np.linspace(0, len(fids) - 1, min(len(fids), SAMPLE)).round().astype(int)]
    processing = processing_of(signals.header.extension)
    strong = nucleus(acquisition.nucleus).windows.shown
    return noise_of_scan(fids, acquisition, processing, strong, coils=COIL in signals.dimensions)


def _voxels_at_once(store: ScanStore, signal: Signals, memory_budget: int) -> int:
    """Voxels of whole chunks that take up to a quarter of the budget."""
    size = signal.held * signal.header.signals * np.dtype(np.complex64).itemsize
    return max(1, memory_budget // 4 // (size * store.chunk)) * store.chunk


def _choose(inputs: Inputs, signals: Sequence[Signals]) -> tuple[NDArray[np.intp], str, list[str]]:
    """Voxels of the volume to keep, where the choice came from, and what is to be said of it.

    Without a mask by the energies of the scan and, if there is one, the water reference, whose
    contrast between head and noise is higher.
    """
    if inputs.keep is not None:
        return inputs.keep, "given", []
    energies = [signal.energy_on_scan() for signal in signals]
    scan = energies[0]
    usable = np.isfinite(scan) & (scan > 0)
    if not usable.any():
        raise InputError(
            f"{inputs.scan.path}: no voxel holds a signal; every FID is zero or NaN. Is it a file "
            "that was to be filled with reconstructed data later?"
        )
    if len(scan) <= HANDFUL:
        return np.arange(len(scan)), "every voxel", []
    marked = np.zeros(scan.shape, bool) if inputs.marked is None else inputs.marked
    brain = signal_mask(energies[-1]) & usable & ~marked
    if not brain.any():
        raise InputError(f"{inputs.scan.path}: no voxel outside the scalp holds a signal")
    notes = []
    if brain.sum() < (1 - _MOST_LEFT_OUT) * len(scan):
        notes.append(
            f"no mask was given: the one made from signal energy keeps {int(brain.sum())} of "
            f"{len(scan)} voxels; give one with --mask if that is not what you want"
        )
    return np.flatnonzero(brain | marked), "signal energy", notes


def _left_out(request: Request, scan: NIfTIMRSHeader) -> list[str]:
    """That personal fields were left out, without their contents."""
    found = [] if request.keep_personal else personal_fields(scan.extension)
    return [f"personal fields of the header left out: {', '.join(found)}"] if found else []


def _create(
    folder: Path,
    request: Request,
    inputs: Inputs,
    signals: Sequence[Signals],
    kept: _Kept,
    notes: Sequence[str],
) -> ScanStore:
    scan, voxels = inputs.scan, kept.voxels
    own = {signal.name: signal for signal in signals[1:]}
    return ScanStore.create(
        folder,
        np.stack(np.unravel_index(voxels, scan.grid.shape, order="F"), axis=1),
        kept.acquisition,
        scan.grid.shape,
        scan.grid.affine,
        position_code=scan.grid.code if scan.grid.has_position else 0,
        chunk=max(1, request.chunk // scan.signals),
        dimensions=scan.dimensions,
        signals={name: signal.dimensions for name, signal in own.items()},
        volumes=_volumes(inputs, voxels),
        classes={name: volume.classes for name, volume in inputs.volumes.items()},
        stem=stem_of(scan.path),
        source=scan.path.name,
        checksum=signals[0].checksum,
        header=scan.extension if request.keep_personal else without_personal(scan.extension),
        mask_origin=kept.mask_origin,
        inputs=_provenance(request, [signal.checksum for signal in signals]),
        notes=notes,
        timing={name: timing_of(signal.header.acquisition) for name, signal in own.items()},
        noise=kept.noise,
    )


def _volumes(inputs: Inputs, voxels: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """What came with the scan in the voxels that are kept; marks count outside the mask only."""
    tables = {name: in_file_order(v.values)[voxels] for name, v in inputs.volumes.items()}
    if inputs.marked is not None:
        outside = inputs.marked[voxels]
        marks = [row.name for row in companions(Kind.MARKS) if row.name in tables]
        tables |= {name: tables[name] & outside for name in marks}
    return tables


def timing_of(acquisition: Acquisition) -> dict[str, float]:
    """Echo and repetition time, s, as far as they are known."""
    times = {
        "echo_time": acquisition.echo_time,
        "repetition_time": acquisition.repetition_time,
    }
    return {name: seconds for name, seconds in times.items() if seconds is not None}


def _provenance(request: Request, checksums: Sequence[str]) -> dict[str, Any]:
    """SHA-256 of the files and the settings; ``checksums`` of scan and signals are known."""
    signals = [row.name for row, _ in request.of_kind(Kind.SIGNAL)]
    files: dict[str, Any] = dict(zip(signals, checksums[1:], strict=True))
    for name in request.files:
        if name not in files:
            by_class = {key: _checksum(path) for key, path in request.paths(name).items()}
            files[name] = by_class.get("", by_class)
    return {
        "scan": checksums[0],
        **files,
        "tissue_classes": list(request.classes),
        "chunk": request.chunk,
        "points": request.points,
        "import revision": REVISION,
        **({"keep_personal": True} if request.keep_personal else {}),
        **({"stated": dict(request.stated)} if request.stated else {}),
    }


def _checksum(path: Path) -> str:
    check_input_file(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
