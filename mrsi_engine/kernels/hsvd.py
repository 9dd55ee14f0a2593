"""Removal of the signal in one frequency band by batched, band-limited HSVD.

Hankel singular value decomposition (HSVD; Barkhuijsen et al., J Magn Reson 1987;73:553; with the
decomposition of Laudadio et al., J Magn Reson 2002;157:292) models a FID as a sum of damped
exponentials. Only those in a band, here the residual water, are wanted, so the band is brought to
0 Hz, low-pass filtered and decimated first, and the Hankel matrix becomes small enough for a
batched eigen-decomposition.

The filter looks ahead only, ``y[m] = sum_k h[k] x[m*step + k]``, and ends where the data end. A
damped exponential ``z**n`` then stays exactly one, ``z**(m*step)`` times ``sum_k h[k] z**k``: there
is no ringing at the start of the FID to be mistaken for signal, and amplitudes come back at full
rate by one division.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.errors import InputError

#: Damped exponentials modelled in and around the band: several for a non-Lorentzian water, the
#: rest for metabolites in the filter's transition and for noise.
DEFAULT_COMPONENTS = 12

#: Decimated spectral width over half the band: what is left is the filter's transition.
_WIDTH_RATIO = 5.0

#: Attenuation (dB) of everything that would alias into the band.
_STOP_BAND = 50.0

#: Share of the decimated samples that are rows of the Hankel matrix, and the most there may be.
_ROW_SHARE, _MOST_ROWS = 0.4, 96

_VOXELS_AT_ONCE = 512


class Removal(IntEnum):
    """What :func:`remove_band` did with a voxel.

    ``NOT_SOLVED``: taking away the model would have left more energy than there was.
    """

    REMOVED = 0
    NO_SIGNAL = 1
    NOT_SOLVED = 2


@dataclass(frozen=True)
class BandPlan:
    """The decimating filter and the sizes for one band of one acquisition.

    ``band`` is (low, high) in Hz, ``taps`` the real minimum-phase low-pass ``(tap,)``, ``step`` the
    decimation, ``rows`` those of the Hankel matrix. Made by :meth:`design`.
    """

    points: int
    dwell_time: float
    band: tuple[float, float]
    components: int
    step: int
    taps: NDArray[np.float64]
    rows: int

    @property
    def centre(self) -> float:
        """Middle of the band, Hz."""
        return sum(self.band) / 2

    @classmethod
    def design(
        cls,
        points: int,
        dwell_time: float,
        band: tuple[float, float],
        components: int = DEFAULT_COMPONENTS,
    ) -> BandPlan:
        """The plan for FIDs of ``points`` samples every ``dwell_time`` s.

        Raises
        ------
        InputError
            If the band is empty or not inside the spectrum, or the FIDs are too short for it.
        """
        half = (band[1] - band[0]) / 2
        nyquist = 0.5 / dwell_time
        if not (half > 0 and max(abs(band[0]), abs(band[1])) <= nyquist):
            raise InputError(
                f"HSVD band {band[0]:.1f} to {band[1]:.1f} Hz: expected low < high, both within "
                f"the spectrum (+-{nyquist:.1f} Hz); choose another band"
            )
        step = max(1, int(2 * nyquist / (_WIDTH_RATIO * half)))
        taps = _low_pass(half * dwell_time, step)
        decimated = (points - len(taps)) // step + 1
        rows = min(int(_ROW_SHARE * decimated), _MOST_ROWS)
        if rows <= components:
            raise InputError(
                f"HSVD with {components} components needs more than {components} rows, but "
                f"{points} points leave {max(rows, 0)} for a band {2 * half:.1f} Hz wide; ask for "
                "fewer components, a wider band or use longer FIDs"
            )
        return cls(points, dwell_time, band, components, step, taps, rows)


@dataclass(frozen=True)
class BandRemoval:
    """Result of :func:`remove_band`.

    ``removed`` is ``(voxel, time)`` complex64, zero where nothing was done; ``misfit`` ``(voxel,)``
    float32 the share of the band-limited signal's energy that the model leaves (NaN where
    nothing was done); ``code`` ``(voxel,)`` uint8 of :class:`Removal`.
    """

    removed: Tensor
    misfit: Tensor
    code: Tensor


def remove_band(fids: Tensor, plan: BandPlan) -> BandRemoval:
    """Model the damped exponentials of each FID and give the sum of those inside the band.

    Parameters
    ----------
    fids
        ``(voxel, time)`` complex, any device. A voxel of zeros or with NaN or Inf gets code
        ``NO_SIGNAL`` and touches no other.
    plan
        From :meth:`BandPlan.design`.

    Returns
    -------
    BandRemoval
        ``fids - removed`` is the cleaned signal.
    """
    parts = [_remove(part, plan) for part in fids.split(_VOXELS_AT_ONCE)]
    return BandRemoval(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _remove(fids: Tensor, plan: BandPlan) -> tuple[Tensor, Tensor, Tensor]:
    scale = torch.linalg.vector_norm(fids.to(torch.complex128), dim=1)
    usable = torch.isfinite(scale) & (scale > 0)
    safe = torch.where(usable[:, None], fids.to(torch.complex128), 0)
    safe = safe / torch.where(usable, scale, 1.0)[:, None]
    narrow = _band_limited(safe, plan)
    rates = _rates(narrow, plan)
    amplitudes, misfit, info = _amplitudes(narrow, rates, plan)
    removed = _synthesised(rates, amplitudes, plan)
    # A model that fails, e.g. on a signal that grows, adds energy instead of taking it.
    solved = usable & (info == 0) & (_energy(safe - removed) <= 1)
    code = torch.where(solved, Removal.REMOVED, Removal.NOT_SOLVED)
    code = torch.where(usable, code, Removal.NO_SIGNAL).to(torch.uint8)
    removed = torch.where(solved[:, None], removed * scale[:, None], 0).to(torch.complex64)
    return removed, torch.where(solved, misfit, torch.nan).float(), code


def _band_limited(fids: Tensor, plan: BandPlan) -> Tensor:
    """The band around 0 Hz, ``(voxel, decimated time)`` complex128."""
    turn = -2j * math.pi * plan.centre * plan.dwell_time
    taps = plan.taps * np.exp(turn * np.arange(len(plan.taps)))
    filtered = fids.unfold(1, len(taps), plan.step) @ torch.from_numpy(taps).to(fids.device)
    return filtered * torch.exp(turn * plan.step * _count(filtered.shape[1], fids))


def _rates(narrow: Tensor, plan: BandPlan) -> Tensor:
    """Complex rates of the exponentials, ``(voxel, component)``, log per full-rate sample.

    The signal space is that of the leading eigenvectors U of H H^H; U without its last row times Z
    is U without its first, and the eigenvalues of Z are the poles. U's columns are orthonormal, so
    the normal matrix of this least-squares problem is the identity less the outer product of the
    last row, and Sherman and Morrison solve it.
    """
    hankel = narrow.unfold(1, narrow.shape[1] - plan.rows + 1, 1)
    _, vectors = torch.linalg.eigh(hankel @ hankel.mH)
    leading = vectors[:, :, -plan.components :]
    last = leading[:, -1, :, None].conj()
    across = leading[:, :-1].mH @ leading[:, 1:]
    rest = (1 - last.abs().square().sum(1, keepdim=True)).clamp_min(1e-12)
    poles = torch.linalg.eigvals(across + last @ (last.mH @ across) / rest)
    # |pole| <= 1: an exponential that grows would explode outside the decimated samples.
    damping = poles.abs().clamp(1e-6, 1.0).log()
    return torch.complex(damping, poles.angle()) / plan.step


def _amplitudes(narrow: Tensor, rates: Tensor, plan: BandPlan) -> tuple[Tensor, Tensor, Tensor]:
    """Full-rate amplitudes of the components in the band (0 for others), misfit and solver code."""
    columns = torch.exp(rates[:, None, :] * plan.step * _count(narrow.shape[1], narrow)[:, None])
    lengths = torch.linalg.vector_norm(columns, dim=1)
    columns = columns / lengths[:, None, :]
    # Poles that coincide make the matrix singular; the ridge splits the amplitude between them.
    ridge = 1e-13 * torch.eye(plan.components, device=narrow.device)
    factor, info = torch.linalg.cholesky_ex(columns.mH @ columns + ridge)
    solution = torch.cholesky_solve(columns.mH @ narrow[:, :, None], factor)
    left = narrow - (columns @ solution)[:, :, 0]
    misfit = _energy(left) / _energy(narrow).clamp_min(torch.finfo(torch.float64).tiny)
    gain = _gain(rates, plan)
    # A line wider than the band is no water, and dies too soon in the filter to be scaled back.
    width = (plan.band[1] - plan.band[0]) * math.pi * plan.dwell_time
    chosen = (rates.imag.abs() <= width) & (-rates.real <= width)
    amplitudes = solution[:, :, 0] / lengths / torch.where(chosen, gain, 1.0)
    return torch.where(chosen, amplitudes, 0), misfit, info


def _gain(rates: Tensor, plan: BandPlan) -> Tensor:
    """What the filter does to each exponential, ``(voxel, component)``."""
    taps = torch.from_numpy(plan.taps).to(rates.device)
    powers = torch.exp(rates[:, :, None] * _count(len(taps), rates))
    return powers @ taps.to(powers.dtype)


def _synthesised(rates: Tensor, amplitudes: Tensor, plan: BandPlan) -> Tensor:
    """Sum of the exponentials at full rate, ``(voxel, time)``.

    A sample is ``coarse*step + fine`` and its power the product of two: far fewer exponentials
    than samples times components, and the sum over components is a matrix product.
    """
    full = rates + 2j * math.pi * plan.centre * plan.dwell_time
    blocks = -(-plan.points // plan.step)
    coarse = torch.exp(full[:, None, :] * plan.step * _count(blocks, rates)[:, None])
    fine = torch.exp(full[:, :, None] * _count(plan.step, rates))
    return ((coarse * amplitudes[:, None, :]) @ fine).flatten(1)[:, : plan.points]


def _count(number: int, like: Tensor) -> Tensor:
    return torch.arange(number, device=like.device, dtype=torch.float64)


def _energy(signal: Tensor) -> Tensor:
    return signal.abs().square().sum(1)


def _low_pass(half: float, step: int) -> NDArray[np.float64]:
    """Minimum-phase taps that pass +-``half`` (cycles a sample) and stop what aliases into it.

    A Kaiser-windowed sinc (Kaiser 1974) made minimum-phase through its cepstrum: its weight then
    lies on the first samples, so quickly decaying components are still seen.
    """
    transition = 1 / step - 2 * half
    if transition <= 0:
        return np.ones(1)
    length = math.ceil((_STOP_BAND - 8) / (2.285 * 2 * math.pi * transition)) + 1
    beta = 0.1102 * (_STOP_BAND - 8.7)
    place = np.arange(length) - (length - 1) / 2
    linear = np.sinc(place / step) * np.kaiser(length, beta)
    return _minimum_phase(linear / linear.sum())


def _minimum_phase(taps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Taps of (nearly) the same magnitude response with all zeros inside the unit circle."""
    size = 8192
    floor = 10 ** (-_STOP_BAND / 20) / 3
    magnitude = np.maximum(np.abs(np.fft.fft(taps, size)), floor)
    cepstrum = np.fft.ifft(np.log(magnitude)).real
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    causal = np.fft.ifft(np.exp(np.fft.fft(cepstrum))).real[: len(taps)]
    return np.asarray(causal / causal.sum(), dtype=np.float64)
