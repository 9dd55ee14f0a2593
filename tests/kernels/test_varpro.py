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
from mrsi_engine.kernels.evaluation import Evaluation, Problem, Spectra, evaluate, stiffness_scores
from mrsi_engine.kernels.late_start import late_derivative
from mrsi_engine.kernels.lcm import Delay, LinearCombinationModel
from mrsi_engine.kernels.priors import Priors
from mrsi_engine.kernels.varpro import Code, fit
from tests.scenes import noise, press_basis

BASIS = press_basis().select(["NAA", "Cr", "PCr", "GPC", "Glu", "Ins", "MM"])
AXIS = BASIS.acquisition
BAND = Band.between(AXIS.points, AXIS.dwell_time, *sorted(AXIS.frequency_of((0.2, 4.2))))
AMPLITUDES = np.array([9.0, 4.5, 3.5, 1.2, 10.0, 5.5, 8.0])
CPU = torch.device("cpu")

#: All but MM and Glu.
MOVABLE = torch.tensor([name not in ("MM", "Glu") for name in BASIS.names])
OWN_SHIFTS = [0.4, -0.3, 0.2, 0.5, -0.6]

LINESHAPES = {"lorentzian": (True, False), "gaussian": (False, True), "voigt": (True, True)}


@dataclass(frozen=True)
class Case:
    """A problem and its exact counterpart."""

    lineshape: str = "lorentzian"
    groups: int = 1
    stiffness: float | None = None
    nonnegative: bool = False
    delayed: bool = False
    own_shifts: bool = False

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
        delay = None
        if self.delayed:
            frequencies, edge = delay_on(torch.fft.fftfreq(AXIS.points, AXIS.dwell_time).double())
            bins = torch.arange(BAND.first_bin, BAND.first_bin + BAND.bins) % AXIS.points
            delay = Delay(frequencies[bins].float(), edge[:, bins].to(torch.complex64))
        model = LinearCombinationModel(reduced, self.group, time, delay, self.movable)
        lorentzian, gaussian = LINESHAPES[self.lineshape]
        more = self.delayed + (len(OWN_SHIFTS) if self.own_shifts else 0)
        free = torch.tensor([True] + [True, lorentzian, gaussian] * self.groups + [True] * more)
        upper = torch.tensor([np.inf] + [20.0, 100.0, 1e4] * self.groups + [5.0] * more).double()
        lower = torch.tensor([-np.inf] + [-20.0, 0.0, 0.0] * self.groups + [-5.0] * more).double()
        signed = torch.full((len(AMPLITUDES),), not self.nonnegative)
        return Problem(BAND, model, self.baseline, free, lower, upper, signed)

    @property
    def movable(self) -> torch.Tensor | None:
        return MOVABLE if self.own_shifts else None

    @cached_property
    def theta(self) -> torch.Tensor:
        lorentzian, gaussian = LINESHAPES[self.lineshape]
        one = [2.5, 9.0 * lorentzian, 144.0 * gaussian, 1.5, 25.0 * lorentzian, 200.0 * gaussian]
        more = [0.06] * self.delayed + OWN_SHIFTS * self.own_shifts
        return torch.tensor([0.6, *one[: 3 * self.groups], *more]).double()

    def exact(self, amplitudes: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """The model in the window, by the transform of the full columns, as real rows."""
        delay = None
        if self.delayed:
            delay = Delay(*delay_on(torch.fft.fftfreq(AXIS.points, AXIS.dwell_time).double()))
        full = LinearCombinationModel(
            torch.from_numpy(BASIS.fids),
            self.group,
            torch.from_numpy(AXIS.time),
            delay,
            self.movable,
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


def delay_on(frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Frequencies from the middle of the window and edge (per ms) on all bins, float64."""
    pivot = float(BAND.frequencies.mean())
    change = torch.from_numpy(late_derivative(BASIS.fids, AXIS.time, pivot))
    spectra = torch.fft.fft(torch.from_numpy(BASIS.fids), norm="ortho")
    from_pivot = frequencies - pivot
    edge = torch.fft.fft(change, norm="ortho") - 2j * np.pi * from_pivot * spectra
    return from_pivot, 1e-3 * edge


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
MORE = [
    Case(delayed=True),
    Case(own_shifts=True),
    Case("voigt", 2, 0.3, delayed=True, own_shifts=True),
]


def named(case: Case) -> str:
    more = "-delayed" * case.delayed + "-own" * case.own_shifts
    return f"{case.lineshape}-{case.groups}-{case.stiffness}{more}"


@pytest.mark.parametrize("case", CASES + MORE, ids=named)
def test_normal_equations_are_those_of_the_exact_model(case):
    data = case.data(2, sd=20.0)
    off = case.theta.clone()
    moved = torch.tensor([0.05, 0.4, 1.0, 9.0, 0.3, 2.0, -9.0])[: 1 + 3 * case.groups]
    off[: len(moved)] += moved
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


@pytest.mark.parametrize("case", CASES + MORE[:2], ids=named)
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


@pytest.mark.parametrize("case", CASES + MORE, ids=named)
def test_fit_finds_the_truth_without_noise(case):
    start = torch.zeros_like(case.theta)
    away = torch.tensor([0.3, 2.0, 4.0, 40.0, -1.0, 5.0, -80.0])[: 1 + 3 * case.groups]
    start[: len(away)] = case.theta[: len(away)] + away
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


# --- priors --------------------------------------------------------------------------------------

GLU, INS, NAA = (BASIS.names.index(n) for n in ("Glu", "Ins", "NAA"))


def priors() -> Priors:
    """Ins = 5 +- 0.5 and Glu / NAA = 1 +- 0.1."""
    rows, reference = torch.zeros(2, 2, len(BASIS.names)).double()
    rows[0, INS] = rows[1, GLU] = 1.0
    reference[1, NAA] = 1.0
    rows[1, NAA] = -1.0
    return Priors(rows, torch.tensor([5.0, 0]).double(), torch.tensor([0.5, 0.1]).double(),
                  reference)  # fmt: skip


def with_priors(case: Case, voxels: int, sd: float) -> Spectra:
    """Data with the priors scaled to their noise, NAA taken to be 9."""
    first = torch.from_numpy(AMPLITUDES).repeat(voxels, 1)
    unit, noise_sd = torch.ones(voxels).double(), torch.full((voxels,), sd).double()
    scaled = priors().scaled(first, torch.zeros(voxels, 2).double(), unit, noise_sd)
    precision = torch.where(torch.arange(len(case.theta)) >= 4, (sd / 0.5) ** 2, 0.0).double()
    spectra = case.spectra(voxels, sd)
    return replace(spectra, priors=scaled, precision=precision.repeat(voxels, 1))


def test_priors_are_further_rows_of_least_squares():
    case, sd = Case(), 100.0
    spectra = with_priors(case, 3, sd)
    state = evaluate(case.problem, spectra, case.theta.repeat(3, 1), None)
    columns = case.jacobian(torch.from_numpy(AMPLITUDES), case.theta)[:, : len(AMPLITUDES)]
    spread = torch.tensor([0.5, 0.1 * 9.0]).double()
    rows = torch.cat([columns, priors().rows * (sd / spread)[:, None]])
    for v in range(3):
        target = torch.view_as_real(spectra.window[v]).flatten().double()
        target = torch.cat([target, priors().mean * sd / spread])
        expected = np.linalg.lstsq(rows.numpy(), target.numpy(), rcond=None)[0]
        off = (state.amplitudes[v] - torch.from_numpy(expected)).abs()
        # The ridge of the solver is what the difference of Cr and PCr shows.
        assert (off < 1e-2 * bound(state, sd)[v, : len(expected)]).all()
        left = target.numpy() - rows.numpy() @ expected
        assert state.cost[v].item() == pytest.approx((left**2).sum(), rel=1e-3)
    assert (state.amplitudes - evaluate(case.problem, case.spectra(3, sd),
            case.theta.repeat(3, 1), None).amplitudes).abs().max() > 0.05  # fmt: skip


def test_gradient_and_degrees_of_freedom_know_the_priors():
    case = Case(own_shifts=True)
    spectra, theta = with_priors(case, 1, 20.0), 1.05 * case.theta
    gradient = evaluate(case.problem, spectra, theta[None], None).gradient[0]
    for p in (1, 2, 4, 5, 8):
        h = 0.02 * theta[p].abs().item()
        both = torch.stack([theta, theta])
        both[0, p] += h
        both[1, p] -= h
        two = spectra.rows(torch.tensor([0, 0]))
        costs = evaluate(case.problem, two, both, None).cost
        column = list(case.problem.free.nonzero().squeeze(1)).index(p)
        slope = -(costs[0] - costs[1]).item() / (4 * h)
        assert gradient[column].item() == pytest.approx(slope, rel=0.01)
    plain = Spectra(spectra.window).degrees_of_freedom(case.problem)
    assert (spectra.degrees_of_freedom(case.problem) - plain).tolist() == [2.0 + 5.0]


def test_a_voxels_own_stiffness_is_that_stiffness():
    case = Case(stiffness=0.3)
    theta, other = case.theta.repeat(2, 1), Case(stiffness=30.0)
    shares = torch.stack([case.baseline.shares(0.3), case.baseline.shares(30.0)])
    own = evaluate(case.problem, replace(case.spectra(2, 20.0), fitted_share=shares), theta, None)
    for v, one in enumerate((case, other)):
        expected = evaluate(one.problem, case.spectra(2, 20.0), theta, None)
        torch.testing.assert_close(own.amplitudes[v], expected.amplitudes[v], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(own.gram[v], expected.gram[v], rtol=1e-4, atol=1.0)
    freedom = replace(case.spectra(2, 20.0), fitted_share=shares).degrees_of_freedom(case.problem)
    assert freedom[1] > freedom[0] + 3


def test_stiffness_scores_are_akaikes():
    case = Case(stiffness=0.0)
    spectra, theta = case.spectra(2, 50.0), case.theta.repeat(2, 1)
    stiffnesses = (1e-2, 1.0, 100.0)
    shares = torch.stack([case.baseline.shares(s) for s in stiffnesses])
    scores = stiffness_scores(case.problem, spectra, theta, shares, weight=2.0)
    turned = spectra.turned_back(theta)
    columns = Case().jacobian(torch.from_numpy(AMPLITUDES), theta[0])[:, : len(AMPLITUDES)]
    # The jacobian is at the voxels' phase; the baseline does not mind a turn.
    columns = torch.view_as_complex(columns.T.reshape(len(AMPLITUDES), -1, 2).contiguous())
    columns = torch.view_as_real(columns * np.exp(-0.6j)).flatten(-2)
    for i, stiffness in enumerate(stiffnesses):
        smooth = Baseline.splines(BAND.bins, 12, stiffness, CPU)
        for v in range(2):
            data = torch.view_as_real(turned[v]).flatten().double()
            linear, target = smooth.remove(columns), smooth.remove(data)
            best = torch.linalg.lstsq(linear.T, target[:, None]).solution[:, 0]
            left = data - best @ columns
            left = left - smooth.fitted(left.float()[None])[0]
            dimension = float(smooth.degrees_of_freedom())
            expected = len(left) * np.log(left.square().sum()) + 2 * 2.0 * dimension
            assert scores[v, i].item() == pytest.approx(float(expected), abs=0.05)
