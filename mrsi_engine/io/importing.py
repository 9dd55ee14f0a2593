"""Import: a NIfTI-MRS scan and what comes with it become a scan store, in one pass."""

from __future__ import annotations

import errno
import hashlib
import math
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import COIL, Acquisition
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.nifti_mrs import DIMENSION_TAGS, NIfTIMRSHeader, read_header, stem_of
from mrsi_engine.io.scan_store import DEFAULT_CHUNK, ScanStore, is_scan_store
from mrsi_engine.io.signal_mask import signal_mask
from mrsi_engine.io.streaming import SampleStream, Transposer
from mrsi_engine.io.volumes import Tissue, check_grid, read_mask, read_tissue

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
    kept as scalp.
    """

    scan: NIfTIMRSHeader
    water: NIfTIMRSHeader | None
    keep: NDArray[np.intp] | None
    tissue: NDArray[np.float32] | None
    tissue_classes: tuple[str, ...]
    scalp: NDArray[np.bool_] | None
    acquisition: Acquisition


@dataclass(frozen=True, eq=False)
class _Signals:
    """The samples of one file, ready to be read voxel by voxel."""

    header: NIfTIMRSHeader
    dimensions: Mapping[str, int]
    table: Transposer
    energy: NDArray[np.float64]
    checksum: str

    def fids(self, columns: NDArray[np.intp]) -> NDArray[np.complex64]:
        """FIDs ``(n, [coil,] [dynamic,] time)`` of ascending voxel numbers."""
        signals = _in_store_order(self.table.fids(columns), self.header)
        return signals.reshape(len(columns), *self.dimensions.values(), signals.shape[-1])


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
        Water reference on the scan's grid with the scan's dwell time, points and frequency, its
        coils if it has any, and any number of transients.
    tissue
        A 4-D NIfTI of fractions whose last dimension ``tissue_classes`` names, or one 3-D file a
        class, e.g. ``{"gm": ..., "wm": ..., "csf": ...}``.
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


def is_import_of(
    store: ScanStore,
    scan: str | Path,
    *,
    mask: str | Path | None = None,
    water: str | Path | None = None,
    tissue: Tissue | None = None,
    tissue_classes: Sequence[str] = (),
    scalp: str | Path | None = None,
    chunk: int = DEFAULT_CHUNK,
    points: int | None = None,
) -> bool:
    """Whether a store was made from exactly these files with these settings.

    The files are read to compare their contents, not their names or dates.

    Raises
    ------
    InputError
        If a file cannot be read.
    """
    request = _request(scan, mask, water, tissue, tissue_classes, scalp, chunk, points)
    water_checksum = None if request.water is None else _checksum(request.water)
    return store.inputs == _provenance(request, _checksum(request.scan), water_checksum)


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
    classes: tuple[str, ...] = ()
    tissue = None
    if request.tissue is not None:
        classes, tissue = read_tissue(request.tissue, request.tissue_classes, scan.grid)
    return _Inputs(
        scan=scan,
        water=None if request.water is None else _matching_water(request.water, scan),
        keep=None if mask is None else np.flatnonzero(mask if scalp is None else mask | scalp),
        tissue=tissue,
        tissue_classes=classes,
        scalp=scalp,
        acquisition=_cut(scan, request.points),
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
    remedy = (
        "resampling a water reference comes with a later version; give --water on the scan's grid"
    )
    check_grid(path, water.grid, scan.grid, remedy)
    for name, unit in (("dwell_time", "s"), ("points", ""), ("spectrometer_frequency", "MHz")):
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
        voxels, columns = _choose(inputs, [s.energy for s in signals])
        store = _create(folder, request, inputs, voxels, [s.checksum for s in signals])
        for write, signal in zip((store.write_fids, store.write_water), signals, strict=False):
            group = _voxels_at_once(store, signal.header, memory_budget)
            for start in range(0, len(columns), group):
                write(start, signal.fids(columns[start : start + group]))


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
    points, in_file = inputs.acquisition.points, header.acquisition.points
    everything = math.prod(header.grid.shape)
    kept = everything if inputs.keep is None else len(inputs.keep)
    samples = points * header.signals
    table = stack.enter_context(Transposer(kept, samples, memory_budget, scratch))
    energy = np.zeros(kept)
    with SampleStream(header) as stream:
        read = 0
        for run in stream:
            early = (read + np.arange(len(run))) % in_file < points
            wanted = run[early] if inputs.keep is None else run[early][:, inputs.keep]
            table.append(wanted)
            if inputs.keep is None:
                energy += _squared_magnitude(wanted)
            read += len(run)
            tick(len(run))
        dimensions = _water_dimensions(header, inputs.scan)
        return _Signals(header, dimensions, table, energy, stream.checksum)


def _squared_magnitude(samples: NDArray[np.complex64]) -> NDArray[np.float64]:
    parts = samples.view(np.float32).reshape(*samples.shape, 2).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.einsum("tvc,tvc->v", parts, parts))


def _choose(
    inputs: _Inputs, energies: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Voxels of the volume to keep, and the columns of the tables they stand in.

    ``energies`` are of the scan and, if there is one, the water reference, whose contrast between
    head and noise is higher.
    """
    if inputs.keep is not None:
        return inputs.keep, np.arange(len(inputs.keep))
    scan = energies[0]
    scalp = np.zeros(scan.shape, bool) if inputs.scalp is None else inputs.scalp
    brain = signal_mask(energies[-1]) & np.isfinite(scan) & (scan > 0) & ~scalp
    if not brain.any():
        raise InputError(f"{inputs.scan.path}: no voxel holds a signal; every FID is zero or NaN")
    found = np.flatnonzero(brain | scalp)
    return found, found


def _create(
    folder: Path,
    request: _Request,
    inputs: _Inputs,
    voxels: NDArray[np.intp],
    checksums: Sequence[str],
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
        tissue=None if tissue is None else _in_file_order(tissue)[voxels],
        tissue_classes=inputs.tissue_classes,
        stem=stem_of(scan.path),
        source=str(request.scan),
        checksum=checksums[0],
        header=scan.extension,
        mask_origin="given" if inputs.keep is not None else "signal energy",
        inputs=_provenance(request, *checksums),
        notes=scan.notes,
    )


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
