"""Where FIDs begin, by their power: silence before them, filters, echoes within the window."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import firwin

from mrsi_engine.io.beginning import Beginning, find_beginning

DWELL, MHZ, POINTS, OVER = 4e-4, 123.25, 512, 16
#: Lines of a brain: ppm, amplitude, damping (1/s).
LINES = [(2.01, 9, 14), (3.03, 8, 14), (3.21, 5, 14), (3.56, 6, 30), (2.35, 8, 60), (0.9, 6, 120)]
WATER, FAT = [(4.68, 40, 25)], [(1.3, 60, 60)]


def fid(time: np.ndarray, lines, phase: float = 0.4) -> np.ndarray:
    total = np.zeros(len(time), complex)
    for ppm, amplitude, damping in lines:
        angle = 2j * np.pi * (4.65 - ppm) * MHZ
        total += amplitude * np.exp(angle * time - damping * np.abs(time))
    return total * np.exp(1j * phase)


def noisy(signal: np.ndarray, sd: float = 0.5, voxels: int = 16) -> np.ndarray:
    rng = np.random.default_rng(1)
    shape = (voxels, len(signal))
    noise = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    return (signal * rng.uniform(0.8, 1.2, (voxels, 1)) + sd * noise).astype(np.complex64)


def filtered(lines, delay: float) -> np.ndarray:
    """Behind a linear-phase filter: sampled finely, filtered, and every so many samples taken."""
    fine = fid(np.arange(POINTS * OVER) * DWELL / OVER, lines)
    taps = firwin(2 * round(delay * OVER) + 1, 0.9 / OVER, window=("kaiser", 8))
    return np.convolve(fine, taps)[: POINTS * OVER : OVER]


def found(fids: np.ndarray) -> Beginning:
    return find_beginning(fids, DWELL, MHZ)


TIME = np.arange(POINTS) * DWELL


@pytest.mark.parametrize("lines", [LINES, WATER, LINES + WATER, LINES + FAT, [(2.01, 1, 5)]])
@pytest.mark.parametrize("sd", [0.0, 1.0])
def test_an_ordinary_fid_begins_at_once(lines, sd):
    assert found(noisy(fid(TIME, lines), sd)).sample == 0


def test_water_against_fat_grows_first_and_is_no_echo():
    against = [(4.68, -60, 25), (1.3, 60, 60)]
    assert found(noisy(fid(TIME, LINES + against))).kind == "at once"
    finely = np.arange(4 * POINTS) * DWELL / 4
    assert find_beginning(noisy(fid(finely, LINES + against)), DWELL / 4, MHZ).kind == "at once"


def test_a_low_first_sample_is_no_group_delay():
    signal = fid(TIME, LINES)
    signal[0] *= 0.5
    assert found(noisy(signal)).sample == 0


def test_noise_alone_tells_nothing():
    assert found(noisy(np.zeros(POINTS), 1.0)) == Beginning(0, "at once")


@pytest.mark.parametrize("silent", [4, 8, 68, 76])
@pytest.mark.parametrize("sd", [0.02, 0.5])
def test_silence_before_a_signal_that_is_there_at_once(silent, sd):
    signal = np.concatenate([np.zeros(silent), fid(TIME, LINES)[:-silent]])
    assert found(noisy(signal, sd)) == Beginning(silent, "after silence")


@pytest.mark.parametrize("lines", [LINES, LINES + WATER])
@pytest.mark.parametrize("delay", [67.98, 68.0, 67.5, 68.25, 76.03])
def test_a_filter_lets_the_signal_rise(lines, delay):
    where = found(noisy(filtered(lines, delay), 0.05))
    assert where.kind == "through a filter"
    assert abs(where.sample - delay) <= 1.5


def test_an_inverted_doublet_is_no_echo():
    inverted = [(ppm, -a if ppm < 1.5 else a, d) for ppm, a, d in [*LINES, (1.3, 20, 15)]]
    assert found(noisy(fid(TIME, inverted))).kind == "at once"


@pytest.mark.parametrize("before", [8, 20, 60])
@pytest.mark.parametrize("lines", [LINES, LINES + WATER])
def test_an_echo_within_the_window(before, lines):
    assert found(noisy(fid(TIME - before * DWELL, lines))) == Beginning(before, "echo")


@pytest.mark.parametrize("before", [40, 128])
def test_an_echo_of_broad_lines_is_no_filter(before):
    broad = [(ppm, amplitude, 60) for ppm, amplitude, _ in LINES]
    assert found(noisy(fid(TIME - before * DWELL, broad), 0.05)) == Beginning(before, "echo")
