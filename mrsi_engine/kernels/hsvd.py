"""Removal of the signal in one frequency band by batched, band-limited HSVD.

Hankel singular value decomposition (HSVD; Barkhuijsen et al., J Magn Reson 1987;73:553; with the
decomposition of Laudadio et al., J Magn Reson 2002;157:292) models a FID as a sum of damped
exponentials. Only those in a band, here the residual water, are wanted, so the band and what stands
beside it are brought to 0 Hz, low-pass filtered and decimated first, and the Hankel matrix becomes
small enough for a batched decomposition.

The filter looks ahead only, ``y[m] = sum_k h[k] x[m*step + k]``, and ends where the data end. A
damped exponential ``z**n`` then stays exactly one, ``z**(m*step)`` times ``sum_k h[k] z**k``: there
is no ringing at the start of the FID to be mistaken for signal, and amplitudes come back at full
rate by one division.

The exponentials found this way are near the best fit, not at it, and some of them are noise. So
those whose removal costs no more than noise explains are left out, and the rest take a few steps of
variable projection (Golub & Pereyra 1973, with the Jacobian of Kaufman 1975) towards least squares.
Products of exponentials and of their derivatives are geometric sums, known in closed form, so that
a step handles matrices of components by components and never of samples by components.

What harms metabolites are the tails of wide weak lines, which lie mostly outside the band and stand
for macromolecules or for errors of their neighbours. Unless a line is so strong that it can only be
water, its width is bounded, and it is left out where most of it is not in the band.
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
from mrsi_engine.kernels.batching import batch_size, in_batches
from mrsi_engine.kernels.exponentials import Exponentials, count, energy_of, powers, squared
from mrsi_engine.kernels.low_pass import low_pass

#: Damped exponentials modelled in and around the band: several for a non-Lorentzian water, the
#: rest for metabolites beside it and, until they are left out, for noise.
DEFAULT_COMPONENTS = 16

#: Where the filter passes everything, where it passes nothing (half-widths of the band from its
#: centre), and its attenuation there (dB). The tails of water reach under the metabolites beside
#: it, and are told from them only where both are seen.
_PASS, _STOP, _ATTENUATION = 2.8, 5.2, 50.0

#: Rows of the Hankel matrix: as many, and as long (s), as lines of water need to be told apart; at
#: most this share of the decimated samples.
_ROWS, _APERTURE, _ROW_SHARE = 52, 0.055, 0.4

#: Multiplications by the Hankel matrix and its adjoint that find the signal space.
_ITERATIONS = 4

#: What an exponential must explain, in units of the noise's energy in a sample. The best of all
#: exponentials explains about log(samples), 5, where there is noise only; the rest of the margin is
#: for weak metabolites in the band, which should stay.
_SIGNIFICANT = 15.0

#: What only water explains, in the same units; the width (FWHM over the band's) that a weaker line
#: may have, and the share of its area that must lie in the band.
_STRONG, _WIDTH, _INSIDE = 1000.0, 0.2, 0.7

_REFINEMENTS, _DAMPING = 3, 1e-4

_VOXELS_AT_ONCE = 128


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

    @property
    def bytes_a_voxel(self) -> int:
        """Most memory that a voxel takes at a time; 51 to 71 % of this were measured."""
        return 16 * (6 * self.points + 2 * self.rows**2)

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
        step = max(1, int(1 / (dwell_time * (_PASS + _STOP) * half)))
        taps = low_pass(_PASS * half * dwell_time, _STOP * half * dwell_time, _ATTENUATION)
        decimated = (points - len(taps)) // step + 1
        wanted = max(_ROWS, math.ceil(_APERTURE / (step * dwell_time)))
        rows = min(int(_ROW_SHARE * decimated), wanted)
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
    size = batch_size(fids.device, plan.bytes_a_voxel, on_cpu=_VOXELS_AT_ONCE)
    parts = in_batches(lambda rows: _remove(fids[rows], plan), len(fids), size)
    return BandRemoval(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _remove(fids: Tensor, plan: BandPlan) -> tuple[Tensor, Tensor, Tensor]:
    signal = fids.to(torch.complex128)
    scale = energy_of(signal).sqrt()
    usable = torch.isfinite(scale) & (scale > 0)
    # Any signal will do for the others, as long as it can be decomposed.
    safe = torch.where(usable[:, None], signal / scale[:, None], 1.0)
    narrow = _band_limited(safe, plan)
    rates = _bounded(_rates(narrow, plan), _widest(plan), plan)
    every = torch.ones_like(rates.real, dtype=torch.bool)
    model = Exponentials.fit(narrow, rates, every, plan.step)
    model = _refined(narrow, *_significant(narrow, model, plan), plan)
    misfit = model.energy / energy_of(narrow)
    removed = _synthesised(model.rates, _in_band(model, plan), plan)
    # A model that fails, e.g. on a signal that grows, adds energy instead of taking it.
    solved = usable & model.ok & (energy_of(safe - removed) <= 1)
    code = torch.where(solved, Removal.REMOVED, Removal.NOT_SOLVED)
    code = torch.where(usable, code, Removal.NO_SIGNAL).to(torch.uint8)
    removed = torch.where(solved[:, None], removed * scale[:, None], 0).to(torch.complex64)
    return removed, torch.where(solved, misfit, torch.nan).float(), code


def _band_limited(fids: Tensor, plan: BandPlan) -> Tensor:
    """The band around 0 Hz, ``(voxel, decimated time)`` complex128."""
    turn = -2j * math.pi * plan.centre * plan.dwell_time
    turned = fids * torch.exp(turn * count(plan.points, fids))
    padded = torch.nn.functional.pad(turned, (0, -plan.points % plan.step))
    # Every step-th sample side by side: what a tap multiplies is then contiguous.
    phases = padded.unflatten(1, (-1, plan.step)).mT.contiguous()
    number = (plan.points - len(plan.taps)) // plan.step + 1
    filtered = torch.zeros_like(phases[:, 0, :number])
    for k, tap in enumerate(plan.taps.tolist()):
        start, phase = divmod(k, plan.step)
        filtered.add_(phases[:, phase, start : start + number], alpha=tap)
    return filtered


def _rates(narrow: Tensor, plan: BandPlan) -> Tensor:
    """Complex rates of the exponentials, ``(voxel, component)``, log per full-rate sample.

    U is the leading eigenspace of H H^H; U without its last row times Z is U without its first, and
    the eigenvalues of Z are the poles. U's columns are orthonormal, so the normal matrix of this
    least-squares problem is the identity less the outer product of the last row, and Sherman and
    Morrison solve it. Single precision does for the poles: they are refined.
    """
    leading = _leading(_gram(narrow, plan.rows), plan.components)
    last = leading[:, -1, :, None].conj()
    across = leading[:, :-1].mH @ leading[:, 1:]
    rest = (1 - last.abs().square().sum(1, keepdim=True)).clamp_min(1e-12)
    along = (last.conj() * across).sum(1, keepdim=True)
    shift = (across + last * along / rest).to(torch.complex64)
    # On a GPU torch would take these small matrices one after the other, each slower than here.
    poles = torch.linalg.eigvals(shift.nan_to_num().cpu()).to(narrow)
    return torch.complex(poles.abs().clamp_min(1e-6).log(), poles.angle()) / plan.step


def _gram(narrow: Tensor, rows: int) -> Tensor:
    """H H^H of the Hankel matrix H with so many rows, ``(voxel, row, row)``.

    Its element (i+1, j+1) is that at (i, j) with one product more at the end and one less at the
    start; the first row is a correlation.
    """
    columns = narrow.shape[1] - rows + 1
    size = 1 << (narrow.shape[1] - 1).bit_length()
    ahead = torch.fft.fft(narrow[:, :columns], n=size) * torch.fft.fft(narrow, n=size).conj()
    first = torch.fft.fft(ahead)[:, :rows] / size
    gone, new = narrow[:, : rows - 1], narrow[:, columns:]
    gone_conj, new_conj = -gone.conj().resolve_conj(), new.conj().resolve_conj()
    # Row by row: it is faster than with all products at once, which do not fit the cache.
    gram = narrow.new_empty(rows, len(narrow), rows)
    gram[0], gram[1:, :, 0] = first, first[:, 1:].conj().T
    for i in range(1, rows):
        row = gram[i, :, 1:]
        torch.addcmul(gram[i - 1, :, :-1], new[:, i - 1 : i], new_conj, out=row)
        row.addcmul_(gone[:, i - 1 : i], gone_conj)
    return gram.transpose(0, 1)


def _leading(gram: Tensor, components: int) -> Tensor:
    """Orthonormal basis of about the leading eigenvectors, ``(voxel, row, component)``.

    By subspace iteration from single samples, every second one: their spectrum is flat. Where
    vectors of noise and of weak lines have not come apart yet, it favours early samples, which is
    where signal is.
    """
    apart = min(2, (gram.shape[1] - 1) // max(components - 1, 1))
    vectors = gram[:, :, : apart * components : apart].contiguous()
    for _ in range(_ITERATIONS - 1):
        vectors = gram @ _orthonormal(vectors)
    return torch.linalg.qr(vectors)[0]


def _orthonormal(vectors: Tensor) -> Tensor:
    """By Cholesky: half the time of QR, and good enough between iterations.

    The ridge keeps it defined where water is so strong that the rest is rounding.
    """
    normal = vectors.mH @ vectors
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal.add_(1e-14 * diagonal.real.sum(1, keepdim=True))
    factor = torch.linalg.cholesky_ex(normal)[0]
    one = torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device)
    return vectors @ torch.linalg.solve_triangular(factor, one, upper=False).mH


def _significant(
    narrow: Tensor, model: Exponentials, plan: BandPlan
) -> tuple[Exponentials, Tensor]:
    """The model without exponentials that explain no more than noise, and the width of each.

    Left out one by one. Leaving out exponential k raises the energy left by ``|w_k|**2 / C_kk``
    with C the inverse of the normal matrix; the other weights and C then follow by an update of
    rank one.
    """
    kept, weights, left = model.kept.clone(), model.weights, model.energy
    inverse = torch.cholesky_inverse(model.factor)
    voxel = torch.arange(len(kept), device=kept.device)
    for _ in range(kept.shape[1] + 1):
        diagonal = inverse.diagonal(dim1=1, dim2=2).real.clamp_min(1e-300)
        explained = torch.where(kept, squared(weights) / diagonal, torch.inf)
        noise = left / (narrow.shape[1] - 2 * kept.sum(1)).clamp_min(1)
        cost, k = explained.min(1)
        drop = kept.any(1) & (cost < _SIGNIFICANT * noise)
        if not drop.any():
            break
        column = inverse[voxel, :, k]
        share = torch.where(drop, 1 / diagonal[voxel, k], 0.0)
        weights = weights - column * (weights[voxel, k] * share)[:, None]
        inverse = inverse - column[:, :, None] * (column.conj() * share[:, None])[:, None, :]
        left = left + torch.where(drop, cost, 0.0)
        kept[voxel[drop], k[drop]] = False
    strong = explained >= _STRONG * noise[:, None]
    order = _front(kept)
    widest = torch.where(strong, 1.0, _WIDTH).gather(1, order) * _widest(plan)
    rates = _bounded(model.rates.gather(1, order), widest, plan)
    kept = _plausible(kept.gather(1, order), rates, widest, plan)
    return Exponentials.fit(narrow, rates, kept, plan.step), widest


def _front(kept: Tensor) -> Tensor:
    """Indices ``(voxel, most kept)`` that bring the exponentials kept to the front."""
    most = max(1, int(kept.sum(1).max()))
    return kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]


def _widest(plan: BandPlan) -> float:
    """Damping per sample of a Lorentzian as wide (FWHM) as the band."""
    return (plan.band[1] - plan.band[0]) * math.pi * plan.dwell_time


def _bounded(rates: Tensor, widest: Tensor | float, plan: BandPlan) -> Tensor:
    """Dampings between one that is hardly seen and the widest.

    An exponential that grows would explode outside the decimated samples.
    """
    damping = (-rates.real).clamp_min(0.01 / plan.points)
    return torch.complex(-damping.minimum(torch.as_tensor(widest)), rates.imag)


def _plausible(kept: Tensor, rates: Tensor, widest: Tensor, plan: BandPlan) -> Tensor:
    """Those kept, but for weak lines centred in the band that lie largely outside."""
    half = _widest(plan)
    below, above = (torch.atan((half + sign * rates.imag) / -rates.real) for sign in (1, -1))
    outside = (rates.imag.abs() <= half) & (below + above < _INSIDE * math.pi)
    return kept & ~(outside & (widest < half))


def _refined(narrow: Tensor, model: Exponentials, widest: Tensor, plan: BandPlan) -> Exponentials:
    """The model after a few Levenberg-Marquardt steps; each must lower the energy left.

    Except where an exponential is no longer plausible: without it more energy is left.
    """
    damping = torch.full_like(model.energy, _DAMPING)
    for _ in range(_REFINEMENTS):
        rates = _bounded(model.rates + _step(model, damping, narrow.shape[1], plan), widest, plan)
        kept = _plausible(model.kept, rates, widest, plan)
        tried = Exponentials.fit(narrow, rates, kept, plan.step)
        fewer = (kept != model.kept).any(1)
        better = tried.ok & (fewer | (tried.energy < model.energy))
        model = model.chosen(better, tried)
        damping = torch.where(better, damping / 10, damping * 10)
    return model


def _step(model: Exponentials, damping: Tensor, number: int, plan: BandPlan) -> Tensor:
    """Change of the rates: the normal equations of the columns' derivatives less their projection.

    Solved for weight times change, so that they do not depend on the weights.
    """
    whitened = torch.linalg.solve_triangular(model.factor, model.first, upper=False)
    normal = model.second - whitened.mH @ whitened
    size = model.second.diagonal(dim1=1, dim2=2).real
    normal.diagonal(dim1=1, dim2=2).add_(damping[:, None] * size + (~model.kept).to(size.dtype))
    factor, info = torch.linalg.cholesky_ex(normal)
    gradient = model.moment[:, :, None] - model.first @ model.weights[:, :, None]
    solution = torch.cholesky_solve(gradient, factor)[:, :, 0]
    change = torch.where(model.kept & (info == 0)[:, None], solution / model.weights, 0)
    change = torch.where(torch.isfinite(change.abs()), change, 0)
    # Half a bin: beyond it the derivatives say nothing.
    return change / (change.abs() * number / math.pi).clamp_min(1.0) / plan.step


def _in_band(model: Exponentials, plan: BandPlan) -> Tensor:
    """Full-rate amplitudes of the components in the band, 0 for others, ``(voxel, component)``."""
    chosen = model.kept & (model.rates.imag.abs() <= _widest(plan))
    gain = torch.where(chosen, _gain(model.rates, plan), 1.0)
    return torch.where(chosen, model.weights / model.lengths / gain, 0)


def _gain(rates: Tensor, plan: BandPlan) -> Tensor:
    """What the filter does to each exponential, ``(voxel, component)``."""
    taps = torch.from_numpy(plan.taps).to(rates.device)
    return (powers(torch.exp(rates), len(taps)) * taps[:, None]).sum(1)


def _synthesised(rates: Tensor, amplitudes: Tensor, plan: BandPlan) -> Tensor:
    """Sum of the exponentials at full rate, ``(voxel, time)``, complex64.

    A sample is ``coarse*inner + fine`` and its power the product of two, so that the sum over
    components is a matrix product.
    """
    poles = torch.exp(rates + 2j * math.pi * plan.centre * plan.dwell_time)
    inner = math.isqrt(plan.points - 1) + 1
    coarse = powers(poles**inner, -(-plan.points // inner)) * amplitudes[:, None, :]
    fine = powers(poles, inner)
    product = coarse.to(torch.complex64) @ fine.to(torch.complex64).mT
    return product.flatten(1)[:, : plan.points]
