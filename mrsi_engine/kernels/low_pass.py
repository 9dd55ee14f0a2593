"""A low-pass filter that looks ahead only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def low_pass(passed: float, stopped: float, attenuation: float) -> NDArray[np.float64]:
    """Minimum-phase taps for the edges of pass and stop band, cycles per sample; dB of attenuation.

    A Kaiser-windowed sinc (Kaiser 1974) made minimum-phase through its cepstrum: its weight then
    lies on the first samples, so quickly decaying components are still seen.
    """
    if stopped >= 0.5:
        return np.ones(1)
    transition = 2 * math.pi * (stopped - passed)
    length = math.ceil((attenuation - 8) / (2.285 * transition)) + 1
    beta = 0.1102 * (attenuation - 8.7)
    place = np.arange(length) - (length - 1) / 2
    linear = np.sinc(place * (passed + stopped)) * np.kaiser(length, beta)
    return _minimum_phase(linear / linear.sum(), attenuation)


def _minimum_phase(taps: NDArray[np.float64], attenuation: float) -> NDArray[np.float64]:
    """Taps of (nearly) the same magnitude response with all zeros inside the unit circle."""
    size = 8192
    floor = 10 ** (-attenuation / 20) / 3
    magnitude = np.maximum(np.abs(np.fft.fft(taps, size)), floor)
    cepstrum = np.fft.ifft(np.log(magnitude)).real
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    causal = np.fft.ifft(np.exp(np.fft.fft(cepstrum))).real[: len(taps)]
    return np.asarray(causal / causal.sum(), dtype=np.float64)
