"""Calibrated error bars hold the truth as often as they say, bin by bin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrsi_engine.fit.calibration import SNR_EDGES, calibrated
from mrsi_engine.networks.decoders import DecoderSettings
from mrsi_engine.networks.encoders import DenseSettings
from mrsi_engine.networks.model import Calibration, load_model, save_model
from mrsi_engine.networks.quantification import Recipe, train_quantifier
from mrsi_engine.networks.simulation import SimulationSettings, Simulator
from mrsi_engine.networks.training import TrainingSettings
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.spectra.simulation import simulate_basis
from mrsi_engine.stages import Quantify

SIGNALS = 4096


@pytest.fixture(scope="module")
def simulator() -> Simulator:
    names = ("NAA", "Cr", "GPC", "Tau")
    basis = simulate_basis(
        "press", echo_time=30e-3, field=3.0, points=256, dwell_time=0.5e-3, metabolites=names
    )
    basis = with_macromolecules(basis, "pattern")
    settings = SimulationSettings(
        amplitudes=dict.fromkeys(basis.names, (2.0, 10.0)),
        shift_hz=(-5, 5),
        phase_deg=(-20, 20),
        damping=(2, 20),
        noise_sd=(0.5, 8.0),
    )
    return Simulator(settings, basis)


def test_intervals_hold_the_truth_and_the_factors_reach_the_maps(
    simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = Recipe(
        name="tiny",
        input_points=128,
        members=2,
        encoder=DenseSettings(widths=(64, 32)),
        decoder=DecoderSettings(shift_hz=10, phase_deg=60),
        simulation=simulator.settings,
        training=TrainingSettings(
            steps=100, batch=64, validate_every=100, learning_rate=3e-3, validation=64
        ),
    )
    folder = tmp_path_factory.mktemp("tiny")
    train_quantifier(recipe, simulator.basis, folder)
    model = load_model(folder, "quantification")
    stage = Quantify(method="network", model=str(folder))
    made = calibrated(stage, model, simulator, SIGNALS, seed=900_000_000)
    assert made.signals == SIGNALS
    assert made.fit["window_ppm"] == [0.2, 4.2]
    # Hardly trained, the network is off by more than bounds at high SNR know of.
    assert made.factors["shift"][-1] > 1.5
    for name in ("NAA", "Cr", "shift"):
        for coverage in made.coverage[name]:
            # A factor of n signals covers 95 % with an SD of 0.31 / sqrt(n), as counting m does;
            # bins hold 200 signals or more: 4.5 SDs of both.
            assert coverage == -1 or 0.95 - 0.1 < coverage < 1.0
    assert np.mean([c for c in made.coverage["NAA"] if c > 0]) == pytest.approx(0.95, abs=0.02)

    card = model.card.model_copy(update={"calibration": made})
    save_model(folder, replace(model, card=card))
    context = Context(simulator.basis.acquisition, simulator.basis)
    assert stage.assumptions(context)["calibration"] == f"on {SIGNALS} simulated signals"
    other = stage.model_copy(update={"window_ppm": (0.5, 4.2)})
    assert other.assumptions(context)["calibration"] == "made with another window_ppm"
    block = Block(simulator.draw(300, seed=5).fids)
    stage.build(context)(block)
    parts = torch.hypot(block.measures["crlb_NAA"], block.measures["epistemic_NAA"])
    expected = made.at(["NAA"], block.measures["snr"])[:, 0]
    torch.testing.assert_close(block.sd["NAA"] / parts, expected)
    assert len(set(expected.tolist())) > 2


def test_factors_are_those_of_the_bin() -> None:
    one = (1.0, 2.0, 3.0, 4.0, 5.0)
    calibration = Calibration(snr=SNR_EDGES, factors={"NAA": one}, signals=1)
    snr = torch.tensor([3.0, 10.0, 10.1, 39.0, 79.0, 81.0, torch.nan])
    found = calibration.at(["NAA", "Cr"], snr)
    assert found[:, 0].tolist() == [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1.0]
    assert (found[:, 1] == 1).all()
