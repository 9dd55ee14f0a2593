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

The exponentials found this way are near the best fit, not at it, and some of them are noise. So
those whose removal costs no more than noise explains are left out, and the rest take two steps of
variable projection (Golub & Pereyra 1973, with the Jacobian of Kaufman 1975) towards least squares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.errors import InputError

#: Damped exponentials modelled in and around the band: several for a non-Lorentzian water, the
#: rest for metabolites beside it and, until they are left out, for noise.
DEFAULT_COMPONENTS = 16

#: Decimated spectral width over half the band. The tails of water reach under the metabolites
#: beside it, and are told from them only where both are seen.
_WIDTH_RATIO = 7.4

#: Share of the decimated spectrum that the filter passes whole and nothing aliases into, and the
#: attenuation (dB) of what aliases.
_PASS_BAND, _STOP_BAND = 0.7, 50.0

#: Share of the decimated samples that are rows of the Hankel matrix, and the most there may be.
_ROW_SHARE, _MOST_ROWS = 0.4, 52

#: What an exponential must explain, in units of the noise's energy in a sample. The best of all
#: exponentials explains about log(samples), 5, where there is noise only; the rest of the margin is
#: for weak metabolites in the band, which should stay.
_SIGNIFICANT = 20.0

_REFINEMENTS, _DAMPING = 2, 1e-4

_VOXELS_AT_ONCE = 256


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
        step = max(1, round(2 * nyquist / (_WIDTH_RATIO * half)))
        taps = _low_pass(step)
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
    model = _Model.fit(narrow, rates, torch.ones_like(rates.real, dtype=torch.bool), plan)
    model = _refined(narrow, _significant(narrow, model, plan), plan)
    misfit = model.energy / _energy(narrow).clamp_min(torch.finfo(torch.float64).tiny)
    removed = _synthesised(model.rates, _in_band(model, plan), plan)
    # A model that fails, e.g. on a signal that grows, adds energy instead of taking it.
    solved = usable & model.ok & (_energy(safe - removed) <= 1)
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


@dataclass(frozen=True)
class _Model:
    """Exponentials fitted to decimated data.

    ``rates``, ``kept``, ``weights`` (of columns of length 1), ``lengths`` (voxel, component);
    ``columns`` (voxel, sample, component) of length 1, 0 where not kept; ``factor`` their normal
    matrix' Cholesky factor; ``left`` (voxel, sample), ``energy`` and ``ok`` (voxel,).
    """

    rates: Tensor
    kept: Tensor
    columns: Tensor
    lengths: Tensor
    factor: Tensor
    weights: Tensor
    left: Tensor
    energy: Tensor
    ok: Tensor

    @classmethod
    def fit(cls, narrow: Tensor, rates: Tensor, kept: Tensor, plan: BandPlan) -> _Model:
        """The best amplitudes of these exponentials."""
        columns = _powers(rates * plan.step, narrow.shape[1])
        lengths = torch.linalg.vector_norm(columns, dim=1)
        columns = columns * (kept / lengths)[:, None, :]
        # Poles that coincide make the matrix singular; the ridge splits the amplitude between them.
        normal = columns.mH @ columns
        normal.diagonal(dim1=1, dim2=2).add_((~kept).to(lengths.dtype) + 1e-12)
        factor, info = torch.linalg.cholesky_ex(normal)
        weights = torch.cholesky_solve(columns.mH @ narrow[:, :, None], factor)
        left = narrow - (columns @ weights)[:, :, 0]
        energy = _energy(left)
        ok = (info == 0) & torch.isfinite(energy)
        return cls(rates, kept, columns, lengths, factor, weights[:, :, 0], left, energy, ok)

    def chosen(self, better: Tensor, other: _Model) -> _Model:
        """The other model where it is better, this one elsewhere."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return _Model(*(torch.where(better.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))


def _significant(narrow: Tensor, model: _Model, plan: BandPlan) -> _Model:
    """The model without exponentials that explain no more than noise, left out one by one.

    Leaving out exponential k raises the energy left by ``|w_k|**2 / C_kk`` with C the inverse of
    the normal matrix; the other weights and C then follow by an update of rank one.
    """
    kept, weights, left = model.kept.clone(), model.weights, model.energy
    inverse = torch.cholesky_inverse(model.factor)
    voxel = torch.arange(len(kept), device=kept.device)
    for _ in range(kept.shape[1]):
        diagonal = inverse.diagonal(dim1=1, dim2=2).real.clamp_min(1e-300)
        cost, k = torch.where(kept, weights.abs().square() / diagonal, torch.inf).min(1)
        noise = left / (narrow.shape[1] - 2 * kept.sum(1)).clamp_min(1)
        drop = kept.any(1) & (cost < _SIGNIFICANT * noise)
        if not drop.any():
            break
        column = inverse[voxel, :, k]
        share = torch.where(drop, 1 / diagonal[voxel, k], 0.0)
        weights = weights - column * (weights[voxel, k] * share)[:, None]
        inverse = inverse - column[:, :, None] * (column.conj() * share[:, None])[:, None, :]
        left = left + torch.where(drop, cost, 0.0)
        kept[voxel[drop], k[drop]] = False
    most = max(1, int(kept.sum(1).max()))
    order = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    return _Model.fit(narrow, model.rates.gather(1, order), kept.gather(1, order), plan)


def _refined(narrow: Tensor, model: _Model, plan: BandPlan) -> _Model:
    """The model after a few Levenberg-Marquardt steps; each must lower the energy left."""
    damping = torch.full_like(model.energy, _DAMPING)
    for _ in range(_REFINEMENTS):
        rates = model.rates + _step(model, damping, plan)
        rates = torch.complex(rates.real.clamp_max(0.0), rates.imag)
        tried = _Model.fit(narrow, rates, model.kept, plan)
        better = tried.ok & (tried.energy < model.energy)
        model = model.chosen(better, tried)
        damping = torch.where(better, damping / 10, damping * 10)
    return model


def _step(model: _Model, damping: Tensor, plan: BandPlan) -> Tensor:
    """Change of the rates: the normal equations of the columns' derivatives less their projection.

    Solved for weight times change, so that they do not depend on the weights.
    """
    count = plan.step * _count(model.columns.shape[1], model.left)
    derivative = model.columns * count[:, None]
    across = model.columns.mH @ derivative
    size = _energy(derivative)
    normal = derivative.mH @ derivative - across.mH @ torch.cholesky_solve(across, model.factor)
    normal.diagonal(dim1=1, dim2=2).add_(damping[:, None] * size + (~model.kept).to(size.dtype))
    factor, info = torch.linalg.cholesky_ex(normal)
    solution = torch.cholesky_solve(derivative.mH @ model.left[:, :, None], factor)[:, :, 0]
    change = torch.where(model.kept & (info == 0)[:, None], solution / model.weights, 0)
    change = torch.where(torch.isfinite(change.abs()), change, 0)
    # Half a bin: beyond it the derivatives say nothing.
    return change / (change.abs() * len(count) * plan.step / math.pi).clamp_min(1.0)


def _in_band(model: _Model, plan: BandPlan) -> Tensor:
    """Full-rate amplitudes of the components in the band, 0 for others, ``(voxel, component)``."""
    # A line wider than the band is no water, and dies too soon in the filter to be scaled back.
    width = (plan.band[1] - plan.band[0]) * math.pi * plan.dwell_time
    chosen = model.kept & (model.rates.imag.abs() <= width) & (-model.rates.real <= width)
    gain = torch.where(chosen, _gain(model.rates, plan), 1.0)
    return torch.where(chosen, model.weights / model.lengths / gain, 0)


def _gain(rates: Tensor, plan: BandPlan) -> Tensor:
    """What the filter does to each exponential, ``(voxel, component)``."""
    taps = torch.from_numpy(plan.taps).to(rates.device)
    powers = _powers(rates, len(taps)).mT
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


def _powers(rates: Tensor, number: int) -> Tensor:
    """``exp(rates * n)`` for n from 0, ``(voxel, number, component)``, by few exponentials."""
    inner = math.isqrt(number - 1) + 1
    coarse = torch.exp(rates[:, None, :] * inner * _count(-(-number // inner), rates)[:, None])
    fine = torch.exp(rates[:, None, :] * _count(inner, rates)[:, None])
    return (coarse[:, :, None, :] * fine[:, None, :, :]).flatten(1, 2)[:, :number]


def _count(number: int, like: Tensor) -> Tensor:
    return torch.arange(number, device=like.device, dtype=torch.float64)


def _energy(signal: Tensor) -> Tensor:
    return signal.abs().square().sum(1)


def _low_pass(step: int) -> NDArray[np.float64]:
    """Minimum-phase taps that pass all of the decimated spectrum but its edges.

    A Kaiser-windowed sinc (Kaiser 1974) made minimum-phase through its cepstrum: its weight then
    lies on the first samples, so quickly decaying components are still seen.
    """
    if step == 1:
        return np.ones(1)
    transition = (1 - _PASS_BAND) / step
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
