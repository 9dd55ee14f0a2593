"""The grid search that a fit starts from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.baseline import Baseline
from mrsi_engine.kernels.lcm import LinearCombinationModel
from mrsi_engine.kernels.start import StartGrid, grid
from tests.scenes import GREY_MATTER, Lineshape, clean_fid, noise, press_basis, sd_for_snr

BASIS = press_basis().select(["NAA", "Cr", "PCh", "Glu", "Ins", "MM"])
AXIS = BASIS.acquisition
BAND = Band.between(AXIS.points, AXIS.dwell_time, *sorted(AXIS.frequency_of((0.2, 4.2))))
CPU = torch.device("cpu")
SHIFTS = [float(s) for s in range(-16, 17, 2)]
POINTS = grid({1: SHIFTS, 2: [2.0, 8.0, 20.0, 40.0]}, torch.zeros(4, dtype=torch.float64))


def starts(baseline: Baseline | None = None, unlikely: torch.Tensor | None = None) -> StartGrid:
    reduced = torch.from_numpy(BAND.reduce(BASIS.fids)).to(torch.complex64)
    group = torch.zeros(len(BASIS.names), dtype=torch.int64)
    model = LinearCombinationModel(reduced, group, torch.from_numpy(BAND.short_time()).float())
    return StartGrid.build(
        BAND,
        model,
        baseline or Baseline.none(BAND.bins, CPU),
        POINTS,
        torch.eye(len(BASIS.names), dtype=torch.float64),
        torch.zeros(len(POINTS)) if unlikely is None else unlikely,
    )


def window(truth: Lineshape, snr: float, voxels: int, extra: np.ndarray | float = 0.0):
    fid = clean_fid(BASIS, GREY_MATTER, truth)
    white = noise(np.random.default_rng(0), voxels, len(fid), sd_for_snr(BASIS, fid, snr))
    return BAND.crop(torch.from_numpy((fid + extra + white).astype(np.complex64)))


def test_grid_holds_every_combination():
    points = grid({0: [1.0, 2.0], 2: [3.0, 4.0, 5.0]}, torch.full((3,), 9.0, dtype=torch.float64))
    assert sorted(points.tolist()) == sorted(
        [a, 9.0, b] for a in (1.0, 2.0) for b in (3.0, 4.0, 5.0)
    )


@pytest.mark.parametrize("shift", [-13.2, 0.3, 9.0])
@pytest.mark.parametrize("phase", [-2.9, -0.4, 1.5, 3.0])
def test_finds_the_nearest_point_and_the_phase(shift, phase):
    theta = starts().best(window(Lineshape(phase, shift, 9.0), 60.0, 20))
    assert ((theta[:, 1] - shift).abs() <= 1.0 + 0.5).all()
    assert (theta[:, 2] == 8.0).all()
    # A shift that is one Hz off turns the phase by about a quarter of a radian.
    assert (torch.remainder(theta[:, 0] - phase + np.pi, 2 * np.pi) - np.pi).abs().max() < 0.4


def test_the_phase_is_the_best_at_its_point():
    one = starts()
    data = window(Lineshape(0.9, 4.0, 8.0), 30.0, 3)
    theta = one.best(data)
    k = int(((POINTS[:, 1] == 4.0) & (POINTS[:, 2] == 8.0)).nonzero())
    span = one.span[:, k].numpy()
    np.testing.assert_allclose(span.T @ span, np.eye(span.shape[1]), atol=1e-5)
    for v in range(3):
        turns = np.exp(-1j * (theta[v, 0].item() + np.array([-0.02, 0.0, 0.02])))
        turned = np.stack([(data[v].numpy() * t) for t in turns])
        explained = (turned.view(np.float64).reshape(3, -1) @ span) ** 2
        assert explained.sum(1).argmax() == 1  # the phase is the best one


def test_a_baseline_does_not_mislead():
    broad = 4e4 * np.exp((2j * np.pi * AXIS.frequency_of(2.6) - 400.0) * AXIS.time)
    truth = Lineshape(0.5, -6.0, 8.0)
    smooth = Baseline.splines(BAND.bins, 16, 0.0, CPU)
    theta = starts(smooth).best(window(truth, 60.0, 20, broad))
    assert (theta[:, 1] == -6.0).all()


def test_unlikely_points_need_evidence():
    rare = (POINTS[:, 1] / 4.0).square()
    weak = window(Lineshape(0.0, 0.0, 8.0), 2.0, 200)
    plain, careful = starts().best(weak), starts(unlikely=rare).best(weak)
    assert careful[:, 1].abs().mean() < plain[:, 1].abs().mean()
    strong = window(Lineshape(0.0, 14.0, 8.0), 60.0, 20)
    assert (starts(unlikely=rare).best(strong)[:, 1] == 14.0).all()


def test_the_next_best_starts_lie_elsewhere():
    data, one = window(Lineshape(0.5, -6.0, 8.0), 60.0, 10), starts()
    shifts = torch.stack([one.best(data, rank)[:, 1] for rank in range(3)])
    assert (shifts[0] == -6.0).all()
    apart = (shifts[:, None] - shifts[None]).abs()[[0, 0, 1], [1, 2, 2]]
    assert (apart > 4.0).all()
    narrow = replace(one, theta=one.theta.clone())
    narrow.theta[:, 1] = 0.0
    assert narrow.best(data, 2).isfinite().all()
