"""Columns reduced to a fit window against the exact transform of the full columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.band import Band
from tests.scenes import press_basis

WINDOW_PPM = (0.2, 4.2)

AXES = [(1024, 0.25e-3), (512, 0.8e-3), (1021, 0.5e-3), (4096, 83.3e-6), (300, 0.8e-3)]


def band_of(points: int, dwell_time: float, window: tuple[float, float] = WINDOW_PPM) -> Band:
    low, high = sorted(press_basis(points, dwell_time).acquisition.frequency_of(window))
    return Band.between(points, dwell_time, low, high)


def errors(band: Band, fids: np.ndarray, shift: float, damping: float, gaussian: float):
    """Relative error of each modulated column inside the window."""

    def modulation(time: np.ndarray) -> torch.Tensor:
        exponent = (2j * np.pi * shift - damping) * time - (gaussian * time) ** 2
        return torch.from_numpy(np.exp(exponent))

    full_time = np.arange(band.points) * band.dwell_time
    exact = band.crop(torch.from_numpy(fids) * modulation(full_time))
    short = torch.from_numpy(band.reduce(fids)) * modulation(band.short_time())
    return (torch.linalg.norm(band.spectrum(short) - exact, dim=1) / exact.norm(dim=1)).numpy()


@pytest.mark.parametrize(("points", "dwell_time"), AXES)
@pytest.mark.parametrize(
    ("shift", "damping", "gaussian", "bound"),
    [
        (0, 0, 0, 2e-5),
        (10, 5, 0, 3e-5),
        (-10, 5, 0, 3e-5),
        (4, 20, 0, 5e-5),
        (4, 50, 0, 3e-4),
        (4, 100, 0, 3e-3),
        (4, 0, 20, 3e-5),
        (4, 20, 50, 3e-3),
    ],
)
def test_reduced_columns_can_be_shifted_and_damped(
    points, dwell_time, shift, damping, gaussian, bound
):
    fids = press_basis(points, dwell_time).fids
    assert errors(band_of(points, dwell_time), fids, shift, damping, gaussian).max() < bound


def test_narrow_window_is_as_exact():
    band = band_of(1024, 0.5e-3, (1.9, 4.0))
    assert errors(band, press_basis(1024, 0.5e-3).fids, 8.0, 20.0, 0.0).max() < 1e-4


def test_reduction_saves_what_it_is_for():
    assert band_of(1024, 0.25e-3).short_points < 1024 / 5


def test_window_at_the_edge_of_the_spectrum_wraps_as_the_transform_does():
    points, dwell_time = 512, 1e-3
    rng = np.random.default_rng(0)
    time = np.arange(points) * dwell_time
    # Lines on both sides of the edge at 500 Hz; beyond it they stand at the other end.
    fids = np.exp(
        2j * np.pi * rng.uniform(300, 700, (5, 1)) * time - rng.uniform(5, 15, (5, 1)) * time
    )
    band = Band.between(points, dwell_time, 330.0, 499.0)
    assert errors(band, fids, 3.0, 10.0, 0.0).max() < 1e-4


def test_a_window_as_wide_as_the_spectrum_is_exact():
    points, dwell_time = 250, 1e-3
    fids = press_basis(points, dwell_time).fids
    band = Band.between(points, dwell_time, -490.0, 490.0)
    assert band.short_points == points
    assert errors(band, fids, 7.0, 40.0, 30.0).max() < 1e-12


@pytest.mark.parametrize(("low", "high"), [(50.0, 500.0), (-300.0, -50.0), (-100.0, 100.0)])
def test_crop_undoes_expand(low, high):
    band = Band.between(1024, 0.5e-3, low, high)
    window = torch.randn(3, band.bins, dtype=torch.complex128, generator=torch.manual_seed(0))
    torch.testing.assert_close(band.crop(band.expand(window)), window)


def test_crop_takes_the_bins_of_the_shifted_transform():
    band = Band.between(64, 1e-3, -200.0, 150.0)
    fid = np.random.default_rng(0).standard_normal(64) * (1 + 0j)
    spectrum = np.fft.fftshift(np.fft.fft(fid)) / 8
    frequencies = np.fft.fftshift(np.fft.fftfreq(64, 1e-3))
    inside = (frequencies >= -200) & (frequencies <= 150)
    np.testing.assert_allclose(band.crop(torch.from_numpy(fid)).numpy(), spectrum[inside])
    np.testing.assert_allclose(band.frequencies, frequencies[inside])


def test_refuses_a_window_outside_the_spectrum():
    with pytest.raises(ValueError, match="leaves the spectral width of 1000 Hz"):
        Band.between(512, 1e-3, 55.0, 548.0)


def test_refuses_a_window_of_few_points():
    with pytest.raises(ValueError, match="holds 4 points, 8 are needed"):
        Band.between(512, 1e-3, 100.0, 109.0)
