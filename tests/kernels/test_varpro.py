"""Normal equations and fits against exact float64 derivatives of the full windowed model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.baseline import Baseline
from mrsi_engine.kernels.crlb import Bounds
from mrsi_engine.kernels.lcm import LinearCombinationModel
from mrsi_engine.kernels.varpro import Code, Evaluation, Problem, Spectra, evaluate, fit
from tests.scenes import noise, press_basis

BASIS = press_basis().select(["NAA", "Cr", "PCr", "GPC", "Glu", "Ins", "MM"])
AXIS = BASIS.acquisition
BAND = Band.between(AXIS.points, AXIS.dwell_time, *sorted(AXIS.frequency_of((0.2, 4.2))))
AMPLITUDES = np.array([9.0, 4.5, 3.5, 1.2, 10.0, 5.5, 8.0])
CPU = torch.device("cpu")

LINESHAPES = {"lorentzian": (True, False), "gaussian": (False, True), "voigt": (True, True)}


@dataclass(frozen=True)
class Case:
    """A problem and its exact counterpart."""

    lineshape: str = "lorentzian"
    groups: int = 1
    stiffness: float | None = None
    nonnegative: bool = False

    @cached_property
    def baseline(self) -> Baseline:
        if self.stiffness is None:
            return Baseline.none(BAND.bins, CPU)
        return Baseline.splines(BAND.bins, 12, self.stiffness, CPU)

    @cached_property
    def group(self) -> torch.Tensor:
        return torch.tensor([int(self.groups == 2 and n == "MM") for n in BASIS.names])

    @cached_property
    def problem(self) -> Problem:
        reduced = torch.from_numpy(BAND.reduce(BASIS.fids)).to(torch.complex64)
        time = torch.from_numpy(BAND.short_time()).float()
        model = LinearCombinationModel(reduced, self.group, time)
        lorentzian, gaussian = LINESHAPES[self.lineshape]
        free = torch.tensor([True] + [True, lorentzian, gaussian] * self.groups)
        upper = torch.tensor([np.inf] + [20.0, 100.0, 1e4] * self.groups).double()
        lower = torch.tensor([-np.inf] + [-20.0, 0.0, 0.0] * self.groups).double()
        signed = torch.full((len(AMPLITUDES),), not self.nonnegative)
        return Problem(BAND, model, self.baseline, free, lower, upper, signed)

    @cached_property
    def theta(self) -> torch.Tensor:
        lorentzian, gaussian = LINESHAPES[self.lineshape]
        one = [2.5, 9.0 * lorentzian, 144.0 * gaussian, 1.5, 25.0 * lorentzian, 200.0 * gaussian]
        return torch.tensor([0.6, *one[: 3 * self.groups]]).double()

    def exact(self, amplitudes: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """The model in the window, by the transform of the full columns, as real rows."""
        full = LinearCombinationModel(
            torch.from_numpy(BASIS.fids), self.group, torch.from_numpy(AXIS.time)
        )
        return rows(full.synthesise(amplitudes[None], theta[None]))[0]

    def weighted(self, real: torch.Tensor) -> torch.Tensor:
        return self.baseline.remove(real)

    def jacobian(self, amplitudes: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """``(2 * bins, amplitudes then free parameters)``, the baseline eliminated."""
        by_both = torch.func.jacfwd(self.exact, argnums=(0, 1))(amplitudes, theta)
        both = torch.cat([by_both[0], by_both[1][:, self.problem.free]], dim=1)
        return self.weighted(both.T).T

    def spectra(self, voxels: int, sd: float) -> Spectra:
        return Spectra(self.data(voxels, sd).to(torch.complex64))

    def data(self, voxels: int, sd: float, seed: int = 0) -> torch.Tensor:
        """Noisy windows ``(voxel, bin)`` complex128 of the case's truth."""
        clean = self.exact(torch.from_numpy(AMPLITUDES), self.theta)
        window = torch.view_as_complex(clean.view(-1, 2).contiguous())
        rng = np.random.default_rng(seed)
        return window + torch.from_numpy(noise(rng, voxels, BAND.bins, sd))


def rows(fids: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(BAND.crop(fids)).flatten(-2)


def bound(state: Evaluation, noise_sd: float) -> torch.Tensor:
    """CRLB of all parameters ``(voxel, parameter)``."""
    bounds = Bounds.of(state.fisher, torch.full((len(state.theta),), noise_sd))
    return bounds.covariance.diagonal(dim1=1, dim2=2).sqrt()


CASES = [
    Case(lineshape, groups, stiffness)
    for lineshape in LINESHAPES
    for groups in (1, 2)
    for stiffness in (None, 0.0, 0.3)
]


def named(case: Case) -> str:
    return f"{case.lineshape}-{case.groups}-{case.stiffness}"


@pytest.mark.parametrize("case", CASES, ids=named)
def test_normal_equations_are_those_of_the_exact_model(case):
    data = case.data(2, sd=20.0)
    off = case.theta + torch.tensor([0.05, 0.4, 1.0, 9.0, 0.3, 2.0, -9.0])[: len(case.theta)]
    off = torch.where(case.problem.free, off, case.theta)
    state = evaluate(case.problem, Spectra(data.to(torch.complex64)), off.repeat(2, 1), None)
    assert state.ok.all()
    for v in range(2):
        amplitudes = state.amplitudes[v]
        jacobian = case.jacobian(amplitudes, off)
        residual = case.weighted(
            torch.view_as_real(data[v]).flatten() - case.exact(amplitudes, off)
        )
        fisher = jacobian.T @ jacobian
        # A few 1e-5 of a column's length are what the reduced float32 columns keep.
        size = fisher.diagonal().sqrt()
        scaled = (state.fisher[v] - fisher) / (size[:, None] * size)
        assert scaled.abs().max() < 2e-4
        gradient = (jacobian.T @ residual)[len(amplitudes) :]
        limit = 2e-4 * size[len(amplitudes) :] * torch.linalg.vector_norm(residual)
        assert ((state.gradient[v] - gradient).abs() < limit).all()
        assert state.cost[v].item() == pytest.approx(residual.square().sum().item(), rel=2e-4)


@pytest.mark.parametrize("case", CASES[:6], ids=named)
def test_gradient_is_that_of_the_cost_with_amplitudes_at_their_best(case):
    data = case.data(1, sd=20.0).to(torch.complex64)
    theta = case.theta.clone()
    theta[case.problem.free] *= 1.1
    gradient = evaluate(case.problem, Spectra(data), theta[None], None).gradient[0]
    for i, p in enumerate(case.problem.free.nonzero().squeeze(1).tolist()):
        h = 0.01 * theta[p].item()
        ahead, back = theta.clone(), theta.clone()
        ahead[p] += h
        back[p] -= h
        costs = evaluate(
            case.problem, Spectra(data.repeat(2, 1)), torch.stack([ahead, back]), None
        ).cost
        # The gradient is minus half the derivative.
        slope = -(costs[0] - costs[1]).item() / (4 * h)
        assert gradient[i].item() == pytest.approx(slope, rel=0.01)


@pytest.mark.parametrize("stiffness", [None, 0.0])
def test_best_amplitudes_are_lstsq_of_the_exact_columns(stiffness):
    case = Case(stiffness=stiffness)
    data = case.data(4, sd=50.0)
    state = evaluate(case.problem, Spectra(data.to(torch.complex64)), case.theta.repeat(4, 1), None)
    columns = case.jacobian(torch.from_numpy(AMPLITUDES), case.theta)[:, : len(AMPLITUDES)]
    target = case.weighted(torch.view_as_real(data).flatten(-2))
    expected = np.linalg.lstsq(columns.numpy(), target.T.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(state.amplitudes, expected, rtol=2e-3, atol=2e-3)


def test_nonnegative_amplitudes_are_scipys():
    case = Case(nonnegative=True)
    data = case.data(20, sd=3000.0)
    state = evaluate(
        case.problem, Spectra(data.to(torch.complex64)), case.theta.repeat(20, 1), None
    )
    columns = case.jacobian(torch.from_numpy(AMPLITUDES), case.theta)[:, : len(AMPLITUDES)].numpy()
    expected = [nnls(columns, torch.view_as_real(d).flatten().numpy())[0] for d in data]
    assert (np.array(expected) == 0).any()
    np.testing.assert_allclose(state.amplitudes, expected, rtol=5e-3, atol=0.05)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_crlb_is_that_of_the_exact_model(case):
    """Full Fisher matrix in numpy: spline coefficients too where they are free."""
    state = evaluate(case.problem, case.spectra(1, 1e-3), case.theta[None], None)
    sd = bound(state, 20.0)[0].numpy()
    jacobian = case.jacobian(torch.from_numpy(AMPLITUDES), case.theta).numpy()
    exact = 20.0 * np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))
    np.testing.assert_allclose(sd, exact, rtol=3e-3)


def test_crlb_with_a_free_baseline_is_that_of_all_parameters_together():
    case = Case(stiffness=0.0)
    bare = Case()
    jacobian = bare.jacobian(torch.from_numpy(AMPLITUDES), case.theta)
    everything = np.concatenate([jacobian.numpy(), case.baseline.curves.numpy()], axis=1)
    exact = np.sqrt(np.diag(np.linalg.inv(everything.T @ everything)))[: jacobian.shape[1]]
    state = evaluate(case.problem, case.spectra(1, 1e-3), case.theta[None], None)
    sd = bound(state, 1.0)[0]
    np.testing.assert_allclose(sd.numpy(), exact, rtol=3e-3)


@pytest.mark.parametrize("case", CASES, ids=named)
def test_fit_finds_the_truth_without_noise(case):
    start = case.theta + torch.tensor([0.3, 2.0, 4.0, 40.0, -1.0, 5.0, -80.0])[: len(case.theta)]
    start = torch.where(case.problem.free, start, case.theta)
    result = fit(case.problem, case.spectra(1, 0.0), start[None])
    assert result.code.tolist() == [Code.CONVERGED]
    np.testing.assert_allclose(result.last.theta[0], case.theta, rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(result.last.amplitudes[0], AMPLITUDES, rtol=5e-3)


def test_fit_ends_at_a_minimum():
    case = Case("voigt", 2, 0.3)
    window = case.data(30, sd=50.0).to(torch.complex64)
    result = fit(case.problem, Spectra(window), case.theta.repeat(30, 1))
    assert (result.code == Code.CONVERGED).float().mean() > 0.9
    best = evaluate(case.problem, Spectra(window), result.last.theta, None).cost
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        elsewhere = result.last.theta * (1 + 0.02 * torch.randn(30, 7, generator=generator))
        elsewhere = elsewhere.clamp(case.problem.lower, case.problem.upper)
        cost = evaluate(case.problem, Spectra(window), elsewhere, None).cost
        assert (cost >= best * (1 - 1e-4))[result.code == Code.CONVERGED].all()


def test_bounds_are_kept_and_reached():
    case = Case()
    window = case.data(5, sd=20.0).to(torch.complex64)
    tight = replace(
        case.problem,
        lower=torch.tensor([-np.inf, -1.0, 2.0, 0.0]).double(),
        upper=torch.tensor([np.inf, 1.0, 6.0, 1e4]).double(),
    )
    result = fit(tight, Spectra(window), torch.tensor([0.6, 0.0, 4.0, 0.0]).double().repeat(5, 1))
    assert (result.code == Code.CONVERGED).all()
    np.testing.assert_array_equal(result.last.theta[:, 1], 1.0)
    np.testing.assert_array_equal(result.last.theta[:, 2], 6.0)
    np.testing.assert_array_equal(result.last.theta[:, 3], 0.0)


def test_iterations_are_limited_and_said():
    case = Case()
    window = case.data(3, sd=20.0).to(torch.complex64)
    start = torch.tensor([0.0, 0.0, 30.0, 0.0]).double().repeat(3, 1)
    result = fit(replace(case.problem, max_iterations=1), Spectra(window), start)
    assert result.code.tolist() == [Code.MAX_ITERATIONS] * 3
    assert result.iterations.tolist() == [1] * 3


@pytest.mark.parametrize("nonnegative", [False, True])
def test_bad_windows_are_singular_at_once_and_spare_the_rest(nonnegative):
    case = Case(nonnegative=nonnegative)
    window = case.data(6, sd=20.0).to(torch.complex64)
    start = case.theta.repeat(6, 1)
    expected = fit(case.problem, Spectra(window), start)
    window[1], window[4, 3] = torch.nan, torch.inf
    result = fit(case.problem, Spectra(window), start)
    assert result.code[[1, 4]].tolist() == [Code.SINGULAR] * 2
    assert result.iterations[[1, 4]].tolist() == [0, 0]
    good = [0, 2, 3, 5]
    torch.testing.assert_close(
        result.last.amplitudes[good], expected.last.amplitudes[good], rtol=1e-5, atol=1e-5
    )


def test_a_silent_window_converges_on_nothing():
    case = Case()
    window = torch.zeros(2, BAND.bins, dtype=torch.complex64)
    result = fit(case.problem, Spectra(window), case.theta.repeat(2, 1))
    assert result.code.tolist() == [Code.CONVERGED] * 2
    assert not result.last.amplitudes.any()
