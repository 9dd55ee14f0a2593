"""A template averaged from the data themselves, as a reduction over blocks.

One noisy transient as reference costs half of the precision of spectral registration. Here one is
picked, all signals are registered to it and averaged; the average is the reference of a second
pass. Each pass is ``summarise`` per block, ``combine`` two summaries, ``finish``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.kernels.alignment import Alignment, turned
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.projection import Projection
from mrsi_engine.kernels.registration import Registration, Solver, register


@dataclass(frozen=True)
class Pick:
    """The best single signal seen so far: ``fid (time,)`` complex64, ``snr`` and its ``noise_sd``.

    ``snr`` is minus infinity while none was seen.
    """

    fid: Tensor
    snr: Tensor
    noise_sd: Tensor


@dataclass(frozen=True)
class TemplateSums:
    """Sums over aligned signals: ``fid (time,)`` complex128 and ``weight`` float64."""

    fid: Tensor
    weight: Tensor


def summarise_pick(fids: Tensor, noise_sd: Tensor, band: Band) -> Pick:
    """The signal of a block whose tallest peak in a band stands highest above its noise.

    Parameters
    ----------
    fids
        ``(signal, time)`` complex64; signals that are not finite are passed over.
    noise_sd
        ``(signal,)`` SD of the noise per real channel.
    band
        Where the peak is looked for, away from water and lipids.
    """
    height = band.crop(fids[:, : band.points]).abs().amax(1)
    snr = height.to(torch.float64) / noise_sd.to(torch.float64)
    snr = torch.where(torch.isfinite(snr), snr, -torch.inf)
    best = snr.argmax()
    return Pick(fids[best], snr[best], noise_sd[best])


def combine_picks(first: Pick, second: Pick) -> Pick:
    """The better of two; the first where they are equal."""
    return second if bool(second.snr > first.snr) else first


def summarise_aligned(
    fids: Tensor, alignment: Alignment, noise_sd: Tensor, dwell_time: float
) -> TemplateSums:
    """Sum of a block's signals, aligned and weighted as least squares for the template asks.

    A signal counts with its amplitude over its noise variance; signals whose registration is not
    trusted do not count.

    Parameters
    ----------
    fids
        ``(signal, time)`` complex64.
    alignment
        Of these signals to the current template.
    noise_sd
        ``(signal,)``.
    dwell_time
        s.
    """
    good = alignment.trusted & (noise_sd > 0)
    fids, amplitude = fids[good], alignment.amplitude[good]
    variance = noise_sd[good].to(torch.float64).square()
    aligned = turned(fids, dwell_time, -alignment.shift[good], -alignment.phase[good])
    weights = (amplitude / variance).to(torch.complex64)
    total = weights @ aligned
    return TemplateSums(total.to(torch.complex128), (amplitude.square() / variance).sum())


def finish_template(sums: TemplateSums, fallback: Tensor) -> Tensor:
    """The averaged template ``(time,)`` complex64; ``fallback`` where no signal counted."""
    if not bool(sums.weight > 0):
        return fallback
    return (sums.fid / sums.weight).to(torch.complex64)


def averaged_template(
    fids: Tensor,
    noise_sd: Tensor,
    projection: Projection,
    band: Band,
    solver: Solver | None = None,
    passes: int = 2,
    start: Projection | None = None,
) -> tuple[Tensor, Pick]:
    """Template ``(time,)`` complex64 of signals in memory, and the signal that set its frame.

    Parameters
    ----------
    fids, noise_sd
        ``(signal, time)`` complex64 and ``(signal,)``.
    projection
        What counts in the registration.
    band
        Where the first reference is picked by its tallest peak.
    solver
        Settings of the registration; the first reference is one noisy signal, to which no
        damping is fitted.
    passes
        Registrations and averages.
    start
        What counts in the cross-correlation, see :meth:`Registration.build`.
    """
    solver = solver or Solver()
    pick = summarise_pick(fids, noise_sd, band)
    template = pick.fid
    for number in range(passes):
        settings = first_pass(solver) if number == 0 else solver
        ready = Registration.build(template, projection, start=start)
        alignment = register(ready, fids, noise_sd, settings)
        sums = summarise_aligned(fids, alignment, noise_sd, projection.band.dwell_time)
        template = finish_template(sums, template)
    return template, pick


def first_pass(solver: Solver) -> Solver:
    """The solver for a noisy reference, whose damping would fit its noise."""
    return Solver(solver.limit_hz, False, solver.max_iterations, 0.1)
