"""Heights and widths of peaks of known shape."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.quality import full_width_half_height, real_spectrum

TIME = torch.arange(4096) * 0.5e-3
STEP = 0.25
FREQUENCIES = torch.arange(-30, 30 + STEP, STEP, dtype=torch.float64)


def test_real_spectrum_is_the_transform_at_its_bins():
    fids = torch.randn(3, 64, dtype=torch.complex64, generator=torch.manual_seed(0))
    time = torch.arange(64) * 1e-3
    bins = torch.fft.fftfreq(64, 1e-3, dtype=torch.float64)
    expected = torch.fft.fft(fids).real
    torch.testing.assert_close(real_spectrum(fids, time, bins), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("damping", [6.0, 10.0, 40.0])
@pytest.mark.parametrize("shift", [0.0, 1.7])
def test_width_of_a_lorentzian_line(damping, shift):
    fid = torch.exp((2j * np.pi * shift - damping) * TIME)[None].to(torch.complex64)
    fid[:, 0] /= 2  # so that the sum over samples is the integral over time
    width = full_width_half_height(real_spectrum(fid, TIME, FREQUENCIES), STEP)
    assert width.item() == pytest.approx(damping / np.pi, rel=0.01)


def test_width_of_a_gaussian_line():
    fid = torch.exp(-((20.0 * TIME) ** 2))[None].to(torch.complex64)
    width = full_width_half_height(real_spectrum(fid, TIME, FREQUENCIES), STEP)
    assert width.item() == pytest.approx(2 * np.sqrt(np.log(2)) * 20 / np.pi, rel=0.01)


def test_height_is_the_sum_of_the_samples_at_the_peak():
    fid = torch.exp((2j * np.pi * 2.0 - 5.0) * TIME)[None].to(torch.complex64)
    height = real_spectrum(fid, TIME, FREQUENCIES).amax(1)
    assert height.item() == pytest.approx(float(torch.exp(-5.0 * TIME).sum()), rel=1e-4)


def test_no_width_where_there_is_no_peak_or_it_leaves_the_axis():
    flat = torch.zeros(1, 50)
    negative = -torch.ones(1, 50)
    rising = torch.linspace(0.6, 1.0, 50)[None]
    width = full_width_half_height(torch.cat([flat, negative, rising]), 1.0)
    assert width.isnan().all()


def test_the_width_is_that_of_the_tallest_peak():
    at = torch.arange(200.0)
    tall = 2 * torch.exp(-(((at - 60) / 5) ** 2))
    broad = torch.exp(-(((at - 140) / 20) ** 2))
    alone, both = full_width_half_height(torch.stack([tall, tall + broad]), 1.0)
    assert both.item() == pytest.approx(alone.item(), rel=0.01)
