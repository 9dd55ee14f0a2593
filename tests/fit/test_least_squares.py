"""The least-squares fit on spectra whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm

from mrsi_engine.conventions import Status
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.stages.quantify import Quantify
from tests.scenes import (
    GREY_MATTER,
    SEED_SIMULATION,
    THESIS,
    Lineshape,
    Outcome,
    clean_fid,
    monte_carlo,
    noise,
    press_basis,
    run_stage,
    sd_for_snr,
    thesis_basis,
)

TRUTH = Lineshape()
LINESHAPE = ("shift", "phase", "lorentzian", "gaussian")

needs_thesis = pytest.mark.skipif(
    not SEED_SIMULATION.exists(), reason=f"{SEED_SIMULATION} is missing: the thesis' basis"
)


@cache
def spectra(voxels: int, snr: float = 40.0, seed: int = 0) -> np.ndarray:
    """Noisy grey-matter FIDs ``(voxel, time)``."""
    basis = press_basis()
    fid = clean_fid(basis, GREY_MATTER, TRUTH)
    rng = np.random.default_rng(seed)
    return fid + noise(rng, voxels, len(fid), sd_for_snr(basis, fid, snr))


@cache
def fitted(voxels: int = 300) -> Block:
    return run_stage(Quantify(), press_basis(), spectra(voxels))


def is_amplitude(name: str) -> bool:
    return not name.startswith(LINESHAPE)


def difference(a: Block, b: Block, scale: float = 1.0) -> float:
    """Largest difference of any map relative to the value or its SD, whichever is larger."""
    largest = 0.0
    for name in a.estimate:
        s = scale if is_amplitude(name) else 1.0
        size = torch.maximum(a.estimate[name].abs(), a.sd[name])
        for kind in ("estimate", "sd"):
            one, other = getattr(a, kind)[name], getattr(b, kind)[name] / s
            largest = max(largest, float(((one - other).abs() / size).max()))
    return largest


# --- Cramér-Rao bound and bias -------------------------------------------------------------------


def assert_efficient_and_unbiased(outcomes: list[Outcome]) -> None:
    """SD/CRLB within 0.95 to 1.10 and no bias, for all with a CRLB under 20 %.

    3000 draws know an SD to 1.3 %, so an efficient estimator stays inside with certainty. "Three
    standard errors" is meant for one metabolite: for several the limit is widened so that the
    chance of any false alarm is the same 0.27 %.
    """
    judged = [o for o in outcomes if o.relative_crlb < 0.2]
    assert len(judged) >= 6
    limit = norm.isf(norm.sf(3.0) / len(judged))
    for outcome in judged:
        assert 0.95 < outcome.efficiency < 1.10, outcome
        assert abs(outcome.bias) < limit, outcome


CASES = {
    "plain": (Quantify(), TRUTH, 40.0),
    "free spline baseline": (Quantify(baseline={"kind": "spline", "stiffness": 0}), TRUTH, 40.0),
    "own macromolecule group": (
        Quantify(macromolecules={"lineshape": "own"}),
        Lineshape(lorentzian_mm=35.0, shift_mm=1.0),
        40.0,
    ),
    "voigt": (Quantify(lineshape="voigt"), Lineshape(gaussian=14.0, lorentzian=10.0), 100.0),
}


@pytest.mark.parametrize("name", CASES)
def test_reaches_the_bound_without_bias(name):
    stage, truth, snr = CASES[name]
    outcomes = monte_carlo(stage, press_basis(), GREY_MATTER, truth, snr, draws=3000)
    assert_efficient_and_unbiased(outcomes)


@needs_thesis
def test_reaches_the_bound_on_the_thesis_simulation():
    outcomes = monte_carlo(Quantify(), thesis_basis(), THESIS, TRUTH, 26.0, draws=3000)
    assert_efficient_and_unbiased(outcomes)


@needs_thesis
def test_random_thesis_spectra_err_as_their_own_bounds_say():
    """Amplitudes, shift, damping and phase drawn as the thesis does, noise stationary."""
    basis, rng, voxels = thesis_basis(1024), np.random.default_rng(1), 1500
    span = np.array([THESIS[n] for n in basis.names]) * rng.uniform(0.5, 1.5, (voxels, 20))
    time = basis.acquisition.time
    shift, damping = rng.uniform(-3, 3, voxels), rng.uniform(2, 15, voxels)
    phase = rng.uniform(-0.16, 0.16, voxels)
    shape = np.exp((2j * np.pi * shift - damping)[:, None] * time + 1j * phase[:, None])
    clean = (span @ basis.fids) * shape
    block = run_stage(Quantify(), basis, clean + noise(rng, voxels, 1024, 17.0))
    truths = dict(zip(basis.names, span.T, strict=True))
    truths |= {"shift": shift, "lorentzian": damping, "phase": phase}
    for name, true in truths.items():
        z = ((block.estimate[name] - torch.from_numpy(true)) / block.sd[name]).numpy()
        # Errors in units of their bounds are standard normal; 23 parameters are looked at.
        assert abs(z.mean()) * np.sqrt(voxels) < norm.isf(norm.sf(3.0) / len(truths)), name
        low, high = chi2.ppf([0.001 / 23, 1 - 0.001 / 23], voxels - 1) / (voxels - 1)
        assert low * 0.95**2 < z.var(ddof=1) < high * 1.05**2, name


def test_sd_of_sums_is_below_that_of_their_parts():
    block = fitted()
    assert (block.sd["CrPCr"] < block.sd["Cr"]).all()
    torch.testing.assert_close(
        block.estimate["CrPCr"], block.estimate["Cr"] + block.estimate["PCr"]
    )


def test_sums_are_known_where_their_parts_are_not():
    basis = press_basis().select(["NAA", "Cr", "GPC", "PCh", "MM"])
    twin = basis.extended(("PCr",), 1.0001 * basis["Cr"][None])
    fid = clean_fid(twin, GREY_MATTER, TRUTH)
    fids = fid + noise(np.random.default_rng(0), 1000, 1024, sd_for_snr(twin, fid, 40.0))
    block = run_stage(Quantify(), twin, fids)
    assert block.sd["Cr"].isnan().all()
    assert block.sd["PCr"].isnan().all()
    z = ((block.estimate["CrPCr"] - 8.0) / block.sd["CrPCr"]).numpy()
    assert abs(z.mean()) < 3.5 / np.sqrt(len(z))
    assert 0.93 < z.std() < 1.07  # three standard errors of an SD of 1000


# --- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e12])
def test_scale_of_the_data_scales_amplitudes_only(scale):
    block = run_stage(Quantify(), press_basis(), spectra(300) * scale)
    assert difference(fitted(), block, scale) < 3e-4
    for measure in ("snr", "fwhm_hz", "fit_quality", "relative_residual"):
        torch.testing.assert_close(
            block.measures[measure], fitted().measures[measure], rtol=1e-3, atol=1e-3
        )
    ratio = block.measures["noise_sd"] / fitted().measures["noise_sd"]
    np.testing.assert_allclose(ratio, scale, rtol=1e-4)


def test_scale_of_the_basis_divides_amplitudes():
    basis = press_basis()
    block = run_stage(Quantify(), basis.scaled(1e6), spectra(300))
    assert difference(fitted(), block, 1e-6) < 5e-4


def test_a_known_turn_and_shift_change_nothing_else():
    basis = press_basis()
    turn = np.exp(1j * 1.1 + 2j * np.pi * -6.0 * basis.acquisition.time)
    block = run_stage(Quantify(), basis, spectra(300) * turn)
    moved = {"phase": 1.1, "shift": -6.0}
    for name, values in fitted().estimate.items():
        off = block.estimate[name] - values - moved.get(name, 0.0)
        off = torch.remainder(off + np.pi, 2 * np.pi) - np.pi if name == "phase" else off
        # The bins of a spectrum moved by half a bin hold other combinations of the same noise: the
        # estimates differ, but nothing is added to them. 28 parameters are looked at.
        assert abs(off.mean()) < norm.isf(norm.sf(3) / 28) * off.std() / np.sqrt(len(off)), name
        sd, plain = block.sd[name].mean().item(), fitted().sd[name].mean().item()
        assert sd == pytest.approx(plain, rel=0.02), name


def test_a_shift_by_whole_bins_changes_nothing_else():
    basis = press_basis()
    hertz = 2 / basis.acquisition.duration
    turn = np.exp(2j * np.pi * hertz * basis.acquisition.time)
    block = run_stage(Quantify(), basis, spectra(300) * turn)
    block.estimate["shift"] = block.estimate["shift"] - hertz
    # Only the start differs, and with it what rounding leaves.
    same = torch.stack(
        [
            (block.estimate[n] - v).abs() < 5e-3 * fitted().sd[n]
            for n, v in fitted().estimate.items()
        ]
    ).all(0)
    assert same.float().mean() > 0.95


@pytest.mark.parametrize(
    ("stage", "voxels"),
    [(Quantify(), 4096), (Quantify(amplitudes="nonnegative", baseline={"kind": "spline"}), 300)],
)
def test_results_do_not_depend_on_blocks_or_order(stage, voxels):
    basis = press_basis()
    apply = stage.build(Context(basis.acquisition, basis))
    fids = torch.from_numpy(spectra(voxels).astype(np.complex64))

    def maps(blocks: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        done = [Block(b) for b in blocks]
        for block in done:
            apply(block)
        return {
            f"{kind} {name}": torch.cat([getattr(b, kind)[name] for b in done])
            for kind in ("estimate", "sd", "measures")
            for name in getattr(done[0], kind)
        }

    whole = maps([fids])
    order = torch.randperm(len(fids), generator=torch.Generator().manual_seed(0))
    shuffled = {name: values[order.argsort()] for name, values in maps([fids[order]]).items()}
    small = maps(list(fids[:1024].split(64)))
    for other in (small, maps(list(fids.split(1000))), shuffled):
        for name in whole:
            values = whole[name][: len(other[name])]
            size = values.abs()
            if name.startswith("estimate "):
                sd = whole["sd " + name.removeprefix("estimate ")]
                size = torch.maximum(size, sd[: len(size)])
            assert ((other[name] - values).abs() <= 1e-4 * size).all(), name


# --- what else is written ------------------------------------------------------------------------


def test_measures_are_what_they_say():
    basis, block = press_basis(), fitted()
    sd = sd_for_snr(basis, clean_fid(basis, GREY_MATTER, TRUTH), 40.0)
    measures = {name: m.mean().item() for name, m in block.measures.items()}
    assert measures["noise_sd"] == pytest.approx(sd, rel=0.01)
    assert measures["fit_quality"] == pytest.approx(1.0, abs=0.01)
    # The basis' own 1 Hz and 9/s of damping, broadened by the neighbours under NAA's singlet.
    assert measures["fwhm_hz"] == pytest.approx(1.0 + 9.0 / np.pi, rel=0.1)
    assert measures["fwhm"] == pytest.approx(measures["fwhm_hz"] / 123.25, rel=1e-6)
    assert measures["converged"] == 1.0
    assert 2 <= measures["iterations"] <= 8


def test_snr_is_height_over_noise():
    basis = press_basis()
    metabolites = {n: a for n, a in GREY_MATTER.items() if n != "MM"}
    fid = clean_fid(basis, metabolites, replace(TRUTH, phase=0.0, shift=0.0))
    fine = basis.acquisition.with_points(32 * 1024)
    spectrum = np.fft.fftshift(np.fft.fft(fid, fine.points)).real / np.sqrt(1024)
    height = spectrum[np.abs(fine.ppm - 2.008) < 0.05].max()
    sd = sd_for_snr(basis, clean_fid(basis, GREY_MATTER, TRUTH), 40.0)
    assert fitted().measures["snr"].mean().item() == pytest.approx(height / sd, rel=0.02)


def test_signals_add_up():
    basis = press_basis()
    broad = 100 * np.exp(
        (2j * np.pi * basis.acquisition.frequency_of(2.6) - 300.0) * basis.acquisition.time
    )
    fids = spectra(20, snr=200.0) + broad
    stage = Quantify(baseline={"kind": "spline", "stiffness": 0.01})
    block = run_stage(stage, basis, fids, keep_signals=True)
    np.testing.assert_allclose(block.signals["corrected"], fids, rtol=1e-5, atol=1e-3)
    window = (basis.acquisition.ppm > 0.4) & (basis.acquisition.ppm < 4.0)
    residual = basis.acquisition.spectrum(fids - block.signals["fit"].numpy())[:, window]
    sd = block.measures["noise_sd"].numpy() * np.sqrt(1024)
    spread = np.sqrt((np.abs(residual) ** 2).mean(1) / 2) / sd
    assert spread.mean() == pytest.approx(1.0, abs=0.2)
    model = block.signals["fit"] - block.signals["baseline"]
    truth = clean_fid(basis, GREY_MATTER, TRUTH)
    error = np.abs(basis.acquisition.spectrum(model.numpy() - truth)[:, window]).mean()
    assert error < 0.1 * np.abs(basis.acquisition.spectrum(truth)[window]).mean()


def test_without_a_baseline_there_is_none():
    block = run_stage(Quantify(), press_basis(), spectra(3), keep_signals=True)
    assert not block.signals["baseline"].any()


@pytest.mark.parametrize(("shift", "limit"), [(18.0, 20.0), (-18.0, 20.0), (28.0, 30.0)])
def test_finds_shifts_up_to_the_limit(shift, limit):
    basis = press_basis()
    fid = clean_fid(basis, GREY_MATTER, replace(TRUTH, shift=shift))
    fids = fid + noise(np.random.default_rng(0), 20, 1024, sd_for_snr(basis, fid, 40.0))
    block = run_stage(Quantify(max_shift_hz=limit), basis, fids)
    np.testing.assert_allclose(block.estimate["shift"], shift, atol=0.5)
    assert block.measures["converged"].all()


@pytest.mark.parametrize("limit", [1.0, 5.0])
def test_a_shift_beyond_a_narrow_limit_is_flagged(limit):
    basis = press_basis()
    fid = clean_fid(basis, GREY_MATTER, replace(TRUTH, shift=12.0))
    fids = fid + noise(np.random.default_rng(0), 20, 1024, sd_for_snr(basis, fid, 40.0))
    block = run_stage(Quantify(max_shift_hz=limit), basis, fids)
    step = 1 / basis.acquisition.duration
    assert (block.estimate["shift"] <= limit + step).all()
    assert not block.measures["converged"].any()


def test_reference_peak_lies_in_the_window():
    block = run_stage(Quantify(window_ppm=(2.6, 4.1)), press_basis(), spectra(50))
    # Cr, as NAA's singlet is outside.
    assert block.measures["fwhm_hz"].mean().item() == pytest.approx(1 + 9 / np.pi, rel=0.15)
    assert (block.measures["snr"] > 5).all()


# --- degenerate input ----------------------------------------------------------------------------


def test_one_metabolite():
    basis = press_basis().select(["NAA"])
    fid = clean_fid(basis, {"NAA": 5.0}, TRUTH)
    block = run_stage(Quantify(), basis, fid + noise(np.random.default_rng(0), 200, 1024, 2.0))
    z = (block.estimate["NAA"] - 5.0) / block.sd["NAA"]
    assert abs(z.mean().item()) < 3 / np.sqrt(200)


@pytest.mark.parametrize("amplitudes", ["free", "nonnegative"])
def test_a_duplicated_metabolite_is_not_determined_and_spares_the_rest(amplitudes):
    basis = press_basis()
    copies = np.stack([basis["NAA"], basis["Ins"], basis["Ins"] * (1 + 1e-7)])
    twice = basis.extended(("NAAcopy", "Inscopy", "Inscopy2"), copies)
    stage = Quantify(amplitudes=amplitudes)
    plain, block = (run_stage(stage, b, spectra(100)) for b in (basis, twice))
    assert (block.status == Status.LEAST_SQUARES).all()
    for name in ("NAA", "NAAcopy", "Ins", "Inscopy", "Inscopy2"):
        assert block.sd[name].isnan().all()
        assert block.estimate[name].isfinite().all()
    for name in ("Cr", "Glu", "GPCPCh", "MM", "shift"):
        torch.testing.assert_close(block.sd[name], plain.sd[name], rtol=2e-3, atol=0)
        assert ((block.estimate[name] - plain.estimate[name]).abs() < 0.02 * plain.sd[name]).all()
    total = block.estimate["NAA"] + block.estimate["NAAcopy"]
    assert ((total - plain.estimate["NAA"]).abs() < 0.02 * plain.sd["NAA"]).all()


def test_the_tail_of_a_line_outside_the_window_is_modelled():
    basis, axis = press_basis(), press_basis().acquisition
    line = np.exp((2j * np.pi * axis.frequency_of(5.4) - 5.0) * axis.time)
    more = basis.extended(("Far",), line[None])
    fid = clean_fid(more, {**GREY_MATTER, "Far": 500.0}, TRUTH)
    block = run_stage(Quantify(), more, fid[None])
    assert block.estimate["Far"].item() == pytest.approx(500.0, rel=1e-2)
    for name in ("NAA", "Cr", "Ins", "MM"):
        assert block.estimate[name].item() == pytest.approx(GREY_MATTER[name], rel=5e-3)


@pytest.mark.parametrize("lineshape", ["lorentzian", "gaussian", "voigt"])
@pytest.mark.parametrize("amplitudes", ["free", "nonnegative"])
@pytest.mark.parametrize("group", ["shared", "own"])
def test_noise_alone_gives_no_metabolites(lineshape, amplitudes, group):
    fids = noise(np.random.default_rng(0), 200, 1024, 5.0)
    stage = Quantify(
        lineshape=lineshape, amplitudes=amplitudes, macromolecules={"lineshape": group}
    )
    block = run_stage(stage, press_basis(), fids)
    fit = block.status == Status.LEAST_SQUARES
    assert fit.float().mean() > 0.97
    for name in ("NAA", "CrPCr", "Ins", "MM"):
        estimate, sd = block.estimate[name][fit], block.sd[name][fit]
        assert estimate.isfinite().all()
        # Position and width follow the noise, so that it is fitted better than at a fixed place.
        assert ((estimate.abs() < 6 * sd) | sd.isnan()).all()
    assert block.measures["fit_quality"][fit].mean().item() == pytest.approx(1.0, abs=0.06)
    assert block.measures["snr"][fit].median() < 5


def test_equal_values_have_no_known_error():
    fids = np.concatenate([np.full((2, 1024), 3.0 - 2.0j), spectra(5)])
    block = run_stage(Quantify(), press_basis(), fids)
    for name in ("NAA", "Cr"):
        assert block.estimate[name][:2].abs().max() < 1e-5
        assert block.sd[name][:2].isnan().all() or (block.sd[name][:2] < 1e-4).all()
    assert difference(run_stage(Quantify(), press_basis(), spectra(5)), rows(block, 2)) < 1e-4


def test_bad_voxels_are_not_fitted_and_spare_the_rest():
    fids = spectra(300).copy()
    fids[3], fids[57, 10], fids[128] = np.nan, np.inf, 0.0
    fids[200] *= 1e25
    block = run_stage(Quantify(), press_basis(), fids, keep_signals=True)
    bad = [3, 57, 128]
    assert (block.status[bad] == Status.NO_FIT).all()
    for table in (block.estimate, block.sd, block.measures):
        assert all(values[bad].isnan().all() for values in table.values())
    good = [i for i in range(300) if i not in (*bad, 200)]
    assert (block.status[good] == Status.LEAST_SQUARES).all()
    assert difference(rows(fitted(), good), rows(block, good)) < 1e-4
    assert block.estimate["NAA"][200] / 1e25 == pytest.approx(
        fitted().estimate["NAA"][200].item(), rel=1e-4
    )


def rows(block: Block, index) -> Block:
    """The estimates of some voxels."""
    index = slice(index, None) if isinstance(index, int) else index
    part = Block(block.fids[index])
    part.estimate = {n: v[index] for n, v in block.estimate.items()}
    part.sd = {n: v[index] for n, v in block.sd.items()}
    return part


def test_sums_need_both_parts():
    basis = press_basis().select(["NAA", "NAAG", "Cr", "MM"])
    block = run_stage(Quantify(), basis, spectra(5))
    assert "NAANAAG" in block.estimate
    assert "CrPCr" not in block.estimate
