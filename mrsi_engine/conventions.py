"""Axes, signs and units: the vocabulary every other room speaks.

FIDs stand as they stand on disk in NIfTI-MRS (Levitt's convention, Clarke et al., Magn Reson Med
2022;88:2358): a peak at ``p`` ppm is ``exp(2*pi*i*(reference - p)*f0*t)`` with ``f0`` the
spectrometer frequency in MHz. This file is the only place where a sign is decided. What depends on
the nucleus stands in :mod:`mrsi_engine.nuclei`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrsi_engine.nuclei import nucleus


class Status(IntEnum):
    """How a voxel was quantified; what the ``status`` variable of a result store holds.

    ``CORRECTED`` is what a pipeline leaves that quantifies nothing: clean signals and measures.
    """

    NO_FIT = 0
    NETWORK = 1
    NETWORK_REFINED = 2
    LEAST_SQUARES = 3
    CORRECTED = 4
    NOT_PROCESSED = 255

    @property
    def meaning(self) -> str:
        """The CF ``flag_meanings`` word of this status."""
        return self.name.lower()


class Flag(IntFlag):
    """Why a voxel is not to be trusted; the bits of the ``flags`` variable of a result store.

    The status says how a voxel was quantified, the flags whether to use it: 0 is a good voxel.
    ``OUTLIER`` only asks to look: a lesion is unlike the rest of the scan, too. ``UNKNOWN_NOISE``
    says that the noise could not be measured, so that there is no bound; the estimate is no worse.
    """

    LOW_SNR = 1
    BROAD_LINES = 2
    POOR_FIT = 4
    NOT_CONVERGED = 8
    LIPIDS = 16
    OUTLIER = 32
    NO_FIT = 64
    NO_SIGNAL = 128
    UNKNOWN_NOISE = 256
    AT_SHIFT_BOUND = 512

    @property
    def meaning(self) -> str:
        """The CF ``flag_meanings`` word of this flag."""
        return str(self.name).lower()

    @classmethod
    def rejecting(cls) -> Flag:
        """The flags that make a voxel unusable."""
        return ~(cls.OUTLIER | cls.UNKNOWN_NOISE)


@dataclass(frozen=True)
class ScanNoise:
    """What is known of the noise of a scan's FIDs.

    Parameters
    ----------
    unknown
        Why it cannot be measured, so that no estimate has an error bar; empty where it can.
    flat_hz
        (low, high) frequencies between which it is as strong as among the signals, and where it is
        measured; ``None`` if that is everywhere.
    """

    unknown: str = ""
    flat_hz: tuple[float, float] | None = None


#: Noise as scanners give it.
WHITE = ScanNoise()


@dataclass(frozen=True)
class Acquisition:
    """The axis of a set of FIDs and how they were acquired.

    Parameters
    ----------
    points
        Number of complex samples of a FID.
    dwell_time
        Time between samples, s.
    spectrometer_frequency
        Transmitter frequency, MHz.
    reference_ppm
        Chemical shift at 0 Hz, ppm; that of the nucleus unless given.
    nucleus
        As NIfTI-MRS writes it, e.g. ``"1H"``.
    echo_time, repetition_time
        In s; ``None`` where the source does not say.
    start_time
        Seconds from time zero of the spins' evolution (the echo, or the start of a FID) to the
        first sample. Amplitudes are those at time zero, from which damping counts.

    Raises
    ------
    ValueError
        If ``points``, ``dwell_time`` or ``spectrometer_frequency`` is not positive and finite, or
        ``start_time`` negative, or there is no ``reference_ppm`` and the nucleus has no usual one.
    InputError
        If there is no ``reference_ppm`` and the nucleus is not known.
    """

    points: int
    dwell_time: float
    spectrometer_frequency: float
    reference_ppm: float = math.nan
    nucleus: str = "1H"
    echo_time: float | None = None
    repetition_time: float | None = None
    start_time: float = 0.0

    def __post_init__(self) -> None:
        for field in ("points", "dwell_time", "spectrometer_frequency"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{field} must be positive and finite, found {value!r}")
        if math.isnan(self.reference_ppm):
            usual = nucleus(self.nucleus).reference_ppm
            if usual is None:
                raise ValueError(f"reference_ppm must be stated for {self.nucleus}")
            object.__setattr__(self, "reference_ppm", usual)
        if not (math.isfinite(self.start_time) and self.start_time >= 0):
            raise ValueError(f"start_time must be zero or more, found {self.start_time!r}")

    @property
    def spectral_width(self) -> float:
        """Spectral width, Hz."""
        return 1.0 / self.dwell_time

    @property
    def duration(self) -> float:
        """Length of the FID, s."""
        return self.points * self.dwell_time

    @cached_property
    def time(self) -> NDArray[np.float64]:
        """Seconds from time zero to each sample, ``(time,)``; the first is ``start_time``."""
        return self.start_time + np.arange(self.points, dtype=np.float64) * self.dwell_time

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """Hz of the bins of :meth:`spectrum`, ascending, ``(time,)``."""
        frequencies = np.fft.fftfreq(self.points, self.dwell_time)
        return np.asarray(np.fft.fftshift(frequencies), dtype=np.float64)

    @cached_property
    def ppm(self) -> NDArray[np.float64]:
        """Chemical shift of the bins of :meth:`spectrum`, descending, ``(time,)``."""
        return self.ppm_of(self.frequencies)

    def ppm_of(self, frequency: ArrayLike) -> NDArray[np.float64]:
        """Chemical shift (ppm) of a frequency in Hz."""
        hz = np.asarray(frequency, dtype=np.float64)
        return self.reference_ppm - hz / self.spectrometer_frequency

    def frequency_of(self, ppm: ArrayLike) -> NDArray[np.float64]:
        """Frequency (Hz) at which a peak of that chemical shift stands in the FID."""
        distance = self.reference_ppm - np.asarray(ppm, dtype=np.float64)
        return distance * self.spectrometer_frequency

    def spectrum(self, fids: ArrayLike) -> NDArray[np.complexfloating]:
        """Unnormalised spectrum of ``fids (..., time)`` on :attr:`ppm`, its phase at time zero."""
        spectra = np.fft.fftshift(np.fft.fft(np.asarray(fids), axis=-1), axes=-1)
        if self.start_time == 0:
            return spectra
        return np.asarray(spectra * np.exp(-2j * np.pi * self.frequencies * self.start_time))

    def with_points(self, points: int) -> Acquisition:
        """The same acquisition with another number of samples."""
        return replace(self, points=points)
