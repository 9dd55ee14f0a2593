"""Spectra of a stage's example voxels, as they entered and as they left it, ready to be drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.dimensions import COIL, DYNAMIC
from mrsi_engine.nuclei import nucleus
from mrsi_engine.pipeline.trace import StageTrace
from mrsi_engine.report.examples import (
    ZERO_FILLING,
    example_voxels,
    lineshape_of,
    voxel_caption,
)
from mrsi_engine.report.stage_figures import BeforeAfter

#: Most transients of a voxel that are drawn.
MOST_TRANSIENTS = 16

#: Line broadening of single transients, Hz: what differs between them is seen through the noise.
BROADENING = 5.0

Fids = NDArray[np.complexfloating]


def before_and_after(
    result: xr.Dataset, trace: StageTrace, last: StageTrace, window: tuple[float, float]
) -> list[BeforeAfter]:
    """Spectra of each voxel that was traced.

    Both are turned by the one phase that brings the signal after the stage nearest to the cleaned
    one in ``window`` (ppm), so that a change of phase is seen as one.

    Parameters
    ----------
    last
        The stage that left the signals clean.
    """
    rows = []
    for n, (voxel, title) in enumerate(example_voxels(result).items()):
        caption = voxel_caption(result, voxel)
        clean = _mean(_transients(last.after[n].numpy(), last.dimensions_after))
        seen = _band(clean * _undo(result, voxel, last), last.context.acquisition, window)
        named = f"{title}: {caption}" if caption else title
        rows.append(_voxel(trace, n, seen, named))
    return rows


def _voxel(trace: StageTrace, row: int, clean: Fids, title: str) -> BeforeAfter:
    axis = trace.context.acquisition
    before = _transients(trace.before[row].numpy(), trace.dimensions_before)
    after = _transients(trace.after[row].numpy(), trace.dimensions_after)
    likeness = _likeness(_mean(after), clean, axis)
    turn = same = np.exp(-1j * np.angle(likeness))
    if _combines_coils(trace):
        # One coil has a phase and a height of its own.
        own = _likeness(_mean(before), clean, axis)
        same = np.exp(-1j * np.angle(own)) * abs(likeness) / (abs(own) or 1.0)
    if max(len(before), len(after)) > 1:
        broad = np.exp(-np.pi * BROADENING * axis.time)
        before, after = before * broad, after * broad
    entered, left = (_spectra(fids, axis) for fids in (before * same, after * turn))
    return BeforeAfter(title, _padded(axis).ppm, entered, left, _note(trace, len(before)))


def _note(trace: StageTrace, drawn: int) -> str:
    notes = []
    if COIL in trace.dimensions_before:
        scaled = ", scaled to the combination" if _combines_coils(trace) else ""
        notes.append("strongest coil" + scaled)
    if DYNAMIC in trace.dimensions_before:
        several = f"{drawn} transients, broadened by {BROADENING:g} Hz"
        notes.append(several if drawn > 1 else "one transient")
    return ", ".join(notes)


def _combines_coils(trace: StageTrace) -> bool:
    return COIL in trace.dimensions_before and COIL not in trace.dimensions_after


def _transients(fids: Fids, names: Sequence[str]) -> Fids:
    """Some transients of the strongest coil, ``(transient, time)``."""
    coils = fids.reshape(len(fids) if COIL in names else 1, -1, fids.shape[-1])
    strongest = coils[np.argmax(np.linalg.norm(coils.mean(1), axis=-1))]
    chosen = np.linspace(0, len(strongest) - 1, min(len(strongest), MOST_TRANSIENTS))
    return strongest[chosen.round().astype(int)]


def _mean(transients: Fids) -> Fids:
    return np.asarray(transients.mean(0))


def _undo(result: xr.Dataset, voxel: int, trace: StageTrace) -> Fids:
    """What takes away the phase and shift that the fit found."""
    phase, shift = (lineshape_of(result, name, voxel) for name in ("phase", "shift"))
    return np.asarray(np.exp(-1j * (phase + 2 * np.pi * shift * trace.context.acquisition.time)))


def _band(fid: Fids, axis: Acquisition, ppm: tuple[float, float]) -> Fids:
    inside = np.fft.ifftshift((axis.ppm >= ppm[0]) & (axis.ppm <= ppm[1]))
    return np.asarray(np.fft.ifft(np.fft.fft(fid) * inside))


def _likeness(fid: Fids, clean: Fids, axis: Acquisition) -> complex:
    """Peak of the cross-correlation of two signals: its argument is the phase between them.

    Weighted by time, as the tails of water are in the first samples.
    """
    points = ZERO_FILLING * axis.points
    product = np.fft.fft(fid * clean.conj() * axis.time, points)
    near = np.abs(np.fft.fftfreq(points, axis.dwell_time))
    product[near > nucleus(axis.nucleus).lines.drift * axis.spectrometer_frequency] = 0
    return complex(product[np.abs(product).argmax()])


def _padded(axis: Acquisition) -> Acquisition:
    return axis.with_points(2 * axis.points)


def _spectra(fids: Fids, axis: Acquisition) -> NDArray[np.floating]:
    return np.real(_padded(axis).spectrum(np.pad(fids, ((0, 0), (0, axis.points)))))
