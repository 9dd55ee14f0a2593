"""Import: a NIfTI-MRS scan and what comes with it become a scan store, in one pass."""

from __future__ import annotations

import errno
import hashlib
import math
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import COIL, Acquisition
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.nifti_mrs import DIMENSION_TAGS, NIfTIMRSHeader, read_header, stem_of
from mrsi_engine.io.noise_at_import import (
    SAMPLE,
    NoiseAtImport,
    noise_of_scan,
    processing_of,
)
from mrsi_engine.io.resampling import Resampling, resampled
from mrsi_engine.io.scan_store import DEFAULT_CHUNK, ScanStore, is_scan_store
from mrsi_engine.io.signal_mask import signal_mask
from mrsi_engine.io.streaming import SampleStream, Transposer
from mrsi_engine.io.tissue import Fractions, Tissue, read_tissue
from mrsi_engine.io.volumes import check_placed, read_mask
from mrsi_engine.nuclei import nucleus

#: Bytes of samples held in memory before they go to a scratch file.
MEMORY_BUDGET = 512 << 20

#: Called with the number of time points read so far and in all.
Progress = Callable[[int, int], None]

# Relative difference within which two files are believed to state the same number.
_SAME = 1e-4

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class _Request:
    """What to import, as the caller said it."""

    scan: Path
    mask: Path | None
    water: Path | None
    tissue: Tissue | None
    tissue_classes: tuple[str, ...]
    scalp: Path | None
    chunk: int
    points: int | None


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What was found in the files before a sample is read.

    ``keep`` are voxels in file order, ``scalp`` says of every voxel of the volume whether it is
    kept as scalp, ``resampling`` how the scan's voxels are made of the water's if those differ.
    """

    scan: NIfTIMRSHeader
    water: NIfTIMRSHeader | None
    resampling: Resampling | None
    keep: NDArray[np.intp] | None
    tissue: Fractions | None
    scalp: NDArray[np.bool_] | None
    acquisition: Acquisition


@dataclass(frozen=True, eq=False)
class _Signals:
    """The samples of one file, ready to be read voxel by voxel.

    ``kept`` are the file's voxels in the table, ``resampling`` is for files on another grid, and
    ``energy`` is of every voxel of the scan's grid where there is no mask, else zeros.
    """

    header: NIfTIMRSHeader
    dimensions: Mapping[str, int]
    table: Transposer
    kept: NDArray[np.intp]
    energy: NDArray[np.float64]
    checksum: str
    resampling: Resampling | None = None

    def fids(self, voxels: NDArray[np.intp]) -> NDArray[np.complex64]:
        """FIDs ``(n, [coil,] [dynamic,] time)`` of ascending voxels of the scan's volume."""
        rows = self._rows(voxels) if self.resampling is None else self._resampled(voxels)
        signals = _in_store_order(rows, self.header)
        return signals.reshape(len(voxels), *self.dimensions.values(), signals.shape[-1])

    def _rows(self, voxels: NDArray[np.intp]) -> NDArray[np.complex64]:
        return self.table.fids(np.searchsorted(self.kept, voxels))

    def _resampled(self, voxels: NDArray[np.intp]) -> NDArray[np.complex64]:
        """Zeros where the file has no signal: a scan's voxels may lie beyond it."""
        assert self.resampling is not None
        rows = np.zeros((len(voxels), self.table.points), np.complex64)
        piece = max(1, len(voxels) // self.resampling.reduction)
        for start in range(0, len(voxels), piece):
            weights = self.resampling.weights(voxels[start : start + piece])
            needed = np.unique(weights.indices).astype(np.intp)
            if needed.size:
                source = self._rows(needed)
                known = np.logical_and(np.isfinite(source).all(axis=1), source.any(axis=1))
                rows[start : start + piece] = resampled(weights[:, needed], source, known, 0)
        return rows


def import_scan(
    scan: str | Path,
    out: str | Path,
    *,
    mask: str | Path | None = None,
    water: str | Path | None = None,
    tissue: Tissue | None = None,
    tissue_classes: Sequence[str] = (),
    scalp: str | Path | None = None,
    chunk: int = DEFAULT_CHUNK,
    memory_budget: int = MEMORY_BUDGET,
    points: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ScanStore:
    """Turn a NIfTI-MRS scan into a scan store, reading it once from start to end.

    Voxels stand in the file's order: x runs fastest, then y, then z. Voxels of the mask that hold
    NaN, Inf or zeros are kept. The store appears under its name only once it is complete.

    Parameters
    ----------
    scan
        NIfTI-MRS file, ``.nii`` or ``.nii.gz``, ``(x, y, z, time)`` complex, raw data with
        ``DIM_COIL`` and ``DIM_DYN`` in any order.
    out
        Folder of the store.
    mask
        NIfTI volume on the scan's grid, not zero where to quantify. Without one, a mask is made by
        :func:`~mrsi_engine.io.signal_mask.signal_mask` from the water reference if there is one,
        else from the scan.
    water
        Water reference with the scan's dwell time and frequency, at least as many points, its
        coils if it has any, and any number of transients. One on another grid is resampled by the
        affines (:class:`~mrsi_engine.io.resampling.Resampling`, on complex FIDs); voxels it does
        not reach get zeros.
    tissue
        A 4-D NIfTI of fractions whose last dimension ``tissue_classes`` names, or one 3-D file a
        class, e.g. ``{"gm": ..., "wm": ..., "csf": ...}``. On another grid they are resampled too;
        voxels they do not reach get NaN.
    scalp
        Mask of the scalp. Its voxels outside ``mask`` are kept and flagged: stages may learn from
        them, nothing is quantified there. Without a mask all of them count as outside.
    chunk
        Voxels a chunk of the store; fewer in raw data, by the number of FIDs a voxel.
    memory_budget
        Bytes of samples held in memory; beyond it they go to a scratch file beside ``out``. The
        process itself takes up to twice as much, and 130 MB for its libraries.
    points
        Keep only that many samples of every FID.
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
    request = _request(scan, mask, water, tissue, tissue_classes, scalp, chunk, points)
    target = Path(out).resolve()
    _check_output(target, overwrite)
    inputs = _inputs(request)
    with _replacing(target) as folder:
        _fill(folder, request, inputs, memory_budget, _Ticker(inputs, progress))
    return ScanStore.open(out)


def changed_since(
    inputs: Mapping[str, Any],
    scan: str | Path,
    *,
    mask: str | Path | None = None,
    water: str | Path | None = None,
    tissue: Tissue | None = None,
    tissue_classes: Sequence[str] = (),
    scalp: str | Path | None = None,
    chunk: int = DEFAULT_CHUNK,
    points: int | None = None,
) -> list[str]:
    """Which files and settings differ from those a store was made from, its ``inputs``.

    The files are read to compare their contents, not their names or dates.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    request = _request(scan, mask, water, tissue, tissue_classes, scalp, chunk, points)
    water_checksum = None if request.water is None else _checksum(request.water)
    now = _provenance(request, _checksum(request.scan), water_checksum)
    names = {**inputs, **now}
    return [name for name in names if inputs.get(name) != now.get(name)]


def _request(
    scan: str | Path,
    mask: str | Path | None,
    water: str | Path | None,
    tissue: Tissue | None,
    tissue_classes: Sequence[str],
    scalp: str | Path | None,
    chunk: int,
    points: int | None,
) -> _Request:
    if chunk < 1:
        raise InputError(f"chunk is {chunk}, expected at least one voxel")
    return _Request(
        scan=Path(scan),
        mask=None if mask is None else Path(mask),
        water=None if water is None else Path(water),
        tissue=tissue,
        tissue_classes=tuple(tissue_classes),
        scalp=None if scalp is None else Path(scalp),
        chunk=chunk,
        points=points,
    )


def _inputs(request: _Request) -> _Inputs:
    scan = read_header(request.scan)
    signal_dimensions(scan)
    mask = None if request.mask is None else _in_file_order(read_mask(request.mask, scan.grid))
    scalp = None if request.scalp is None else _scalp(request.scalp, scan, mask)
    keep = None if mask is None else np.flatnonzero(mask if scalp is None else mask | scalp)
    acquisition = _cut(scan, request.points)
    water = None if request.water is None else _matching_water(request.water, scan)
    return _Inputs(
        scan=scan,
        water=water,
        resampling=None if water is None else _water_resampling(water, scan, keep),
        keep=keep,
        tissue=None
        if request.tissue is None
        else read_tissue(request.tissue, request.tissue_classes, scan.grid, keep),
        scalp=scalp,
        acquisition=acquisition,
    )


def signal_dimensions(header: NIfTIMRSHeader) -> dict[str, int]:
    """Lengths of the dimensions between voxel and time, ``coil`` before ``dynamic``.

    Raises
    ------
    InputError
        If the file has a dimension other than ``DIM_COIL`` and ``DIM_DYN``, or one of them twice.
    """
    tags = [tag for tag, _ in header.higher_dimensions]
    if not set(tags) <= set(DIMENSION_TAGS) or len(set(tags)) < len(tags):
        found = ", ".join(f"{tag} of {length}" for tag, length in header.higher_dimensions)
        raise InputError(
            f"{header.path}: has further dimensions ({found}); supported are DIM_COIL and DIM_DYN, "
            "each once: split the file along the others, e.g. with mrs_tools split"
        )
    lengths = dict(header.higher_dimensions)
    return {name: lengths[tag] for tag, name in DIMENSION_TAGS.items() if tag in lengths}


def _in_store_order(table: NDArray[np.complex64], header: NIfTIMRSHeader) -> NDArray[np.complex64]:
    """``(n, samples)`` as the file has them as ``(n, [coil,] [dynamic,] time)``."""
    slowest_first = [
        (DIMENSION_TAGS[tag], length) for tag, length in header.higher_dimensions[::-1]
    ]
    names = [name for name, _ in slowest_first]
    signals = table.reshape(len(table), *(length for _, length in slowest_first), -1)
    order = [1 + names.index(name) for name in signal_dimensions(header)]
    return np.ascontiguousarray(signals.transpose(0, *order, len(order) + 1))


def _scalp(path: Path, scan: NIfTIMRSHeader, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Scalp outside the mask, ``(x*y*z,)`` with x fastest."""
    scalp = _in_file_order(read_mask(path, scan.grid))
    outside = scalp if mask is None else scalp & ~mask
    if not outside.any():
        raise InputError(
            f"{path}: every scalp voxel lies in the mask too, where voxels are quantified; give a "
            "scalp mask that reaches beyond the brain mask"
        )
    return outside


def _matching_water(path: Path, scan: NIfTIMRSHeader) -> NIfTIMRSHeader:
    water = read_header(path)
    _water_dimensions(water, scan)
    for name, unit in (("dwell_time", "s"), ("spectrometer_frequency", "MHz")):
        own, expected = (getattr(h.acquisition, name) for h in (water, scan))
        if not math.isclose(own, expected, rel_tol=_SAME):
            raise InputError(
                f"{path}: water reference with {name} {own:g} {unit}, the scan has {expected:g} "
                f"{unit}; give a water reference acquired like the scan"
            )
    if water.acquisition.nucleus != scan.acquisition.nucleus:
        raise InputError(
            f"{path}: water reference of {water.acquisition.nucleus}, the scan is of "
            f"{scan.acquisition.nucleus}"
        )
    return water


def _water_resampling(
    water: NIfTIMRSHeader, scan: NIfTIMRSHeader, keep: NDArray[np.intp] | None
) -> Resampling | None:
    """How to bring the water onto the scan's grid; ``None`` if it is there."""
    if scan.grid.difference(water.grid) is None:
        return None
    check_placed(water.path, water.grid, scan.grid, "a water reference")
    resampling = Resampling(water.grid, scan.grid)
    everything = np.arange(math.prod(scan.grid.shape))
    if not resampling.needed(everything if keep is None else keep).size:
        raise InputError(
            f"{water.path}: the water reference reaches none of the scan's voxels (its centre is "
            f"at {water.grid.centre} mm, the scan's at {scan.grid.centre} mm); give the one of "
            "this scan, or correct its affine"
        )
    return resampling


def _water_dimensions(water: NIfTIMRSHeader, scan: NIfTIMRSHeader) -> dict[str, int]:
    """Lengths of the scan's dimensions in its water reference, 1 for transients averaged before.

    Raises
    ------
    InputError
        If they are not dimensions of the scan, or the coils are others.
    """
    own, expected = signal_dimensions(water), signal_dimensions(scan)
    strange = [name for name in own if name not in expected]
    if strange or own.get(COIL) != expected.get(COIL):
        raise InputError(
            f"{water.path}: water reference with dimensions {own or 'none'} between voxel and "
            f"time, the scan has {expected or 'none'}; give a reference of the same coils, with "
            "transients only if the scan has them"
        )
    return {name: own.get(name, 1) for name in expected}


def _cut(scan: NIfTIMRSHeader, points: int | None) -> Acquisition:
    if points is None:
        return scan.acquisition
    if not 2 <= points <= scan.acquisition.points:
        raise InputError(
            f"{scan.path}: {points} points wanted, expected 2 to {scan.acquisition.points}, which "
            "is what the file holds"
        )
    return scan.acquisition.with_points(points)


def _in_file_order(volume: NDArray[Any]) -> NDArray[Any]:
    """``(x, y, z, ...)`` as rows with x fastest."""
    return volume.reshape(-1, *volume.shape[3:], order="F")


class _Ticker:
    """Counts time points for whoever shows progress."""

    def __init__(self, inputs: _Inputs, progress: Progress | None) -> None:
        headers = [h for h in (inputs.scan, inputs.water) if h is not None]
        self._total = sum(h.acquisition.points * h.signals for h in headers)
        self._done = 0
        self._progress = progress

    def __call__(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def _fill(
    folder: Path, request: _Request, inputs: _Inputs, memory_budget: int, tick: _Ticker
) -> None:
    """Read all samples, then write the store: the two halves of the transposition."""
    headers = [h for h in (inputs.scan, inputs.water) if h is not None]
    with ExitStack() as stack:
        signals = [
            _absorb(stack, header, inputs, memory_budget // len(headers), folder.parent, tick)
            for header in headers
        ]
        voxels = _choose(inputs, [s.energy for s in signals])
        found = _noise(signals[0], voxels, inputs.acquisition)
        acquisition, inputs = inputs.acquisition, _shortened(inputs, found.points)
        store = _create(folder, request, inputs, voxels, [s.checksum for s in signals], found)
        for i, signal in enumerate(signals):
            group = _voxels_at_once(store, signal.header, memory_budget)
            for start in range(0, len(voxels), group):
                fids = signal.fids(voxels[start : start + group])
                if i == 0:
                    store.write_fids(start, found.whitened(fids, acquisition))
                else:
                    store.write_water(start, found.cut(fids))


def _noise(signals: _Signals, voxels: NDArray[np.intp], acquisition: Acquisition) -> NoiseAtImport:
    """What an even sample of the scan's FIDs says of its noise."""
    a_voxel = signals.header.signals
    count = min(len(voxels), max(1, SAMPLE // a_voxel))
    chosen = voxels[np.linspace(0, len(voxels) - 1, count).round().astype(int)]
    fids = signals.fids(chosen).reshape(-1, acquisition.points)
    fids = fids[np.linspace(0, len(fids) - 1, min(len(fids), SAMPLE)).round().astype(int)]
    processing = processing_of(signals.header.extension)
    strong = nucleus(acquisition.nucleus).windows.shown
    return noise_of_scan(fids, acquisition, processing, strong, coils=COIL in signals.dimensions)


def _shortened(inputs: _Inputs, points: int) -> _Inputs:
    """With as many points of a FID; refuses a water reference that is shorter."""
    water = inputs.water
    if water is not None and water.acquisition.points < points:
        raise InputError(
            f"{water.path}: water reference with points {water.acquisition.points}, fewer than the "
            f"{points} of the scan; cut both with --points {water.acquisition.points}, or give a "
            "longer reference"
        )
    return replace(inputs, acquisition=inputs.acquisition.with_points(points))


def _voxels_at_once(store: ScanStore, header: NIfTIMRSHeader, memory_budget: int) -> int:
    """Voxels of whole chunks that take up to a quarter of the budget."""
    size = store.acquisition.points * header.signals * np.dtype(np.complex64).itemsize
    return max(1, memory_budget // 4 // (size * store.chunk)) * store.chunk


def _absorb(
    stack: ExitStack,
    header: NIfTIMRSHeader,
    inputs: _Inputs,
    memory_budget: int,
    scratch: Path,
    tick: _Ticker,
) -> _Signals:
    in_file = header.acquisition.points
    points = min(inputs.acquisition.points, in_file)
    resampling = inputs.resampling if header is inputs.water else None
    kept = _kept(header, inputs.keep, resampling)
    table = stack.enter_context(
        Transposer(len(kept), points * header.signals, memory_budget, scratch)
    )
    energy = np.zeros(len(kept))
    with SampleStream(header) as stream:
        read = 0
        for run in stream:
            early = (read + np.arange(len(run))) % in_file < points
            wanted = run[early][:, kept] if len(kept) < run.shape[1] else run[early]
            table.append(wanted)
            if inputs.keep is None:
                energy += _squared_magnitude(wanted)
            read += len(run)
            tick(len(run))
        dimensions = _water_dimensions(header, inputs.scan)
        if inputs.keep is None and resampling is not None:
            energy = _on_scan(energy, resampling)
        return _Signals(header, dimensions, table, kept, energy, stream.checksum, resampling)


def _kept(
    header: NIfTIMRSHeader, keep: NDArray[np.intp] | None, resampling: Resampling | None
) -> NDArray[np.intp]:
    """Voxels of a file that are held, ascending."""
    if keep is None:
        return np.arange(math.prod(header.grid.shape))
    return keep if resampling is None else resampling.needed(keep)


def _on_scan(energy: NDArray[np.float64], resampling: Resampling) -> NDArray[np.float64]:
    """Energy of every voxel of the scan's grid, 0 where the file has none."""
    everything = np.arange(math.prod(resampling.target.shape))
    known = np.isfinite(energy) & (energy > 0)
    return np.asarray(resampled(resampling.weights(everything), energy, known, 0))


def _squared_magnitude(samples: NDArray[np.complex64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        parts = samples.view(np.float32).reshape(*samples.shape, 2).astype(np.float64)
        return np.asarray(np.einsum("tvc,tvc->v", parts, parts))


def _choose(inputs: _Inputs, energies: Sequence[NDArray[np.float64]]) -> NDArray[np.intp]:
    """Voxels of the volume to keep.

    ``energies`` are of the scan and, if there is one, the water reference, whose contrast between
    head and noise is higher.
    """
    if inputs.keep is not None:
        return inputs.keep
    scan = energies[0]
    scalp = np.zeros(scan.shape, bool) if inputs.scalp is None else inputs.scalp
    brain = signal_mask(energies[-1]) & np.isfinite(scan) & (scan > 0) & ~scalp
    if not brain.any():
        raise InputError(f"{inputs.scan.path}: no voxel holds a signal; every FID is zero or NaN")
    return np.flatnonzero(brain | scalp)


def _create(
    folder: Path,
    request: _Request,
    inputs: _Inputs,
    voxels: NDArray[np.intp],
    checksums: Sequence[str],
    noise: NoiseAtImport,
) -> ScanStore:
    scan = inputs.scan
    tissue, scalp, water = inputs.tissue, inputs.scalp, inputs.water
    return ScanStore.create(
        folder,
        np.stack(np.unravel_index(voxels, scan.grid.shape, order="F"), axis=1),
        inputs.acquisition,
        scan.grid.shape,
        scan.grid.affine,
        chunk=max(1, request.chunk // scan.signals),
        dimensions=signal_dimensions(scan),
        water=water is not None,
        water_dimensions=None if water is None else _water_dimensions(water, scan),
        scalp=None if scalp is None else scalp[voxels],
        tissue=None if tissue is None else _in_file_order(tissue.values)[voxels],
        tissue_classes=() if tissue is None else tissue.classes,
        stem=stem_of(scan.path),
        source=str(request.scan),
        checksum=checksums[0],
        header=scan.extension,
        mask_origin="given" if inputs.keep is not None else "signal energy",
        inputs=_provenance(request, *checksums),
        notes=(*scan.notes, *_resampling_notes(inputs), *noise.notes),
        water_timing=None if water is None else _timing(water.acquisition),
        noise=noise.noise,
    )


def _resampling_notes(inputs: _Inputs) -> list[str]:
    """What was brought onto the scan's grid, and how."""
    notes = [] if inputs.tissue is None else list(inputs.tissue.notes)
    if inputs.resampling is not None:
        notes.append(
            f"water reference {inputs.resampling.description}; its amplitudes are taken to be on "
            "the scan's scale whatever the size of its voxels"
        )
    return notes


def _timing(acquisition: Acquisition) -> dict[str, float]:
    times = {
        "echo_time": acquisition.echo_time,
        "repetition_time": acquisition.repetition_time,
    }
    return {name: seconds for name, seconds in times.items() if seconds is not None}


def _provenance(request: _Request, scan: str, water: str | None = None) -> dict[str, Any]:
    tissue = request.tissue
    files = tissue if isinstance(tissue, Mapping) else {} if tissue is None else {"": tissue}
    return {
        "scan": scan,
        "mask": None if request.mask is None else _checksum(request.mask),
        "water": water,
        "tissue": {name: _checksum(Path(file)) for name, file in files.items()},
        "tissue_classes": list(request.tissue_classes),
        "chunk": request.chunk,
        "points": request.points,
        **({} if request.scalp is None else {"scalp": _checksum(request.scalp)}),
    }


def _checksum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _check_output(out: Path, overwrite: bool) -> None:
    try:
        free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    except PermissionError as error:
        raise InputError(f"{out}: no permission to look into this output folder") from error
    if free:
        return
    if not is_scan_store(out):
        raise InputError(
            f"{out}: holds something that is not a scan store, which is never overwritten; choose "
            "another --out"
        )
    if not overwrite:
        raise InputError(
            f"{out}: a scan store exists already; replace it with --overwrite or choose another "
            "--out"
        )


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its name when all went well, and else vanishes."""
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        _swap(partial, out)
    except OSError as error:
        raise _write_failure(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap(partial: Path, out: Path) -> None:
    old = partial.with_suffix(".old")
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _write_failure(out: Path, error: OSError) -> Exception:
    if error.errno in _FULL_DISK:
        return RunError(
            f"{out}: the disk is full; an import needs room for the samples of the masked voxels "
            "twice (scratch file and store). Free space or choose another --out; nothing was left "
            "behind"
        )
    if isinstance(error, PermissionError):
        return InputError(f"{out}: no permission to write there; choose another --out")
    return RunError(f"{out}: the store cannot be written: {error}")
