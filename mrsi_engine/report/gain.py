"""What each stage gains in SNR and linewidth, measured on the spectra without a fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.dimensions import COIL
from mrsi_engine.kernels.noise import noise_sd
from mrsi_engine.nuclei import nucleus
from mrsi_engine.pipeline.ranges import MIN_QUIET_BINS
from mrsi_engine.pipeline.trace import StageTrace

#: Zero-filling of the spectra measured, so that points lie densely on a line.
_ZERO_FILLING = 8

Fids = NDArray[np.complexfloating]


@dataclass(frozen=True)
class Line:
    """Height of a line over the SD of the noise, and its full width at half height in Hz."""

    snr: float
    fwhm: float


@dataclass(frozen=True)
class GainRow:
    """The signals after one step.

    ``mean`` is of the mean of all transients, ``single`` the median of the single ones, if there
    are several. ``gain`` is the SNR of ``mean`` over that of the signals as acquired.
    """

    step: str
    mean: Line
    single: Line | None
    gain: float


@dataclass(frozen=True)
class Gain:
    """SNR and linewidth step by step; ``ppm`` is where the measured line stands at the end."""

    rows: tuple[GainRow, ...]
    ppm: float

    @property
    def over_single(self) -> float:
        """SNR at the end over that of one transient as acquired; NaN where there is but one."""
        single = self.rows[0].single
        return self.rows[-1].mean.snr / single.snr if single else math.nan


def gain_table(traces: Sequence[StageTrace]) -> Gain | None:
    """SNR and linewidth as acquired and after every stage that changed the signals.

    Of several voxels their mean is given, of single coils the one with the best SNR. ``None``
    where nothing was changed, or no range of the spectra is free of signal.
    """
    steps = [trace for trace in traces if trace.changed]
    if not steps or _quiet(steps[0].context.acquisition).sum() < MIN_QUIET_BINS:
        return None
    axis, last = steps[0].context.acquisition, steps[-1]
    ppm = _tallest(last.after.numpy().reshape(-1, axis.points), axis)
    coils = COIL in steps[0].dimensions_before
    found = {"as acquired, best coil" if coils else "as acquired": _lines(steps[0], axis, ppm)}
    for trace in steps:
        found[f"{trace.index + 1}. {trace.name}"] = _lines(trace, axis, ppm, after=True)
    first = next(iter(found.values()))[0]
    rows = (GainRow(step, mean, one, mean.snr / first.snr) for step, (mean, one) in found.items())
    return Gain(tuple(rows), ppm)


def measure_line(fid: Fids, acquisition: Acquisition, ppm: float) -> Line:
    """The line near ``ppm`` in the spectrum of one FID ``(time,)``.

    The spectrum is zero-filled eightfold and freed of the straight line between the feet of the
    line, which the tails of water lift; the rest is turned so that it is real at its tip.
    """
    axis = acquisition.with_points(_ZERO_FILLING * acquisition.points)
    spectrum = _zero_filled(fid, axis)
    lines = nucleus(acquisition.nucleus).lines
    near = np.flatnonzero(np.abs(axis.ppm - ppm) <= lines.search)
    tip = near[np.abs(spectrum[near]).argmax()]
    reach = round(lines.foot * axis.spectrometer_frequency * axis.duration)
    around = spectrum[max(tip - reach, 0) : tip + reach + 1]
    risen = around - np.linspace(around[0], around[-1], len(around))
    top = int(np.abs(risen).argmax())
    real = (risen * np.exp(-1j * np.angle(risen[top]))).real
    height = real[top] / math.sqrt(acquisition.points)
    return Line(float(height / _noise(fid, acquisition)), _width(real, top) / axis.duration)


def _lines(
    trace: StageTrace, axis: Acquisition, ppm: float, *, after: bool = False
) -> tuple[Line, Line | None]:
    """Of the mean transient and of single ones, averaged over voxels."""
    fids = (trace.after if after else trace.before).numpy()
    names = trace.dimensions_after if after else trace.dimensions_before
    pairs = [_voxel_lines(voxel, names, axis, ppm) for voxel in fids]
    singles = [one for _, one in pairs if one is not None]
    return _combined([mean for mean, _ in pairs], np.mean), (
        _combined(singles, np.mean) if singles else None
    )


def _voxel_lines(
    fids: Fids, names: Sequence[str], axis: Acquisition, ppm: float
) -> tuple[Line, Line | None]:
    """Of ``fids ([coil,] [dynamic,] time)``."""
    coils = fids.reshape(fids.shape[0] if COIL in names else 1, -1, axis.points)
    means = [measure_line(coil.mean(0), axis, ppm) for coil in coils]
    best = int(np.argmax([line.snr for line in means]))
    if coils.shape[1] == 1:
        return means[best], None
    singles = [measure_line(fid, axis, ppm) for fid in coils[best]]
    return means[best], _combined(singles, np.median)


def _combined(lines: Sequence[Line], how: Callable[[list[float]], Any]) -> Line:
    return Line(float(how([n.snr for n in lines])), float(how([n.fwhm for n in lines])))


def _tallest(fids: Fids, acquisition: Acquisition) -> float:
    """Where the tallest line of ``fids (voxel, time)`` stands, ppm."""
    axis = acquisition.with_points(_ZERO_FILLING * acquisition.points)
    height = np.abs(_zero_filled(fids, axis)).mean(0)
    low, high = nucleus(acquisition.nucleus).lines.within
    inside = np.flatnonzero((axis.ppm >= low) & (axis.ppm <= high))
    return float(axis.ppm[inside[height[inside].argmax()]])


def _zero_filled(fids: Fids, axis: Acquisition) -> Fids:
    missing = axis.points - fids.shape[-1]
    return axis.spectrum(np.pad(fids, [(0, 0)] * (fids.ndim - 1) + [(0, missing)]))


def _width(real: NDArray[np.floating], top: int) -> float:
    """Full width at half height in points, NaN where a side does not fall to it."""
    sides = [_fall(real[top::-1]), _fall(real[top:])]
    return sum(sides)


def _fall(side: NDArray[np.floating]) -> float:
    """Points from the tip, which is first, to half its height, by linear interpolation."""
    below = np.flatnonzero(side <= side[0] / 2)
    if not below.size:
        return math.nan
    after = int(below[0])
    return after - float((side[0] / 2 - side[after]) / (side[after - 1] - side[after]))


def _noise(fid: Fids, acquisition: Acquisition) -> float:
    quiet = torch.from_numpy(np.fft.ifftshift(_quiet(acquisition)))
    return float(noise_sd(torch.from_numpy(fid.astype(np.complex64))[None], quiet)[0])


def _quiet(acquisition: Acquisition) -> NDArray[np.bool_]:
    low, high = nucleus(acquisition.nucleus).windows.signal
    return (acquisition.ppm < low) | (acquisition.ppm > high)
