"""The samples of an import: read once in the file's order, given back as whole FIDs.

What a FID is is decided here as well: where it begins, and that scan and water begin together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.io.beginning import LOOKED_AT, SETTLING, Beginning, find_beginning
from mrsi_engine.io.dimensions import DIMENSION_TAGS
from mrsi_engine.io.header_fields import group_delay
from mrsi_engine.io.import_inputs import Inputs, check_starts, water_dimensions
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader
from mrsi_engine.io.resampling import Resampling, resampled
from mrsi_engine.io.streaming import SampleStream, Transposer
from mrsi_engine.kernels.late_start import at_times

#: Called with the number of time points read so far and in all.
Progress = Callable[[int, int], None]

# Samples held beyond those wanted, for FIDs that turn out to begin late; strongest voxels, and FIDs
# of each, that this is seen in; samples that a stated group delay may lie off what is seen.
_RESERVE, _STRONGEST, _FIDS, _OFF = 256, 16, 8, 3

# Samples that a receiver's dead time or a filter of the baseline may have cost; more zeros than
# these were put before the FID.
_MOST_BLANKED = 16

# Parts of a dwell time by which two files may begin apart and need no interpolation.
_TOGETHER = 1e-2


@dataclass(frozen=True, eq=False)
class Signals:
    """The samples of one file, ready to be read voxel by voxel.

    ``name`` is the companion's, empty for the scan itself. ``kept`` are the file's voxels in the
    table, ``held`` the samples of a FID there, ``resampling`` is for files on another grid, and
    ``energy`` is of the voxels kept. A FID is ``points`` samples from ``first`` on, the first of
    which comes ``start_time`` s after time zero and stands ``between`` samples of the file.
    """

    name: str
    header: NIfTIMRSHeader
    dimensions: Mapping[str, int]
    table: Transposer
    kept: NDArray[np.intp]
    held: int
    energy: NDArray[np.float64]
    checksum: str
    resampling: Resampling | None = None
    first: int = 0
    points: int = 0
    start_time: float = 0.0
    between: float = 0.0

    def fids(self, voxels: NDArray[np.intp]) -> NDArray[np.complex64]:
        """FIDs ``(n, [coil,] [dynamic,] time)`` of ascending voxels of the scan's volume."""
        rows = self._rows(voxels) if self.resampling is None else self._resampled(voxels)
        signals = _in_store_order(rows, self.header)
        whole = signals.reshape(len(voxels), *self.dimensions.values(), self.held)
        cut = whole[..., self.first : self.first + self.points]
        return self._interpolated(whole) if self.between else np.ascontiguousarray(cut)

    def strongest(self) -> NDArray[np.complex64]:
        """Some FIDs ``(n, time)`` of the strongest voxels as the file has them; none without."""
        energy = np.where(np.isfinite(self.energy), self.energy, 0)
        best = np.argsort(energy)[::-1][:_STRONGEST]
        best = best[energy[best] > 0]
        fids = min(_FIDS, self.header.signals)
        rows = [self.table.fids(best[n : n + 1], fids * self.held) for n in range(len(best))]
        if not rows:
            return np.zeros((0, self.held), np.complex64)
        found = np.concatenate(rows).reshape(-1, self.held)[:, :LOOKED_AT]
        return found[np.isfinite(found).all(axis=1) & found.any(axis=1)]

    def energy_on_scan(self) -> NDArray[np.float64]:
        """Energy of every voxel of the scan's grid, 0 where the file has none; without a mask."""
        if self.resampling is None:
            return self.energy
        everything = np.arange(math.prod(self.resampling.target.shape))
        known = np.isfinite(self.energy) & (self.energy > 0)
        weights = self.resampling.weights(everything)
        return np.asarray(resampled(weights, self.energy, known, 0))

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

    def _interpolated(self, whole: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """FIDs between the file's samples; those with NaN or Inf become zero."""
        dwell = self.header.acquisition.dwell_time
        times = np.arange(self.held, dtype=np.float64) * dwell
        wanted = (self.first + self.between + np.arange(self.points, dtype=np.float64)) * dwell
        flat = whole.reshape(-1, self.held).astype(np.complex128)
        flat = np.where(np.isfinite(flat).all(axis=1, keepdims=True), flat, 0)
        found = at_times(flat, times, 0.0, wanted).astype(np.complex64)
        return found.reshape(*whole.shape[:-1], self.points)


class Ticker:
    """Counts time points for whoever shows progress."""

    def __init__(self, inputs: Inputs, progress: Progress | None) -> None:
        self._total = sum(h.points_in_file * h.signals for h in inputs.headers)
        self._done = 0
        self._progress = progress

    def __call__(self, count: int) -> None:
        """That many more are read."""
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)


def absorb(
    stack: ExitStack, inputs: Inputs, memory_budget: int, scratch: Path, tick: Ticker
) -> list[Signals]:
    """All samples of scan and water, each file read once.

    Parameters
    ----------
    stack
        Keeps the scratch files open.
    memory_budget
        Bytes that all of them together may hold in memory.
    scratch
        Folder of the scratch files.
    """
    budget = memory_budget // len(inputs.headers)
    return [_absorb(stack, header, inputs, budget, scratch, tick) for header in inputs.headers]


def begin_together(
    signals: list[Signals], inputs: Inputs
) -> tuple[list[Signals], Acquisition, list[str]]:
    """The signals cut to where FIDs begin, the axis they share, and what is to be said of it.

    Raises
    ------
    InputError
        If it is not clear where they begin, or the water begins after the scan.
    """
    notes: list[str] = []
    begun = [_begun(signal, notes) for signal in signals]
    scan = begun[0]
    points = min(inputs.points, scan.held - scan.first)
    acquisition = replace(inputs.scan.acquisition, points=points, start_time=scan.start_time)
    aligned = [replace(scan, points=points)]
    for water in begun[1:]:
        check_starts(water.header, water.start_time, scan.start_time)
        later = max(0.0, (scan.start_time - water.start_time) / acquisition.dwell_time)
        whole = math.floor(later + _TOGETHER)
        between = later - whole if later - whole > _TOGETHER else 0.0
        first = water.first + whole
        own = min(points, water.held - first - bool(between))
        aligned.append(replace(water, first=first, between=between, points=own))
    return aligned, acquisition, notes


def shared_points(signals: Sequence[Signals], points: int) -> int:
    """How many of so many samples of the scan all files have.

    A water reference may lack those that bringing it to the scan's first sample took.

    Raises
    ------
    InputError
        If a water reference is shorter.
    """
    shortest = min(signal.points for signal in signals)
    for water in signals[1:]:
        length = water.header.points_in_file
        if water.points < points and length - water.header.skipped < points:
            raise InputError(
                f"{water.header.path}: water reference with points {length}, fewer than the "
                f"{points} of the scan; cut both with --points {water.points}, or give a longer "
                "reference"
            )
    return min(points, shortest)


def _begun(signal: Signals, notes: list[str]) -> Signals:
    """A file's signals from where they begin, which may have to be found."""
    header, axis = signal.header, signal.header.acquisition
    whole = replace(signal, first=header.skipped, start_time=axis.start_time)
    fids = signal.strongest()
    if not len(fids):
        return whole
    if header.skipped:
        before = find_beginning(fids, axis.dwell_time, axis.spectrometer_frequency)
        if before.kind == "through a filter" and abs(before.sample - header.skipped) <= _OFF:
            notes.append(f"{header.path.name}: {SETTLING} more points left out, a filter settles")
            return _later(whole, SETTLING, SETTLING)
    rest = fids[:, header.skipped :]
    rest = rest[rest.any(axis=1)]
    if not len(rest):
        return whole
    found = find_beginning(rest, axis.dwell_time, axis.spectrometer_frequency)
    if found.kind == "echo" and axis.start_time > 0:
        # Stated to begin after the echo, where two lines can be mirrored about being in phase.
        found = Beginning(0, "at once")
    stated = group_delay(header.extension)
    if stated is not None and abs(stated - found.sample) <= _OFF and found.kind != "at once":
        first = math.ceil(stated) + (SETTLING if found.kind == "through a filter" else 0)
        notes.append(
            f"{header.path.name}: a group delay of {stated:g} points is stated and seen: "
            f"{first} points left out, the model begins {first - stated:.3g} points after time zero"
        )
        return _later(whole, first, first - stated)
    blank = found.sample <= _MOST_BLANKED and not rest[:, : found.sample].any()
    if found.kind == "after silence" and blank:
        raise InputError(_blank(header, found.sample))
    if found.kind == "after silence":
        notes.append(
            f"{header.path.name}: the signal begins at point {found.sample} after near silence "
            f"(a digital filter's group delay?): {found.sample} points left out"
        )
        return _later(whole, found.sample, 0)
    if found.kind != "at once":
        raise InputError(_unclear(header, found))
    return whole


def _later(signal: Signals, samples: int, after_zero: float) -> Signals:
    """The signals from some samples on, the first of which comes so many after time zero."""
    start = signal.start_time + after_zero * signal.header.acquisition.dwell_time
    return replace(signal, first=signal.first + samples, start_time=start)


def _blank(header: NIfTIMRSHeader, points: int) -> str:
    late = points * header.acquisition.dwell_time
    return (
        f"{header.path}: the first {points} points are exactly zero, and it is not said whether "
        "they were put before the FID or blanked out of it; leave them out of the file, and if "
        f'they were blanked state "AcquisitionStartTime": {late:g} (s, where it is 0 now)'
    )


def _unclear(header: NIfTIMRSHeader, found: Beginning) -> str:
    dwell = header.acquisition.dwell_time
    if found.kind == "echo":
        return (
            f"{header.path}: the FIDs grow to an echo at point {found.sample} and are mirrored "
            "about it, so sampling began before the echo, which the header does not say; state it: "
            f'"AcquisitionStartTime": {-found.sample * dwell:.6g} (s; minus the time from the '
            "first sample to the echo)"
        )
    return (
        f"{header.path}: the signal rises around point {found.sample} after near silence, as "
        "behind a digital filter whose group delay (GRPDLY of Bruker) was not removed; the FIDs "
        'do not say it to a fraction of a point, so state it: "AcquisitionStartTime": -GRPDLY * '
        f"{dwell:g} s, about {-found.sample * dwell:.4g}"
    )


def _absorb(
    stack: ExitStack,
    header: NIfTIMRSHeader,
    inputs: Inputs,
    memory_budget: int,
    scratch: Path,
    tick: Ticker,
) -> Signals:
    in_file = header.points_in_file
    held = min(in_file, header.skipped + inputs.points + _RESERVE)
    resampling = inputs.resamplings.get(inputs.name_of(header))
    kept = _kept(header, inputs.keep, resampling)
    table = stack.enter_context(
        Transposer(len(kept), held * header.signals, memory_budget, scratch)
    )
    energy = np.zeros(len(kept))
    counted = inputs.points if inputs.keep is None else min(inputs.points, LOOKED_AT)
    with SampleStream(header) as stream:
        read = 0
        for run in stream:
            place = (read + np.arange(len(run))) % in_file
            wanted, place = run[place < held], place[place < held] - header.skipped
            wanted = wanted[:, kept] if len(kept) < run.shape[1] else wanted
            table.append(wanted)
            counts = (place >= 0) & (place < counted)
            energy += _squared_magnitude(wanted if counts.all() else wanted[counts])
            read += len(run)
            tick(len(run))
        dimensions = water_dimensions(header, inputs.scan)
        name = inputs.name_of(header)
        return Signals(
            name, header, dimensions, table, kept, held, energy, stream.checksum, resampling
        )


def _in_store_order(table: NDArray[np.complex64], header: NIfTIMRSHeader) -> NDArray[np.complex64]:
    """``(n, samples)`` as the file has them as ``(n, [coil,] [dynamic,] time)``."""
    slowest_first = [
        (DIMENSION_TAGS[tag], length) for tag, length in header.higher_dimensions[::-1]
    ]
    names = [name for name, _ in slowest_first]
    signals = table.reshape(len(table), *(length for _, length in slowest_first), -1)
    order = [1 + names.index(name) for name in header.dimensions]
    return np.ascontiguousarray(signals.transpose(0, *order, len(order) + 1))


def _kept(
    header: NIfTIMRSHeader, keep: NDArray[np.intp] | None, resampling: Resampling | None
) -> NDArray[np.intp]:
    """Voxels of a file that are held, ascending."""
    if keep is None:
        return np.arange(math.prod(header.grid.shape))
    return keep if resampling is None else resampling.needed(keep)


def _squared_magnitude(samples: NDArray[np.complex64]) -> NDArray[np.float64]:
    parts = np.ascontiguousarray(samples).view(np.float32).reshape(*samples.shape, 2)
    # Samples may be NaN, even a signalling one, whose conversion warns.
    with np.errstate(invalid="ignore", over="ignore"):
        doubled = parts.astype(np.float64)
        return np.asarray(np.einsum("tvc,tvc->v", doubled, doubled))
