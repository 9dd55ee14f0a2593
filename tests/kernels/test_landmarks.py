"""Votes for a scan's shift: where lines are, what noise says, and what water and lipids may say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.kernels.landmarks import Landmarks, strongest
from mrsi_engine.nuclei import nucleus

ALIGNMENT = nucleus("1H").alignment
assert ALIGNMENT is not None
SINGLETS = ALIGNMENT.singlets

AXIS = Acquisition(1024, 0.4e-3, 127.7)
REACH = 128.0


def line(ppm: float, damping: float = 12.0, shift: float = 0.0, axis: Acquisition = AXIS):
    return np.exp((2j * np.pi * (float(axis.frequency_of(ppm)) + shift) - damping) * axis.time)


def brain(shift: float = 0.0, axis: Acquisition = AXIS):
    return sum(height * line(ppm, shift=shift, axis=axis) for ppm, height in SINGLETS)


def white(*shape: int):
    return np.random.default_rng(0).standard_normal((*shape, 2)).view(complex)[..., 0]


def votes(fids: np.ndarray, axis: Acquisition = AXIS, reach: float = REACH):
    landmarks = Landmarks.build(axis, SINGLETS, reach)
    return landmarks.votes(torch.from_numpy(fids.astype(np.complex64))), landmarks.shifts


def found(fid: np.ndarray) -> float:
    voted, shifts = votes(fid[None])
    return float(strongest(voted, shifts)[0])


@pytest.mark.parametrize("shift", [-100.0, -64.0, -13.3, 0.0, 21.6, 64.0, 120.0])
def test_a_shift_is_found_to_a_few_hertz(shift: float) -> None:
    assert found(brain(shift) + 0.05 * white(AXIS.points)) == pytest.approx(shift, abs=3)


@pytest.mark.parametrize("phase", [0.0, 1.0, np.pi, 4.5])
def test_phase_and_scale_do_not_matter(phase: float) -> None:
    assert found(3e-7 * np.exp(1j * phase) * brain(40)) == pytest.approx(40, abs=3)


def test_strong_water_and_lipid_do_not_mislead() -> None:
    nuisance = 300 * line(4.65, 25) + 30 * line(1.3, 60) + 10 * line(0.9, 60)
    assert found(brain(0) + nuisance) == pytest.approx(0, abs=4)


def test_noise_says_as_much_as_the_likelihood_promises() -> None:
    """Each of two windows has an exponential distribution of mean 1; shifts are hardly related."""
    voted, _ = votes(white(4000, AXIS.points))
    assert float(voted.mean()) == pytest.approx(2.0, rel=0.2)
    assert float(voted.var(0).mean()) == pytest.approx(2.0, rel=0.2)


def test_one_voxel_has_a_limited_say() -> None:
    voted, _ = votes(1e6 * brain(0)[None])
    many, _ = votes(brain(0)[None] + 0.02 * white(1, AXIS.points))
    assert float(voted.max()) < 1.1 * float(many.max())


def test_at_another_field_and_dwell_time() -> None:
    axis = Acquisition(512, 0.36e-3, 297.2)
    voted, shifts = votes(brain(-150, axis)[None], axis, 297.2)
    assert float(strongest(voted, shifts)[0]) == pytest.approx(-150, abs=4)


def test_silence_and_no_signals_have_no_say() -> None:
    voted, shifts = votes(np.zeros((1, AXIS.points)))
    assert torch.equal(voted, torch.zeros_like(voted))
    assert votes(np.zeros((0, AXIS.points)))[0].shape == (0, len(shifts))


def test_lines_are_needed() -> None:
    with pytest.raises(ValueError, match="no landmark lines"):
        Landmarks.build(AXIS, (), REACH)
