"""Frequency and phase correction by a network with least squares behind it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.networks.fpc import TEMPLATE
from mrsi_engine.networks.model import Model, load_model, save_model
from mrsi_engine.pipeline.stage import Block
from mrsi_engine.stages.fpc import FrequencyPhaseCorrection
from tests.stages.passes import Scan, run

NAME = "fpc-press-3t-te30"
MODEL = load_model(NAME, "fpc")
AXIS = MODEL.card.axis.acquisition
NETWORK = FrequencyPhaseCorrection(method="network")
COUNT = 200


def white(*shape: int, seed: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*shape, 2)).view(complex)[..., 0]


def drifting(limit: float = 40.0, noise: float = 6.0, water: float = 0.0, count: int = COUNT):
    """The model's template shifted and turned at random, with water: FIDs, Hz, rad."""
    rng = np.random.default_rng(2)
    shift = rng.uniform(-limit, limit, count)
    phase = rng.uniform(-np.pi, np.pi, count)
    line = np.exp((2j * np.pi * float(AXIS.frequency_of(4.66)) - 25) * AXIS.time)
    signal = MODEL.tensors[TEMPLATE].numpy() + water * line
    turn = np.exp(1j * phase[:, None] + 2j * np.pi * shift[:, None] * AXIS.time)
    fids = signal * turn + noise * white(count, AXIS.points)
    return torch.from_numpy(fids.astype(np.complex64)), shift, phase


def errors(done: Block, shift: np.ndarray, phase: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """About their mean, in units of the Cramér-Rao bounds."""
    hertz = done.estimate["fpc_shift"].numpy() - shift
    turn = np.exp(1j * (done.estimate["fpc_phase"].numpy() - phase))
    angle = np.angle(turn / turn.mean())
    sd = done.sd["fpc_shift"].numpy(), done.sd["fpc_phase"].numpy()
    return (hertz - hertz.mean()) / sd[0], (angle - angle.mean()) / sd[1]


def spoilt(folder: Path, seed: int = 0) -> Model:
    """The model with other weights, which knows nothing."""
    known = load_model(NAME)
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in known.encoder.parameters():
            weights.copy_(0.3 * torch.randn(weights.shape, generator=chance))
    save_model(folder, known)
    return known


@pytest.mark.parametrize("water", [0.0, 400.0])
def test_it_reaches_the_bound_and_finds_what_robust_finds(water: float) -> None:
    fids, shift, phase = drifting(water=water)
    done = run(NETWORK, Scan(AXIS, fids))
    robust = run(FrequencyPhaseCorrection(), Scan(AXIS, fids))
    assert done.measures["fpc_network"].mean() > 0.9
    assert (done.measures["fpc_applied"] == 1).all()
    for found, other in zip(errors(done, shift, phase), errors(robust, shift, phase), strict=True):
        # The SD of 200 errors is known to 5 %; the template's own noise adds a four-hundredth.
        assert found.std() == pytest.approx(1, abs=4 / math.sqrt(2 * COUNT))
        # Up to a tenth of an SD of its own is left, robust leaves 3 hundredths.
        assert np.abs(found - other).max() < 0.2


def test_the_model_template_needs_no_pass_over_the_scan() -> None:
    fids, shift, phase = drifting()
    stage = FrequencyPhaseCorrection(method="network", template_passes=0)
    scan = Scan(AXIS, fids)
    assert stage.passes(scan.context) == 0
    done = run(stage, scan)
    for found in errors(done, shift, phase):
        assert found.std() == pytest.approx(1, abs=4 / math.sqrt(2 * COUNT))
    assert np.abs(done.estimate["fpc_shift"].numpy() - shift).max() < 6 * done.sd["fpc_shift"].max()


def test_a_wrong_network_costs_time_and_nothing_else(tmp_path: Path) -> None:
    spoilt(tmp_path / "model")
    fids, shift, phase = drifting()
    stage = FrequencyPhaseCorrection(method="network", model=str(tmp_path / "model"))
    done = run(stage, Scan(AXIS, fids))
    robust = run(FrequencyPhaseCorrection(), Scan(AXIS, fids))
    assert done.measures["fpc_network"].mean() < 0.2
    for found, other in zip(errors(done, shift, phase), errors(robust, shift, phase), strict=True):
        assert np.abs(found - other).max() < 0.2


def test_what_it_was_not_trained_for_is_searched() -> None:
    """Shifts beyond training, and noise alone."""
    fids, shift, _ = drifting(limit=100.0)
    fids[:20] = torch.from_numpy(6.0 * white(20, AXIS.points, seed=8)).to(torch.complex64)
    settings = {"max_shift_hz": 110.0, "template_passes": 1}
    done = run(FrequencyPhaseCorrection(method="network", **settings), Scan(AXIS, fids))
    robust = run(FrequencyPhaseCorrection(**settings), Scan(AXIS, fids))
    assert (done.measures["fpc_applied"][:20] == 0).all()
    torch.testing.assert_close(
        done.measures["fpc_applied"], robust.measures["fpc_applied"], rtol=0, atol=0
    )
    # The network says 60 Hz at most.
    far = (np.abs(shift) > 65) & (np.arange(COUNT) >= 20)
    assert (done.measures["fpc_network"].numpy()[far] == 0).all()
    apart = (done.estimate["fpc_shift"] - robust.estimate["fpc_shift"])[20:]
    assert (apart - apart.mean()).abs().max() < 0.2 * done.sd["fpc_shift"][20:].max()


def test_blocks_do_not_matter() -> None:
    fids, *_ = drifting(water=100.0)
    first, second = (run(NETWORK, Scan(AXIS, fids), size) for size in (200, 37))
    for name in ("fpc_shift", "fpc_phase"):
        apart = (first.estimate[name] - second.estimate[name]).abs()
        assert apart.max() < 1e-3 * first.sd[name].min()
    torch.testing.assert_close(first.measures["fpc_network"], second.measures["fpc_network"])


def test_a_block_of_scalp_alone_adds_nothing() -> None:
    fids, *_ = drifting(count=40)
    scalp = torch.arange(40) < 20
    done = run(NETWORK, Scan(AXIS, fids, scalp=scalp), size=20)
    assert (done.measures["fpc_applied"] == (~scalp).double()).all()


def test_transients_and_smoothing() -> None:
    fids, shift, _ = drifting()
    done = run(NETWORK, Scan(AXIS, fids.view(20, 10, -1), dimensions=("dynamic",)))
    assert done.estimate["fpc_shift"].numpy() == pytest.approx(
        shift.reshape(20, 10).mean(1), abs=0.5
    )
    assert (done.measures["fpc_network"] > 0.5).all()
    smooth = FrequencyPhaseCorrection(method="network", smooth=True, smooth_order=1)
    found = run(smooth, Scan(AXIS, fids))
    error = found.estimate["fpc_shift"].numpy() - shift
    assert np.abs(error).max() < 6 * found.sd["fpc_shift"].max()
    assert found.measures["fpc_network"].mean() > 0.9


@pytest.mark.parametrize(
    ("settings", "axis", "message"),
    [
        ({}, AXIS.with_points(800), "the model is for points 1024, the scan has 800"),
        ({}, Acquisition(1024, 4e-4, 123.2), "spectrometer_frequency 127.*the scan has 123.2"),
        ({"model": "press-3t-te30"}, AXIS, "kind is 'quantification', expected a model for 'fpc'"),
        ({"model": "nothing"}, AXIS, "none of the shipped models"),
        ({"reference": "k-means"}, AXIS, "chooses the first template"),
        ({"smooth": True, "template_passes": 0}, AXIS, "template_passes of at least 1"),
    ],
)
def test_what_does_not_suit_is_refused(settings: dict, axis: Acquisition, message: str) -> None:
    stage = FrequencyPhaseCorrection(method="network", **settings)
    with pytest.raises(InputError, match=message):
        stage.check(Scan(axis, torch.zeros(1, axis.points)).context)


def test_a_folder_is_the_same_for_workers_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    assert FrequencyPhaseCorrection(model="model").model == str(tmp_path / "model")
    assert FrequencyPhaseCorrection(model=NAME).model == NAME


def test_a_run_is_known_by_the_model(tmp_path: Path) -> None:
    context = Scan(AXIS, torch.zeros(1, AXIS.points)).context
    assert NETWORK.models(context) == {NAME: MODEL.checksum}
    other = spoilt(tmp_path / "model")
    stage = FrequencyPhaseCorrection(method="network", model=str(tmp_path / "model"))
    assert stage.models(context) == {str(tmp_path / "model"): other.checksum}
    assert other.checksum != MODEL.checksum
    assert not FrequencyPhaseCorrection().models(context)
