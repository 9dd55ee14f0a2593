"""FIDs that begin late against lines, whose late start is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.late_start import at_times, late_derivative, started_late
from mrsi_engine.kernels.lcm import Delay

DWELL, POINTS = 0.25e-3, 1024
TIME = DWELL * np.arange(POINTS)
HERTZ, DAMPING = np.array([330.0, 200.0, 80.0]), np.array([10.0, 15.0, 60.0])
PIVOT = 250.0
WINDOW = np.abs(np.fft.fftfreq(POINTS, DWELL) - PIVOT) < 230


def lines(delay: float = 0.0) -> np.ndarray:
    """Damped lines ``(line, time)`` that begin ``delay`` s late."""
    return np.exp((2j * np.pi * HERTZ - DAMPING)[:, None] * (TIME + delay))


@pytest.mark.parametrize("delay", [-0.4e-3, 0.13e-3, 1.3e-3])
def test_lines_that_start_late(delay):
    late = started_late(lines(), TIME, PIVOT, delay)
    expected = lines(delay) * np.exp(-2j * np.pi * PIVOT * delay)
    inside = slice(2, POINTS - 8)  # before the first sample and after the last a spline guesses
    np.testing.assert_allclose(late[:, inside], expected[:, inside], atol=2e-5)


def test_derivative_by_the_delay():
    factor = 2j * np.pi * (HERTZ - PIVOT) - DAMPING
    found = late_derivative(lines(), TIME, PIVOT)
    expected = factor[:, None] * lines()
    scale = np.abs(factor)[:, None]
    np.testing.assert_allclose(found[:, :-8] / scale, expected[:, :-8] / scale, atol=1e-4)


@pytest.mark.parametrize("milliseconds", [0.03, 0.1])
def test_the_model_of_a_delay_is_right_to_first_order(milliseconds):
    frequencies = np.fft.fftfreq(POINTS, DWELL) - PIVOT
    spectra = np.fft.fft(lines(), norm="ortho")
    change = np.fft.fft(late_derivative(lines(), TIME, PIVOT), norm="ortho")
    edge = 1e-3 * (change - 2j * np.pi * frequencies * spectra)
    delay = Delay(torch.from_numpy(frequencies), torch.from_numpy(edge))
    tau = torch.tensor([[milliseconds]]).double()
    modelled = delay.apply(torch.from_numpy(spectra)[None], tau)[0].numpy()
    seconds = 1e-3 * milliseconds
    exact = np.fft.fft(lines(seconds), norm="ortho") * np.exp(-2j * np.pi * PIVOT * seconds)
    turned = spectra * delay.turn(tau)[0, 0].numpy()
    error, plain = (np.abs(m - exact)[:, WINDOW].max() for m in (modelled, turned))
    # The next order is 2 pi f delay, at most a sixth here, of what the turn alone gets wrong.
    assert error < 2 * np.pi * 230 * seconds * plain
    assert error < 2e-3 * np.abs(exact).max()


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-3])
def test_a_measured_fid_is_read_between_its_first_samples_too(noise):
    time = np.arange(512) * 4e-4
    rng = np.random.default_rng(0)
    hertz, phase = np.array([-60.0, 40.0, 85.0, 210.0]), np.array([0.1, 0.3, -0.2, 0.0])

    def fid(at):
        return np.exp(2j * np.pi * np.outer(hertz, at) - 9 * at + 1j * phase[:, None]).sum(0)

    measured = fid(time) + noise * (rng.standard_normal(512) + 1j * rng.standard_normal(512))
    wanted = time[:-8] + 1.5e-4
    found = at_times(measured[None], time, 0.0, wanted)[0]
    np.testing.assert_allclose(found, fid(wanted), atol=4 * (1e-6 + 5 * noise))
