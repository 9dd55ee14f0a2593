"""Frequency and phase correction of voxels and transients, run as the engine runs it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Context
from mrsi_engine.stages.eddy_current import EddyCurrent
from mrsi_engine.stages.fpc import FrequencyPhaseCorrection
from tests.stages.passes import Scan, prepared_states, run

AXIS = Acquisition(1024, 0.4e-3, 123.25)
LINES = ((2.01, 10), (3.027, 7), (3.21, 4), (2.35, 3), (3.55, 4), (3.92, 5), (3.75, 3))
NOISE = 0.05


def line(ppm: float, damping: float = 15.0) -> np.ndarray:
    return np.exp((2j * np.pi * float(AXIS.frequency_of(ppm)) - damping) * AXIS.time)


BRAIN = sum(height * line(ppm) for ppm, height in LINES)


def white(*shape: int, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*shape, 2)).view(complex)[..., 0]


def drifting(count: int = 60, limit: float = 50.0, water: float = 0.0, seed: int = 1):
    """``count`` signals shifted by up to ``limit`` Hz and turned to any phase: FIDs, Hz, rad."""
    rng = np.random.default_rng(seed)
    shift = rng.uniform(-limit, limit, count)
    phase = rng.uniform(-np.pi, np.pi, count)
    signal = BRAIN + water * line(4.68, 20) + water * 0.3j * line(1.3, 60)
    turn = np.exp(1j * phase[:, None] + 2j * np.pi * shift[:, None] * AXIS.time)
    fids = (signal * turn + NOISE * white(count, AXIS.points)).astype(np.complex64)
    return torch.from_numpy(fids), shift, phase


def spread(angle: np.ndarray) -> float:
    """SD of angles about their mean direction, degrees."""
    turn = np.exp(1j * angle)
    return float(np.degrees(np.angle(turn / turn.mean()).std()))


@pytest.mark.parametrize("method", ["robust", "registration"])
def test_known_shifts_and_phases_come_back(method):
    fids, shift, phase = drifting()
    done = run(FrequencyPhaseCorrection(method=method), Scan(AXIS, fids))
    error = done.estimate["fpc_shift"].numpy() - shift
    # The SD of 60 errors is known to 9 %; the template's own noise adds a little.
    assert error.std() < 1.5 * float(done.sd["fpc_shift"].median())
    assert spread(done.estimate["fpc_phase"].numpy() - phase) < 1.5 * math.degrees(
        float(done.sd["fpc_phase"].median())
    )
    # Creatine's line, with its neighbours' tails under it, sets the frame.
    assert abs(error.mean()) < 0.3
    assert (done.measures["fpc_applied"] == 1).all()
    assert (done.measures["similarity"] > 0.97).all()
    assert done.measures["similarity_before"].mean() < 0.5


def test_corrected_signals_are_alike():
    fids, _, _ = drifting()
    done = run(FrequencyPhaseCorrection(), Scan(AXIS, fids)).fids.numpy()
    rest = (done - done.mean(0)) / np.sqrt(1 - 1 / len(done))
    assert rest.std() / math.sqrt(2) == pytest.approx(NOISE, rel=0.05)


def test_water_and_lipids_do_not_matter_to_robust():
    """Ten times the tallest metabolite, far more than the noise, drifting along."""
    fids, shift, _ = drifting(water=100.0)
    done = run(FrequencyPhaseCorrection(), Scan(AXIS, fids))
    assert (done.estimate["fpc_shift"].numpy() - shift).std() < 0.2


@pytest.mark.parametrize("method", ["robust", "registration", "correlation"])
def test_block_size_does_not_matter(method):
    fids, _, _ = drifting()
    stage = FrequencyPhaseCorrection(method=method)
    whole, few = (run(stage, Scan(AXIS, fids), size) for size in (1000, 7))
    torch.testing.assert_close(few.fids, whole.fids, rtol=0, atol=2e-3)
    hertz = whole.estimate["fpc_shift"]
    torch.testing.assert_close(few.estimate["fpc_shift"], hertz, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("method", "hertz"), [("correlation", 1.0), ("creatine", 0.6)])
def test_other_methods_find_what_they_can(method, hertz):
    fids, shift, _ = drifting()
    done = run(FrequencyPhaseCorrection(method=method), Scan(AXIS, fids))
    assert (done.estimate["fpc_shift"].numpy() - shift).std() < hertz


def test_water_reference_gives_shift_and_phase():
    fids, shift, phase = drifting(30)
    turn = np.exp(1j * phase[:, None] + 2j * np.pi * shift[:, None] * AXIS.time)
    water = 1000 * line(4.65, 12) * turn + NOISE * white(30, AXIS.points, seed=9)
    scan = Scan(AXIS, fids, torch.from_numpy(water.astype(np.complex64)))
    done = run(FrequencyPhaseCorrection(method="water"), scan)
    np.testing.assert_allclose(done.estimate["fpc_shift"], shift, atol=0.01)
    assert spread(done.estimate["fpc_phase"].numpy() - phase) < 0.1
    np.testing.assert_allclose(done.fids[3], BRAIN, atol=8 * NOISE)


def test_transients_are_aligned_each():
    fids, shift, _ = drifting(48, limit=5.0)
    scan = Scan(AXIS, fids.reshape(3, 16, -1), dimensions=("dynamic",))
    done = run(FrequencyPhaseCorrection(), scan)
    assert done.fids.shape == (3, 16, AXIS.points)
    each = done.fids.reshape(48, -1).numpy()
    rest = (each - each.mean(0)) / np.sqrt(1 - 1 / 48)
    assert rest.std() / math.sqrt(2) == pytest.approx(NOISE, rel=0.05)
    np.testing.assert_allclose(done.estimate["fpc_shift"], shift.reshape(3, 16).mean(1), atol=0.3)
    np.testing.assert_allclose(
        done.measures["fpc_shift_spread"], shift.reshape(3, 16).std(1), rtol=0.02
    )


def test_one_signal_alone_is_put_into_creatines_frame():
    fids, shift, phase = drifting(1, limit=20.0)
    done = run(FrequencyPhaseCorrection(), Scan(AXIS, fids))
    assert float(done.estimate["fpc_shift"]) == pytest.approx(shift[0], abs=0.5)
    assert spread(np.array([float(done.estimate["fpc_phase"]) - phase[0], 0.0])) < 5


def test_scalp_neither_makes_the_template_nor_is_moved():
    fids, shift, _ = drifting(40)
    fat = 500 * line(1.3, 30) + 300 * line(2.2, 30)
    scalp = torch.from_numpy((fat + NOISE * white(10, AXIS.points)).astype(np.complex64))
    marked = torch.arange(50) >= 40
    done = run(FrequencyPhaseCorrection(), Scan(AXIS, torch.cat([fids, scalp]), scalp=marked))
    assert (done.estimate["fpc_shift"][:40].numpy() - shift).std() < 0.2
    assert torch.isnan(done.estimate["fpc_shift"][40:]).all()
    assert torch.equal(done.fids[40:], scalp)


@settings(deadline=None, max_examples=5)
@given(hertz=st.floats(-15, 15), degrees=st.floats(-180, 180), scale=st.floats(1e-3, 1e6))
def test_a_shift_phase_and_scale_put_on_all_comes_back(hertz, degrees, scale):
    fids, _, _ = drifting(12, limit=10.0)
    stage = FrequencyPhaseCorrection(max_shift_hz=60)
    turn = scale * np.exp(1j * np.radians(degrees) + 2j * np.pi * hertz * AXIS.time)
    moved = (fids.numpy() * turn).astype(np.complex64)
    before = run(stage, Scan(AXIS, fids)).estimate
    after = run(stage, Scan(AXIS, torch.from_numpy(moved))).estimate
    # The window moves by parts of a bin against the peaks when the picked template moves.
    np.testing.assert_allclose(after["fpc_shift"] - before["fpc_shift"], hertz, atol=0.05)
    turned = (after["fpc_phase"] - before["fpc_phase"]).numpy() - np.radians(degrees)
    assert np.abs(np.angle(np.exp(1j * turned))).max() < math.radians(1.5)


def test_noise_alone_stays_as_it_is():
    """A voxel of noise looks like the template about once in a thousand."""
    fids, shift, _ = drifting(20)
    noise = torch.from_numpy(NOISE * white(400, AXIS.points).astype(np.complex64))
    done = run(FrequencyPhaseCorrection(), Scan(AXIS, torch.cat([fids, noise])))
    assert (done.estimate["fpc_shift"][:20].numpy() - shift).std() < 0.2
    left = torch.isnan(done.estimate["fpc_shift"][20:])
    assert (~left).sum() <= 5
    assert torch.equal(done.measures["fpc_applied"][20:] == 0, left)
    assert torch.equal(done.fids[20:][left], noise[left])


def test_a_transient_lost_in_noise_goes_with_its_voxel():
    fids, _, _ = drifting(8, limit=0.0)
    hertz = 20.0
    moved = fids.numpy() * np.exp(2j * np.pi * hertz * AXIS.time)
    moved[5] = 5 * NOISE * white(AXIS.points, seed=3)
    scan = Scan(AXIS, torch.from_numpy(moved.astype(np.complex64))[None], dimensions=("dynamic",))
    done = run(FrequencyPhaseCorrection(method="registration"), scan)
    assert float(done.measures["fpc_applied"]) == pytest.approx(7 / 8)
    turn = (done.fids[0, 5].numpy() / moved[5])[:200]
    assert np.diff(np.unwrap(np.angle(turn))).mean() == pytest.approx(
        -2 * np.pi * hertz * AXIS.dwell_time, rel=0.02
    )


def test_what_eddy_currents_and_correction_found_adds_up():
    fids, shift, phase = drifting(30)
    moved = shift + np.random.default_rng(4).uniform(-5, 5, 30)
    turn = np.exp(0.7j + 2j * np.pi * moved[:, None] * AXIS.time)
    water = 1000 * line(4.65, 12) * turn + NOISE * white(30, AXIS.points, seed=9)
    scan = Scan(AXIS, fids, torch.from_numpy(water.astype(np.complex64)))
    found = run((EddyCurrent(), FrequencyPhaseCorrection()), scan).estimate
    np.testing.assert_allclose(found["eddy_shift"], moved, atol=0.01)
    np.testing.assert_allclose(found["eddy_phase"], 0.7, atol=0.01)
    error = (found["eddy_shift"] + found["fpc_shift"]).numpy() - shift
    assert error.std() < 0.2
    assert spread((found["eddy_phase"] + found["fpc_phase"]).numpy() - phase) < 2


@pytest.mark.parametrize("count", [40, 150])
def test_similarity_matrices_are_kept(count):
    fids, _, _ = drifting(count)
    stage, scan = FrequencyPhaseCorrection(template_passes=1), Scan(AXIS, fids)
    pipeline = Pipeline(name="test", stages=(stage,))
    whole, few = (prepared_states(pipeline, scan, size)[0] for size in (1000, 17))
    before, after = (whole[f"similarity_matrix_{when}"] for when in ("before", "after"))
    assert before.shape == after.shape == (min(count, 64),) * 2
    assert before.dtype == after.dtype == torch.float32
    assert after.min() > 0.9 > before.mean() + 0.3
    torch.testing.assert_close(few["similarity_matrix_before"], before, rtol=0, atol=1e-5)
    torch.testing.assert_close(few["similarity_matrix_after"], after, rtol=0, atol=1e-3)


def test_k_means_chooses_a_reference_without_nuisances():
    """The tallest of all are signals with water, which the highest peak would choose."""
    fids, _, _ = drifting(120)
    watery, _, _ = drifting(120, water=60.0, seed=2)
    watery += torch.from_numpy((40 * line(2.5, 400)).astype(np.complex64))
    both = torch.stack([fids, watery], 1).flatten(0, 1)
    stage = FrequencyPhaseCorrection(
        reference="k-means", template_passes=0, frame="template", method="registration"
    )
    pipeline = Pipeline(name="test", stages=(stage,))
    template, again = (
        prepared_states(pipeline, Scan(AXIS, both), size)[0]["template"] for size in (1000, 33)
    )
    assert torch.equal(template, again)
    assert (template == fids).all(1).any()
    highest = stage.model_copy(update={"reference": "highest-peak"})
    other = prepared_states(Pipeline(name="test", stages=(highest,)), Scan(AXIS, both), 1000)[0]
    assert not (other["template"] == fids).all(1).any()


def smooth_scan(side: int = 24):
    """A slice with a smooth shift but for 0.3 Hz, every other voxel noisy: scan, Hz, noisy."""
    x, y = (axis.ravel() for axis in np.mgrid[:side, :side])
    u, v = 2 * x / (side - 1) - 1, 2 * y / (side - 1) - 1
    rng = np.random.default_rng(8)
    shift = 6 * u + 5 * v**2 - 4 * u * v + 2 * np.sin(2.5 * u) + 0.3 * rng.standard_normal(side**2)
    noisy = rng.permutation(side**2) % 2 == 1
    turn = np.exp(2j * np.pi * shift[:, None] * AXIS.time)
    fids = BRAIN * turn + np.where(noisy, 12.0, 0.3)[:, None] * white(side**2, AXIS.points)
    place = torch.from_numpy(np.stack([x, y, 0 * x], 1))
    return Scan(AXIS, torch.from_numpy(fids.astype(np.complex64)), coordinates=place), shift, noisy


def test_smoothing_helps_noisy_voxels_and_leaves_the_others():
    scan, shift, noisy = smooth_scan()
    settings = {"max_shift_hz": 20, "template_passes": 1}
    alone, smooth = (
        run(FrequencyPhaseCorrection(smooth=flag, **settings), scan) for flag in (False, True)
    )
    errors = [done.estimate["fpc_shift"].numpy() - shift for done in (alone, smooth)]
    both = np.isfinite(errors).all(0) & noisy
    rms = [float(np.sqrt(np.square(e[both]).mean())) for e in errors]
    assert rms[1] < 0.6 * rms[0]
    # More noisy voxels can be believed. Far down in noise bounds of single voxels are too small,
    # which widens the field: errors are what the combined bound says, or less.
    assert np.isfinite(errors[1][noisy]).mean() > np.isfinite(errors[0][noisy]).mean()
    known = noisy & np.isfinite(errors[1])
    ratio = errors[1][known] / smooth.sd["fpc_shift"].numpy()[known]
    assert 0.7 < np.sqrt(np.square(ratio).mean()) < 1.15
    change = (errors[1] - errors[0])[~noisy] / alone.sd["fpc_shift"].numpy()[~noisy]
    assert np.abs(change).max() < 1


def test_smoothing_does_not_depend_on_blocks():
    scan, _, _ = smooth_scan(12)
    stage = FrequencyPhaseCorrection(smooth=True, smooth_order=3, template_passes=1)
    whole, few = (run(stage, scan, size).estimate["fpc_shift"] for size in (1000, 31))
    torch.testing.assert_close(few, whole, rtol=0, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize(
    ("stage", "context", "message"),
    [
        ({"method": "water"}, Context(AXIS), "--water"),
        ({"window_ppm": (1.9, 30.0)}, Context(AXIS), "outside the spectrum"),
        ({"seconds": 0.01}, Context(AXIS), "window_ppm"),
        ({}, Context(AXIS, dimensions=("coil",)), "coil_combination"),
        ({"noise_ppm": (-20.0, 30.0)}, Context(AXIS), "noise_ppm"),
        ({"smooth": True}, Context(AXIS, dimensions=("dynamic",)), "smooth = false"),
        ({"smooth": True, "method": "creatine"}, Context(AXIS), "smooth = false"),
        ({}, Context(Acquisition(1024, 4e-3, 123.25)), "spectrum"),
    ],
)
def test_bad_input_is_refused(stage, context, message):
    with pytest.raises(InputError, match=message):
        FrequencyPhaseCorrection(**stage).check(context)


def test_zero_signals_are_refused():
    with pytest.raises(InputError, match="no voxel has a signal"):
        run(FrequencyPhaseCorrection(), Scan(AXIS, torch.zeros(3, 1024, dtype=torch.complex64)))


def test_pipeline_reads_its_settings_back():
    tables = [{"stage": "fpc", "method": "registration", "window_ppm": False}]
    pipeline = Pipeline.from_settings({"name": "test", "stages": tables})
    assert Pipeline.from_settings(pipeline.settings()) == pipeline


def test_short_fids_keep_the_frame_of_their_template() -> None:
    """Creatine's line holds too few points of 120 ms at 3 T; that is no reason to refuse a scan."""
    short = Context(Acquisition(points=300, dwell_time=4e-4, spectrometer_frequency=127.7))
    stage = FrequencyPhaseCorrection().check(short)
    assert "too short" in stage.assumptions(short)["frame"]
    whole = Context(Acquisition(points=1024, dwell_time=4e-4, spectrometer_frequency=127.7))
    assert not stage.assumptions(whole)
    with pytest.raises(InputError, match=r"creatine at 3\.03 ppm is not seen"):
        FrequencyPhaseCorrection(method="creatine").check(short)
