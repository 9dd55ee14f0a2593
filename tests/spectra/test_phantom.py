"""The phantom against its own truth: model, noise, nuisances, seeds, anatomy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.spectra import phantom as phantom_module
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.phantom import PhantomSettings, make_phantom

AXIS = Acquisition(points=512, dwell_time=1e-3, spectrometer_frequency=123.2)
# ppm, protons, damping (1/s)
LINES = {
    "NAA": ((2.01, 3, 3),),
    "NAAG": ((2.04, 3, 3),),
    "Cr": ((3.03, 3, 3), (3.91, 2, 3)),
    "PCr": ((3.03, 3, 3), (3.93, 2, 3)),
    "GPC": ((3.21, 9, 3),),
    "PCh": ((3.21, 9, 3), (3.6, 2, 3)),
    "Glu": ((2.34, 2, 3), (2.07, 2, 3), (3.74, 1, 3)),
    "Lac": ((1.30, 1.5, 3), (1.36, 1.5, 3)),
    "MM09": ((0.9, 3, 40),),
}
SMALL = PhantomSettings(shape=(12, 14, 4), seed=3)


def line_fid(lines) -> np.ndarray:
    return sum(
        protons * np.exp((2j * np.pi * AXIS.frequency_of(ppm) - damping) * AXIS.time)
        for ppm, protons, damping in lines
    )


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis(tuple(LINES), np.stack([line_fid(v) for v in LINES.values()]), AXIS)


@pytest.fixture(scope="module")
def silent(basis):
    """No noise, no nuisance."""
    return make_phantom(replace(SMALL, snr=math.inf), basis)


@pytest.fixture(scope="module")
def noisy(basis):
    return make_phantom(SMALL, basis)


def test_truth_and_model_give_the_noiseless_signal(silent, basis):
    """The model written out voxel by voxel, as the fit knows it."""
    t = AXIS.time
    for voxel in np.argwhere(silent.mask)[::7]:
        at = {name: values[tuple(voxel)] for name, values in silent.truth.items()}
        signal = sum(at[name] * basis[name] for name in basis.names)
        turn = np.exp(1j * at["phase"] + 2j * np.pi * at["shift"] * t - at["lorentzian"] * t)
        np.testing.assert_allclose(silent.fids[tuple(voxel)], turn * signal, rtol=0, atol=2e-4)
        assert np.abs(signal[0]) > 10


def test_outside_the_brain_there_is_nothing_but_noise(silent):
    assert silent.fids.dtype == np.complex64
    assert not silent.fids[~silent.mask].any()
    assert not any(silent.truth[name][~silent.mask].any() for name in LINES)


def test_peak_moves_with_the_shift_and_turns_with_the_phase(silent):
    """Signs: a positive shift is a higher frequency, a lower ppm; phase as the first sample's."""
    shift = np.where(silent.mask, silent.truth["shift"], 0)
    voxel = np.unravel_index(np.abs(shift).argmax(), shift.shape)
    padded = AXIS.with_points(16384)
    spectrum = np.abs(padded.spectrum(np.pad(silent.fids[voxel], (0, 16384 - AXIS.points))))
    window = (padded.ppm > 3.1) & (padded.ppm < 3.35)
    choline = padded.ppm[window][spectrum[window].argmax()]
    expected = 3.21 - shift[voxel] / AXIS.spectrometer_frequency
    assert abs(shift[voxel]) > 5
    assert choline == pytest.approx(expected, abs=0.01)
    assert np.angle(silent.fids[voxel][0]) == pytest.approx(silent.truth["phase"][voxel], abs=1e-5)


def test_noise_is_white_complex_and_of_the_stated_sd(silent, noisy):
    """Bounds are five standard errors of each statistic."""
    noise = (noisy.fids - silent.fids) / noisy.noise_sd
    count = noise.size
    for channel in (noise.real, noise.imag):
        assert abs(channel.mean()) < 5 / math.sqrt(count)
        assert abs(channel.std() - 1) < 5 / math.sqrt(2 * count)
    assert abs((noise.real * noise.imag).mean()) < 5 / math.sqrt(count)
    for lag in (1, 2, 7):
        correlation = (noise[..., lag:] * noise[..., :-lag].conj()).mean()
        assert abs(correlation) < 5 * 2 / math.sqrt(count)
    neighbours = (noise[1:] * noise[:-1].conj()).mean()
    assert abs(neighbours) < 5 * 2 / math.sqrt(count)
    power = (np.abs(np.fft.fft(noise, axis=-1)) ** 2).mean((0, 1, 2)) / (2 * AXIS.points)
    assert np.abs(power - 1).max() < 5 / math.sqrt(count / AXIS.points)


def test_snr_is_the_naa_peak_over_the_noise_in_the_spectrum(noisy, basis):
    mask, truth = noisy.mask, noisy.truth
    decay = np.exp(-truth["lorentzian"][mask].mean() * AXIS.time)
    height = AXIS.spectrum(truth["NAA"][mask].mean() * basis["NAA"] * decay).real.max()
    noise = AXIS.spectrum(noisy.fids[~mask]).real
    assert height / noise.std() == pytest.approx(SMALL.snr, rel=5 / math.sqrt(2 * noise.size))


def test_same_seed_same_data_other_seed_other_data(noisy, basis):
    again, other = make_phantom(SMALL, basis), make_phantom(replace(SMALL, seed=4), basis)
    np.testing.assert_array_equal(noisy.fids, again.fids)
    np.testing.assert_array_equal(noisy.water, again.water)
    assert np.abs(noisy.truth["shift"] - other.truth["shift"]).max() > 1
    assert np.abs(noisy.truth["NAA"] - other.truth["NAA"]).max() > 0.1
    assert noisy.lesion.argmax() != other.lesion.argmax()


def test_tissue_fractions_sum_to_one_in_the_brain(noisy):
    total = sum(noisy.tissue.values())
    np.testing.assert_allclose(total[noisy.mask], 1, atol=1e-12)
    assert not total[~noisy.mask].any()
    for share in noisy.tissue.values():
        assert share.min() >= 0
        assert 0.05 < share[noisy.mask].mean() < 0.8
    partial = (noisy.tissue["gm"] > 0.05) & (noisy.tissue["gm"] < 0.95)
    assert partial[noisy.mask].mean() > 0.2


def test_lesion_has_the_pattern_of_a_tumour(basis):
    phantom = make_phantom(replace(SMALL, shape=(24, 24, 8), snr=math.inf), basis)
    truth, lesion = phantom.truth, phantom.lesion > 0.7
    healthy = phantom.mask & (phantom.lesion < 0.05) & (phantom.tissue["csf"] < 0.2)
    assert lesion.sum() >= 4
    for label, low, high in (("NAANAAG", 0.1, 0.6), ("GPCPCh", 1.5, 5), ("Lac", 5, 30)):
        ratio = truth[label][lesion].mean() / truth[label][healthy].mean()
        assert low < ratio < high, label


def test_grey_and_white_matter_differ(silent):
    truth, tissue, apart = silent.truth, silent.tissue, silent.mask & (silent.lesion < 0.02)
    ratio = np.where(apart, truth["Glu"] / np.maximum(truth["NAANAAG"], 1e-9), np.nan)
    grey, white = ratio[apart & (tissue["gm"] > 0.7)], ratio[apart & (tissue["wm"] > 0.7)]
    assert grey.mean() > 1.15 * white.mean()


def test_sums_are_sums_and_only_of_what_the_basis_has(silent):
    truth = silent.truth
    np.testing.assert_array_equal(truth["NAANAAG"], truth["NAA"] + truth["NAAG"])
    np.testing.assert_array_equal(truth["CrPCr"], truth["Cr"] + truth["PCr"])
    assert "GluGln" not in truth
    assert set(truth) == {*LINES, "NAANAAG", "CrPCr", "GPCPCh", "shift", "lorentzian", "phase"}


@pytest.mark.parametrize("b0_hz", [0.0, 2.0, 15.0])
def test_maps_have_the_stated_spread(basis, b0_hz):
    phantom = make_phantom(replace(SMALL, b0_hz=b0_hz, phase_deg=0), basis)
    inside = phantom.mask
    assert phantom.truth["shift"][inside].std() == pytest.approx(b0_hz, abs=1e-9)
    assert phantom.truth["shift"][inside].mean() == pytest.approx(0, abs=1e-9)
    assert not phantom.truth["phase"].any()
    damping = phantom.truth["lorentzian"][inside]
    assert (damping > 0).all()
    assert np.log(damping).std() == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("nuisance", ["water", "lipid", "all"])
def test_nuisances_add_only_themselves(basis, silent, nuisance):
    """What is added lies in its bands, the rest (truth, noise-free metabolites) is untouched."""
    phantom = make_phantom(replace(SMALL, snr=math.inf, nuisance=nuisance), basis)
    difference = phantom.fids - silent.fids
    difference[..., 0] /= 2  # else the sharp onset stands as a constant under the whole spectrum
    added = np.abs(AXIS.spectrum(difference)) ** 2
    water = (AXIS.ppm > 4.2) & (AXIS.ppm < 5.1)
    lipid = (AXIS.ppm > 0.4) & (AXIS.ppm < 2.5)
    energy = added.sum()
    in_bands = {"water": water, "lipid": lipid, "all": water | lipid}[nuisance]
    assert added[..., in_bands].sum() > 0.9 * energy
    assert (added[..., water].sum() > 0.05 * energy) == (nuisance in ("water", "all"))
    assert (added[..., lipid].sum() > 0.05 * energy) == (nuisance in ("lipid", "all"))
    for name, values in silent.truth.items():
        np.testing.assert_array_equal(values, phantom.truth[name])


def test_all_is_water_and_lipid_and_noise_is_the_same(basis, silent, noisy):
    kinds = ("water", "lipid", "all")
    made = {n: make_phantom(replace(SMALL, nuisance=n), basis).fids for n in kinds}
    parts = (made["water"] - noisy.fids) + (made["lipid"] - noisy.fids)
    largest = np.abs(made["all"]).max()
    assert np.abs((made["all"] - noisy.fids) - parts).max() < 1e-5 * largest


def test_lipid_sits_in_the_scalp_and_bleeds_into_the_brain(basis, silent):
    phantom = make_phantom(replace(SMALL, snr=math.inf, nuisance="lipid"), basis)
    added = np.abs(phantom.fids - silent.fids)[..., 0]
    centre = added[6, 7, 2]
    brain = added[phantom.mask]
    assert added[~phantom.mask].max() > 3 * np.median(brain)
    assert brain.max() > 5 * centre
    assert brain.max() > 0.05 * added.max()


def test_leaked_lipid_keeps_the_shift_and_damping_of_its_scalp(basis, silent, monkeypatch):
    """One voxel of scalp: everywhere it is the same FID."""
    head = phantom_module._head(SMALL)
    single = np.zeros(SMALL.shape)
    single[6, 1, 2] = 1
    monkeypatch.setattr(phantom_module, "_head", lambda settings: replace(head, scalp=single))
    lipid = make_phantom(replace(SMALL, snr=math.inf, nuisance="lipid"), basis).fids - silent.fids
    near = lipid[4:9, 1:5, 2].reshape(20, -1)
    course = near[8] / near[8, 0]
    np.testing.assert_allclose(near, near[:, :1] * course, atol=1e-3 * np.abs(near[:, 0]).max())


def test_residual_water_has_the_stated_height(basis):
    level = 25.0
    quiet = replace(SMALL, snr=math.inf, residual_water=level)
    with_water = make_phantom(replace(quiet, nuisance="water"), basis)
    added = with_water.fids - make_phantom(quiet, basis).fids
    mask, truth = with_water.mask, with_water.truth
    decay = np.exp(-truth["lorentzian"][mask].mean() * AXIS.time)
    naa = AXIS.spectrum(truth["NAA"][mask].mean() * basis["NAA"] * decay).real.max()
    height = np.abs(AXIS.spectrum(added[mask])).max(1) / naa
    assert level / 2 < np.median(height) < level * 1.5


def test_water_reference_carries_the_shift_and_the_water_content(silent):
    water, mask = silent.water, silent.mask
    steps = np.angle(water[mask][:, 1:] * water[mask][:, :-1].conj()).mean(1)
    hertz = steps / (2 * np.pi * AXIS.dwell_time)
    np.testing.assert_allclose(hertz, silent.truth["shift"][mask], atol=0.01)
    assert np.abs(water[mask][:, 0]).min() > 1000 * silent.truth["NAA"].max()


def test_scan_can_have_another_axis(basis):
    axis = Acquisition(points=256, dwell_time=1.5e-3, spectrometer_frequency=123.2)
    phantom = make_phantom(replace(SMALL, snr=math.inf), basis, axis)
    assert phantom.fids.shape == (*SMALL.shape, 256)
    assert phantom.acquisition == axis


def test_chunks_leave_no_seam(basis, monkeypatch):
    reference = make_phantom(replace(SMALL, snr=math.inf, nuisance="all"), basis)
    monkeypatch.setattr("mrsi_engine.spectra.phantom._VOXELS_AT_ONCE", 100)
    again = make_phantom(replace(SMALL, snr=math.inf, nuisance="all"), basis)
    np.testing.assert_allclose(again.fids, reference.fids, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("shape", [(6, 6, 1), (8, 10, 2), (7, 9, 3)])
def test_small_heads_work(basis, shape):
    phantom = make_phantom(replace(SMALL, shape=shape, nuisance="all"), basis)
    assert phantom.mask.any()
    assert np.isfinite(phantom.fids).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shape": (4, 8, 2)}, "shape"),
        ({"shape": (8, 8)}, "shape"),
        ({"snr": 0.0}, "snr"),
        ({"snr": math.nan}, "snr"),
        ({"seed": -1}, "seed"),
        ({"nuisance": "fat"}, "nuisance"),
        ({"b0_hz": -1.0}, "b0_hz"),
        ({"lipid": math.inf}, "lipid"),
        ({"damping": 0.0}, "damping"),
    ],
)
def test_settings_out_of_range_are_refused(change, field):
    with pytest.raises(InputError, match=f"phantom {field}: expected"):
        PhantomSettings(**change)


def test_a_basis_without_naa_is_refused(basis):
    with pytest.raises(InputError, match="needs NAA"):
        make_phantom(SMALL, basis.select(["Cr", "GPC"]))
