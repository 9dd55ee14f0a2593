"""Priors, own shifts, delays, cut FIDs, chosen baselines, ratios: each against known truth."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm

from mrsi_engine.errors import InputError
from mrsi_engine.fit.priors import PriorTable
from mrsi_engine.kernels.start import StartGrid
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.stages.quantify import Quantify
from tests.scenes import GREY_MATTER, Lineshape, clean_fid, noise, press_basis, run_stage

TRUTH = Lineshape()
NAMES = ["Cr", "PCr", "NAA", "NAAG", "GPC", "Glu", "Gln", "Ins", "MM"]
NOISE = 18.0  # SNR about 40


@cache
def small_basis(points: int = 1024) -> Basis:
    return press_basis(points).select(NAMES)


def signals(amplitudes: np.ndarray, factor: np.ndarray | float = 1.0) -> np.ndarray:
    """Noisy FIDs of ``amplitudes (voxel, metabolite)`` under the truth's lineshape."""
    basis = small_basis()
    time = basis.acquisition.time
    shape = np.exp((2j * np.pi * TRUTH.shift - TRUTH.lorentzian) * time + 1j * TRUTH.phase)
    white = noise(np.random.default_rng(7), len(amplitudes), len(time), NOISE)
    return (amplitudes @ (basis.fids * factor)) * shape + white


def typical(voxels: int) -> np.ndarray:
    return np.tile([GREY_MATTER[n] for n in small_basis().names], (voxels, 1))


def assert_calibrated(block: Block, truths: dict[str, np.ndarray | float]) -> None:
    """Errors in units of their SDs have mean 0 and variance 1, each by its own distribution.

    The limits leave an SD 7 % either way, beyond the chance of 0.3 % for all looked at together.
    """
    for name, truth in truths.items():
        z = ((block.estimate[name] - torch.as_tensor(truth)) / block.sd[name]).numpy()
        assert abs(z.mean()) * np.sqrt(len(z)) < norm.isf(norm.sf(3.0) / len(truths)), name
        tail = 0.0015 / len(truths)
        low, high = chi2.ppf([tail, 1 - tail], len(z) - 1) / (len(z) - 1)
        assert low * 0.93**2 < z.var(ddof=1) < high * 1.07**2, (name, z.std())


def by_name(amplitudes: np.ndarray) -> dict[str, np.ndarray]:
    columns = dict(zip(small_basis().names, amplitudes.T, strict=True))
    return columns | {"CrPCr": columns["Cr"] + columns["PCr"]}


# --- map -----------------------------------------------------------------------------------------

OWN_PRIORS = PriorTable.model_validate(
    {
        "prior": [
            {"of": "NAAG", "to": "NAA", "mean": 0.15, "sd": 0.05},
            {"of": "Gln", "mean": 3.5, "sd": 0.4},
            {"of": "PCr", "to": "Cr", "mean": 0.8, "sd": 0.1},
        ]
    }
)


def drawn_from_the_priors(voxels: int) -> np.ndarray:
    rng, amplitudes = np.random.default_rng(3), typical(voxels)
    at = small_basis().names.index
    amplitudes[:, at("NAAG")] = amplitudes[:, at("NAA")] * rng.normal(0.15, 0.05, voxels)
    amplitudes[:, at("Gln")] = rng.normal(3.5, 0.4, voxels)
    amplitudes[:, at("PCr")] = amplitudes[:, at("Cr")] * rng.normal(0.8, 0.1, voxels)
    return amplitudes


@cache
def both_estimators(voxels: int = 800) -> Block:
    stage = Quantify(amplitudes=("free", "map"), priors=OWN_PRIORS)
    return run_stage(stage, small_basis(), signals(drawn_from_the_priors(voxels)))


def test_posterior_sds_are_the_errors_where_truths_come_from_the_prior():
    amplitudes, block = by_name(drawn_from_the_priors(800)), both_estimators()
    assert_calibrated(block, {n: amplitudes[n] for n in ("NAAG", "Gln", "Cr", "CrPCr", "Ins")})
    wanted = ("NAAG", "Gln", "NAA", "CrPCr", "Ins")
    assert_calibrated(block, {f"{n}_map": amplitudes[n] for n in wanted})
    for name in ("NAAG", "Gln", "PCr", "Cr"):
        assert (block.sd[f"{name}_map"] < block.sd[name]).all()
    assert (block.sd["PCr_map"] < 0.6 * block.sd["PCr"]).all()
    assert block.measures["converged_map"].all()
    # Priors hold some parameters, which leaves the residual as many degrees of freedom more.
    assert block.measures["fit_quality_map"].mean().item() == pytest.approx(1.0, abs=0.02)


def test_the_first_estimator_is_not_changed_by_the_second():
    fids = signals(drawn_from_the_priors(800))[:256]
    for name, values in run_stage(Quantify(), small_basis(), fids).estimate.items():
        torch.testing.assert_close(both_estimators().estimate[name][:256], values)


def test_map_alone_is_map_beside_free():
    stage = Quantify(amplitudes="map", priors=OWN_PRIORS)
    fids = signals(drawn_from_the_priors(800))[:256]
    alone, both = run_stage(stage, small_basis(), fids), both_estimators()
    for name in ("NAA", "NAAG", "PCr", "shift"):
        torch.testing.assert_close(alone.estimate[name], both.estimate[f"{name}_map"][:256])
    share = alone.measures["data_share_Gln"]
    torch.testing.assert_close(share, both.measures["data_share_Gln"][:256])


def test_data_share_is_one_minus_posterior_over_prior_variance():
    block = both_estimators()
    expected = 1 - (block.sd["Gln_map"] / 0.4).square()
    torch.testing.assert_close(block.measures["data_share_Gln"], expected)
    vague = OWN_PRIORS.model_copy(
        update={"prior": (OWN_PRIORS.prior[1].model_copy(update={"sd": 4e3}),)}
    )
    fids = signals(typical(20))
    loose = run_stage(Quantify(amplitudes="map", priors=vague), small_basis(), fids)
    plain = run_stage(Quantify(), small_basis(), fids)
    assert (loose.measures["data_share_Gln"] > 0.999).all()
    assert ((loose.estimate["Gln"] - plain.estimate["Gln"]).abs() < 0.02 * plain.sd["Gln"]).all()


def test_without_signal_map_stays_at_its_prior_and_says_so():
    fids = noise(np.random.default_rng(0), 40, 1024, NOISE)
    tight = PriorTable.model_validate({"prior": [{"of": "Ins", "mean": 2.0, "sd": 1e-3}]})
    block = run_stage(Quantify(amplitudes="map", priors=tight), small_basis(), fids)
    found = block.status == 3
    assert (block.estimate["Ins"][found] - 2.0).abs().max() < 0.01
    assert block.measures["data_share_Ins"][found].max() < 0.01


def test_scale_of_the_data_scales_map_too():
    fids, stage = signals(typical(30)), Quantify(amplitudes="map")
    one, other = (run_stage(stage, small_basis(), fids * s) for s in (1.0, 1e6))
    for name in ("NAA", "NAAG", "CrPCr"):
        scaled = other.estimate[name] / 1e6
        assert ((scaled - one.estimate[name]).abs() < 2e-3 * one.sd[name]).all()
    share = "data_share_NAAG"
    torch.testing.assert_close(other.measures[share], one.measures[share], rtol=1e-3, atol=1e-3)


# --- shifts, delays, cut FIDs --------------------------------------------------------------------


def test_own_shifts_drawn_from_their_prior_are_found():
    rng, basis, voxels = np.random.default_rng(5), small_basis(), 500
    own = rng.normal(0.0, 0.7, (voxels, len(NAMES)))
    own[:, basis.names.index("MM")] = 0.0
    amplitudes, time = typical(voxels), basis.acquisition.time
    turns = np.exp(2j * np.pi * own[:, :, None] * time)
    common = np.exp((2j * np.pi * TRUTH.shift - TRUTH.lorentzian) * time + 1j * TRUTH.phase)
    # At a lower SNR the shifts of weak neighbours are not linear in the noise.
    white = noise(rng, voxels, len(time), NOISE / 3)
    fids = np.einsum("vm,mt,vmt->vt", amplitudes, basis.fids, turns) * common + white
    block = run_stage(Quantify(metabolite_shift_sd_hz=0.7), basis, fids)
    truths = {n: v for n, v in by_name(amplitudes).items() if n in ("NAA", "Ins", "CrPCr", "GPC")}
    shifts = {f"shift_{n}": own[:, basis.names.index(n)] for n in ("NAA", "Ins", "Gln")}
    assert_calibrated(block, truths | shifts)
    # Ignored, they are not noise.
    plain = run_stage(Quantify(), basis, fids[:50])
    assert plain.measures["fit_quality"].mean() > 1.05
    assert block.measures["fit_quality"].mean().item() == pytest.approx(1.0, abs=0.02)


def test_a_late_start_is_found_and_a_known_one_taken_out():
    rng, voxels, axis = np.random.default_rng(6), 500, press_basis().acquisition
    hertz = [axis.frequency_of(p) for p in (2.01, 3.03, 3.2, 2.35)]
    lines = np.array([[1.0, 0.4], [1.0, 0.7], [1.0, 0.0], [1.0, -0.6]])

    def columns(delay: float) -> np.ndarray:
        time = axis.time + delay
        pairs = [
            sum(a * np.exp((2j * np.pi * (f + 40 * k) - 4.0) * time) for k, a in enumerate(pair))
            for f, pair in zip(hertz, lines, strict=True)
        ]
        return np.array(pairs)

    basis = Basis(("NAA", "Cr", "GPC", "Glu"), columns(0.0), axis)
    delays = 0.5e-3 + rng.normal(0.0, 0.04e-3, voxels)
    amplitudes = np.array([9.0, 8.0, 2.0, 10.0])
    shape = np.exp((2j * np.pi * 1.5 - 8.0) * axis.time)
    clean = np.stack([amplitudes @ columns(d) for d in delays]) * shape
    stage = Quantify(first_order_phase={"delay_ms": 0.5, "sd_ms": 0.04})
    fids = clean + noise(rng, voxels, axis.points, 2.0)
    block = run_stage(stage, basis, fids, keep_signals=True)
    truths = dict(zip(basis.names, amplitudes, strict=True))
    assert_calibrated(block, truths | {"delay": 1e3 * delays})
    inside = (axis.ppm > 0.4) & (axis.ppm < 4.0)
    left = axis.spectrum(fids - block.signals["fit"].numpy())[:, inside]
    assert np.sqrt((np.abs(left) ** 2).mean() / 2 / axis.points) == pytest.approx(2.0, rel=0.05)


def test_bad_first_points_are_left_out():
    fids = signals(typical(500))
    fids[:, :3] += 3000.0
    block = run_stage(Quantify(skip_points=3), small_basis(), fids, keep_signals=True)
    truths = by_name(typical(500))
    assert_calibrated(block, {n: truths[n] for n in ("NAA", "CrPCr", "Ins", "MM")})
    assert_calibrated(block, {"shift": TRUTH.shift, "phase": TRUTH.phase})
    broken = run_stage(Quantify(), small_basis(), fids[:20])
    assert broken.measures["fit_quality"].mean() > 2
    # The fit holds the first points too.
    off = block.signals["fit"][:, :3] - torch.from_numpy(fids[:, :3])
    assert off.abs().mean().item() == pytest.approx(3000.0, rel=0.2)


def test_zero_filled_fids_are_those_that_were_acquired():
    fids = signals(typical(500))
    fids[:, 400:] = 0.0
    block = run_stage(Quantify(acquired_points=400), small_basis(), fids, keep_signals=True)
    truths = by_name(typical(500))
    assert_calibrated(block, {n: truths[n] for n in ("NAA", "CrPCr", "Ins", "MM")})
    assert block.measures["noise_sd"].mean().item() == pytest.approx(NOISE, rel=0.01)
    assert block.signals["fit"].shape == fids.shape
    assert not block.signals["fit"][:, 400:].any()


@pytest.mark.parametrize("setting", [{"skip_points": 1010}, {"acquired_points": 2000}])
def test_cuts_that_leave_nothing_are_refused(setting):
    with pytest.raises(InputError, match="do not suit FIDs of 1024 points"):
        Quantify(**setting).check(Context(small_basis().acquisition, small_basis()))


# --- baselines and lines -------------------------------------------------------------------------


def test_an_adaptive_baseline_is_as_stiff_as_each_spectrum_asks():
    axis = small_basis().acquisition
    hump = np.exp((2j * np.pi * axis.frequency_of(1.4) - 400.0) * axis.time)
    hump = hump - 0.8 * np.exp((2j * np.pi * axis.frequency_of(3.3) - 500.0) * axis.time)
    fids = signals(typical(200))
    fids[100:] += 800 * hump
    stage = Quantify(baseline={"kind": "spline", "stiffness": "adaptive", "splines_per_ppm": 6})
    block = run_stage(stage, small_basis(), fids)
    dimension = block.measures["baseline_dimension"]
    assert dimension[:100].mean() < 3.5
    assert dimension[100:].mean() > 2 * dimension[:100].mean()
    assert block.measures["fit_quality"].mean().item() == pytest.approx(1.0, abs=0.03)
    flat = run_stage(Quantify(), small_basis(), fids)
    stiff = (block.estimate["NAA"] - GREY_MATTER["NAA"])[100:].mean().abs()
    assert stiff < 0.3 * (flat.estimate["NAA"] - GREY_MATTER["NAA"])[100:].mean().abs()


def test_lipids_have_a_lineshape_of_their_own():
    basis = press_basis().select(["NAA", "Cr", "GPC", "Glu", "Ins"])
    lipids = with_macromolecules(basis, "none", lipids=True)
    time, axis = basis.acquisition.time, basis.acquisition
    metabolites = clean_fid(basis, GREY_MATTER, TRUTH)
    move = np.exp((2j * np.pi * (TRUTH.shift + 2.0) - 40.0) * time + 1j * TRUTH.phase)
    broad = 20.0 * (lipids["Lip13a"] + lipids["Lip09"]) * move
    fids = metabolites + broad + noise(np.random.default_rng(0), 40, axis.points, 4.0)
    stage = Quantify(
        lipids={"source": "lines", "lineshape": "own"}, macromolecules={"source": "none"}
    )
    block = run_stage(stage, basis, fids)
    mean = {n: block.estimate[n].mean().item() for n in ("NAA", "shift_lip", "lorentzian_lip")}
    assert mean["NAA"] == pytest.approx(GREY_MATTER["NAA"], rel=0.02)
    assert mean["shift_lip"] == pytest.approx(2.0, abs=0.3)
    assert mean["lorentzian_lip"] == pytest.approx(40.0, rel=0.1)


# --- ratios, covariances, errors -----------------------------------------------------------------


def test_ratios_err_as_the_delta_method_says_and_covariances_are_those_of_the_estimates():
    block = run_stage(Quantify(ratio_to=("CrPCr", "NAA")), small_basis(), signals(typical(800)))
    truths = {k: float(v[0]) for k, v in by_name(typical(1)).items()}
    wanted = {
        f"{a}_per_{r}": truths[a] / truths[r]
        for a, r in [("NAA", "CrPCr"), ("Ins", "CrPCr"), ("Cr", "CrPCr"), ("CrPCr", "NAA")]
    }
    assert_calibrated(block, wanted)
    assert set(block.covariance_with) == {"CrPCr", "NAA", "NAANAAG", "GluGln"}
    found = block.covariance_with["CrPCr"]
    for name in ("CrPCr", "Cr", "NAA"):
        both = np.cov(block.estimate[name], block.estimate["CrPCr"])
        # The standard error of a covariance of 800 normal pairs.
        error = np.sqrt((both[0, 0] * both[1, 1] + both[0, 1] ** 2) / 800)
        assert abs(both[0, 1] - found[name].mean().item()) < 3.5 * error
    torch.testing.assert_close(found["CrPCr"], block.sd["CrPCr"].square())


def test_ratios_to_what_is_not_fitted_are_refused():
    with pytest.raises(InputError, match=r"ratio_to names \['GPCPCh'\], which are not fitted"):
        Quantify(ratio_to=("GPCPCh",)).check(Context(small_basis().acquisition, small_basis()))


def test_noise_that_is_stated_is_what_errors_come_from():
    fids = signals(typical(30))
    measured, stated = (
        run_stage(Quantify(noise_sd=n), small_basis(), fids) for n in (None, 2 * NOISE)
    )
    ratio = 2 * NOISE / measured.measures["noise_sd"]
    torch.testing.assert_close(stated.sd["NAA"], measured.sd["NAA"] * ratio, rtol=1e-5, atol=0)
    torch.testing.assert_close(stated.estimate["NAA"], measured.estimate["NAA"])
    assert stated.measures["fit_quality"].mean().item() == pytest.approx(0.5, rel=0.02)


def test_priors_count_against_the_residual_where_the_noise_is_not_known():
    """A noise level that is 30 times too small leaves own shifts to the noise, or to the prior."""
    fids = signals(typical(40))
    stage = {"metabolite_shift_sd_hz": 0.3, "noise_sd": NOISE / 30}
    spreads = {
        errors: run_stage(Quantify(errors=errors, **stage), small_basis(), fids)
        .estimate["shift_NAAG"]
        .std()
        for errors in ("noise", "residual")
    }
    assert spreads["residual"] < 0.3 < spreads["noise"]


def test_residual_errors_are_the_bounds_times_the_misfit():
    fids = signals(typical(30))
    axis = small_basis().acquisition
    fids += 300 * np.exp((2j * np.pi * axis.frequency_of(2.7) - 30.0) * axis.time)
    ratio = {"ratio_to": ("CrPCr",)}
    plain, inflated = (
        run_stage(Quantify(errors=e, **ratio), small_basis(), fids) for e in ("noise", "residual")
    )
    misfit = plain.measures["fit_quality"]
    assert (misfit > 1.2).all()
    for name in ("NAA", "shift", "NAA_per_CrPCr"):
        torch.testing.assert_close(inflated.sd[name], plain.sd[name] * misfit)
        torch.testing.assert_close(inflated.estimate[name], plain.estimate[name])


# --- convergence ---------------------------------------------------------------------------------


def test_fits_that_do_not_converge_are_flagged():
    block = run_stage(Quantify(max_iterations=1), small_basis(), signals(typical(20)))
    assert not block.measures["converged"].any()
    assert block.estimate["NAA"].isfinite().all()


def test_voxels_whose_first_start_fails_are_started_elsewhere(monkeypatch):
    basis, stage = small_basis(), Quantify(max_shift_hz=40)
    best = StartGrid.best

    def misled(grid: StartGrid, window: torch.Tensor, rank: int = 0) -> torch.Tensor:
        theta = best(grid, window, max(rank - 1, 0))
        theta[::3, 1] += 25.0 * (rank == 0)
        return theta

    fids = signals(typical(60))
    expected = run_stage(stage, basis, fids)
    monkeypatch.setattr(StartGrid, "best", misled)
    block = run_stage(stage, basis, fids)
    assert block.measures["converged"].all()
    for name, values in expected.estimate.items():
        assert ((block.estimate[name] - values).abs() < 0.02 * expected.sd[name]).all()
    assert block.measures["condition"].min() >= 1
