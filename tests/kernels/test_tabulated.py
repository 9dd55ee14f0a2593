"""Tabulated Gauss-Newton steps against those of the full evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.baseline import Baseline
from mrsi_engine.kernels.crlb import Bounds
from mrsi_engine.kernels.evaluation import Problem, Spectra, evaluate
from mrsi_engine.kernels.lcm import LinearCombinationModel
from mrsi_engine.kernels.linear import solve_spd
from mrsi_engine.kernels.tabulated import Axis, TabulatedSteps
from mrsi_engine.kernels.varpro import fit
from tests.scenes import noise, press_basis

BASIS = press_basis().select(["NAA", "Cr", "PCr", "GPC", "Glu", "Ins", "MM"])
AXIS = BASIS.acquisition
AMPLITUDES = torch.tensor([9.0, 4.5, 3.5, 1.2, 10.0, 5.5, 8.0])
VOXELS, SD = 64, 1.5


def problem(points: int = 1024, *, with_baseline: bool = True) -> Problem:
    low, high = sorted(AXIS.frequency_of((0.5, 4.0)))
    band = Band.between(points, AXIS.dwell_time, low, high)
    cpu = torch.device("cpu")
    curves = Baseline.splines(band.bins, 12, 0.1, cpu)
    model = LinearCombinationModel(
        torch.from_numpy(band.reduce(BASIS.fids[:, :points])).to(torch.complex64),
        torch.zeros(len(BASIS.names), dtype=torch.int64),
        torch.from_numpy(band.short_time()).float(),
    )
    return Problem(
        band,
        model,
        curves if with_baseline else Baseline.none(band.bins, cpu),
        torch.tensor([True, True, True, False]),
        torch.tensor([-torch.inf, -5.0, 0.0, 0.0], dtype=torch.float64),
        torch.tensor([torch.inf, 5.0, 100.0, 0.0], dtype=torch.float64),
        torch.ones(len(BASIS.names), dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    rng = np.random.default_rng(3)
    drawn = [rng.uniform(*span, VOXELS) for span in ((-0.8, 0.8), (-4, 4), (1, 60), (0, 0))]
    return torch.from_numpy(np.stack(drawn, axis=1))


@pytest.fixture(scope="module")
def window(truth: torch.Tensor) -> torch.Tensor:
    full = LinearCombinationModel(
        torch.from_numpy(BASIS.fids).to(torch.complex64),
        torch.zeros(len(BASIS.names), dtype=torch.int64),
        torch.from_numpy(AXIS.time).float(),
    )
    clean = full.synthesise(AMPLITUDES.expand(VOXELS, -1), truth.float())
    white = noise(np.random.default_rng(4), VOXELS, AXIS.points, SD).astype(np.complex64)
    return problem().band.crop(clean + torch.from_numpy(white))


@pytest.mark.parametrize("with_baseline", [True, False])
def test_a_step_is_that_of_the_full_evaluation(
    truth: torch.Tensor, window: torch.Tensor, with_baseline: bool
) -> None:
    own = problem(with_baseline=with_baseline)
    tables = TabulatedSteps.build(own)
    theta = truth + torch.tensor([0.1, 0.4, 3.0, 0.0], dtype=torch.float64)
    theta[:, 1] = theta[:, 1].clamp(-4.9, 4.9)
    full = evaluate(own, Spectra(window), theta, None)
    expected, _ = solve_spd(full.reduced, full.gradient[:, :, None])
    spread, energy = tables._spread(window)
    move, cost = tables._step(spread, energy, theta)
    torch.testing.assert_close(energy, full.energy, rtol=1e-5, atol=0)
    torch.testing.assert_close(cost, full.cost, rtol=5e-3, atol=0)
    sd = Bounds.of(full.fisher, torch.full((VOXELS,), SD)).covariance[:, -3:, -3:]
    error = (move[:, :3] - expected[:, :, 0]).abs() / sd.diagonal(dim1=1, dim2=2).sqrt()
    # Steps here are tens of standard errors long.
    assert error.max() < 0.5


def test_steps_reach_the_minimum_to_a_fraction_of_its_error(
    truth: torch.Tensor, window: torch.Tensor
) -> None:
    own = problem()
    minimum = fit(own, Spectra(window), truth)
    sd = Bounds.of(minimum.last.fisher, torch.full((VOXELS,), SD)).covariance[:, -3:, -3:]
    start = truth + torch.tensor([0.15, -0.5, 4.0, 0.0], dtype=torch.float64)
    found = TabulatedSteps.build(own).refined(window, start, steps=4)
    error = (found - minimum.last.theta)[:, :3].abs() / sd.diagonal(dim1=1, dim2=2).sqrt()
    assert error.median() < 0.05
    assert (found >= own.lower).all()
    assert (found <= own.upper).all()


def test_a_hopeless_start_ends_within_the_bounds(window: torch.Tensor) -> None:
    own = problem()
    start = torch.tensor([[2.0, 400.0, -7.0, 0.0]], dtype=torch.float64).expand(VOXELS, -1)
    found = TabulatedSteps.build(own).refined(torch.zeros_like(window), start, steps=3)
    assert found.isfinite().all()
    assert ((found >= own.lower) & (found <= own.upper)).all()


def test_cubics_are_exact_on_cubics_and_reach_the_ends() -> None:
    axis = Axis.covering(-5.0, 5.0, 0.7)
    at = torch.linspace(-5, 5, 41, dtype=torch.float64)
    nodes, weights = axis.weights(at)
    values = torch.tensor(axis.nodes, dtype=torch.float64)
    torch.testing.assert_close((values[nodes] ** 3 * weights).sum(1), at**3)
    assert nodes.min() >= 0
    assert nodes.max() < axis.count


def test_only_plain_problems_suit() -> None:
    own = problem()
    assert TabulatedSteps.suits(own)
    assert not TabulatedSteps.suits(replace(own, free=torch.tensor([True, True, True, True])))
    assert not TabulatedSteps.suits(replace(own, signed=~own.signed))
