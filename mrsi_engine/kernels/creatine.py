"""Shift and phase from one peak: a Lorentzian line fitted to creatine (CrR, CrRF).

Creatine peak referencing (Near et al., NMR Biomed 2021;34:e4257): of protons the methyl singlet at
3.03 ppm, of phosphorus phosphocreatine at 0. It needs no reference signal and
gives absolute frequencies, at the price of using one peak of the spectrum. Where the peak is
looked for comes from the three singlets together: on its own, a shifted choline line would be
taken for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.kernels.alignment import Alignment
from mrsi_engine.kernels.projection import Projection
from mrsi_engine.kernels.registration import Registration, Solver, correlate, register
from mrsi_engine.nuclei import nucleus

#: Damping of the landmarks, 1/s: wide enough to be met by any shimmed spectrum.
_LANDMARK_DAMPING = 30.0

#: Early samples left out without a window, s: the broad signals have decayed by then.
_BROAD_DECAY = 5e-3


@dataclass(frozen=True)
class CreatineReferencing:
    """The line and the landmarks made ready for one acquisition."""

    line: Registration
    landmarks: Registration

    @classmethod
    def build(
        cls,
        acquisition: Acquisition,
        whole: bool = False,
        baseline_order: int = 1,
        damping: tuple[float, float] = (3.0, 90.0),
    ) -> CreatineReferencing:
        """A line with a polynomial baseline in a window (CrRF) or in the time domain (CrR).

        Parameters
        ----------
        acquisition
            Axis of the signals.
        whole
            Whether to fit the whole spectrum without its first 5 ms, in which the broad signals
            decay, rather than the line's window.
        baseline_order
            Of the polynomial under the line in the window.
        damping
            Range of the line's damping, 1/s.

        Raises
        ------
        InputError
            If spectra of the nucleus have no such line.
        """
        table = nucleus(acquisition.nucleus).alignment_for("creatine referencing")
        points, dwell = acquisition.points, acquisition.dwell_time
        first = round(_BROAD_DECAY / dwell) if whole else 0
        window = None if whole else _hertz(acquisition, table.line_window)
        order = None if whole else baseline_order
        seen = Projection.build(points - first, dwell, window, order)
        middle = 0.5 * (max(damping[0], 0) + min(damping[1], 50.0))
        creatine = _lines(acquisition, ((table.line, 1.0),))
        around = Projection.build(points, dwell, _hertz(acquisition, table.singlets_window), 2)
        singlets = _lines(acquisition, table.singlets, _LANDMARK_DAMPING)
        return cls(
            Registration.build(creatine, seen, damping, middle, first),
            Registration.build(singlets, around),
        )

    def to(self, device: torch.device) -> CreatineReferencing:
        """The same on another device."""
        return CreatineReferencing(self.line.to(device), self.landmarks.to(device))


def reference_to_creatine(
    referencing: CreatineReferencing, fids: Tensor, noise_sd: Tensor, limit_hz: float = 70.0
) -> Alignment:
    """Shift of creatine from its place, its phase, height and damping.

    Parameters
    ----------
    referencing
        Made for the acquisition of the signals, on their device.
    fids
        ``(signal, time)`` complex64.
    noise_sd
        ``(signal,)`` SD of the noise per real channel of a sample.
    limit_hz
        Largest shift looked for.
    """
    start = correlate(referencing.landmarks, fids, noise_sd, limit_hz).shift
    return register(referencing.line, fids, noise_sd, Solver(limit_hz), start)


def _hertz(acquisition: Acquisition, window_ppm: tuple[float, float]) -> tuple[float, float]:
    first, second = acquisition.frequency_of(window_ppm).tolist()
    return min(first, second), max(first, second)


def _lines(
    acquisition: Acquisition, lines: tuple[tuple[float, float], ...], damping: float = 0.0
) -> Tensor:
    t = torch.from_numpy(acquisition.time)
    total = torch.zeros(acquisition.points, dtype=torch.complex128)
    for ppm, height in lines:
        angle = 2 * torch.pi * float(acquisition.frequency_of(ppm)) * t
        total += torch.polar(height * torch.exp(-damping * t), angle)
    return total
