from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.networks.decoders import DecoderSettings
from mrsi_engine.networks.encoders import DenseSettings
from mrsi_engine.networks.kinds import RealSignals
from mrsi_engine.networks.model import Model, load_model
from mrsi_engine.networks.quantification import Recipe, train_quantifier
from mrsi_engine.networks.quantifier import Quantifier, predict
from mrsi_engine.networks.simulation import SimulationSettings, Simulator
from mrsi_engine.networks.training import TrainingSettings
from mrsi_engine.spectra.basis import Basis


@pytest.fixture(scope="module")
def recipe(settings: SimulationSettings) -> Recipe:
    return Recipe(
        name="tiny",
        input_points=128,
        members=2,
        encoder=DenseSettings(widths=(128, 64)),
        decoder=DecoderSettings(shift_hz=10, phase_deg=60),
        simulation=settings,
        training=TrainingSettings(
            steps=150, batch=64, validate_every=150, learning_rate=3e-3, validation=64, seed=1
        ),
    )


@pytest.fixture(scope="module")
def model(recipe: Recipe, basis: Basis, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    train_quantifier(recipe, basis, folder)
    return load_model(folder, "quantification")


def test_a_trained_model_predicts_in_the_units_of_the_data(
    model: Model, recipe: Recipe, basis: Basis
) -> None:
    batch = Simulator(recipe.simulation, basis).draw(300, seed=99)
    found = predict(model, batch.fids.numpy(), batch=128)
    assert sorted(f.name for f in Path(model.source).iterdir()) == [
        "card.json",
        "weights.safetensors",
    ]
    # An untrained encoder is off by the ranges' SD: 2.9 Hz and 0.2 rad.
    phase, shift = (found.theta - batch.theta)[:, :2].square().mean(0).sqrt().tolist()
    assert shift < 1.2
    assert phase < 0.1
    assert model.card.scores["rmse shift"] == pytest.approx(shift, rel=0.3)
    turn, time = 1j * found.theta[:, :1], torch.as_tensor(basis.acquisition.time)
    turn = turn + (2j * torch.pi * found.theta[:, 1:2] - found.theta[:, 2:3]) * time
    fit = (found.amplitudes.numpy() @ basis.fids) * turn.exp().numpy()
    left = (np.abs(batch.fids.numpy() - fit) ** 2).mean(1) / 2
    np.testing.assert_allclose(found.residual_variance, left, rtol=1e-3)
    scaled = predict(model, 1000 * batch.fids)
    torch.testing.assert_close(scaled.amplitudes, 1000 * found.amplitudes, rtol=1e-3, atol=1.0)
    torch.testing.assert_close(scaled.theta, found.theta, rtol=1e-3, atol=1e-3)


def test_a_broken_voxel_spoils_no_other_and_what_is_out_of_range_is_seen(
    model: Model, recipe: Recipe, basis: Basis
) -> None:
    batch = Simulator(recipe.simulation, basis).draw(40, seed=5)
    fids = batch.fids.clone()
    fids[3], fids[4] = torch.nan, 0
    quantifier = Quantifier.of(model)
    found, good = quantifier.predict(fids), quantifier.predict(batch.fids)
    others = [i for i in range(40) if i not in (3, 4)]
    torch.testing.assert_close(found.amplitudes[others], good.amplitudes[others])
    assert found.amplitudes[3].isnan().all()
    assert (found.amplitudes[4] == 0).all()
    assert quantifier.inside_ranges(good.theta, margin=0.2).float().mean() > 0.9
    assert not quantifier.inside_ranges(found.theta)[3]
    time = torch.as_tensor(basis.acquisition.time, dtype=torch.float32)
    moved = batch.fids * torch.polar(torch.ones_like(time), 2 * torch.pi * 40 * time)
    usual = good.chi_square(batch.noise_sd).median()
    assert quantifier.predict(moved).chi_square(batch.noise_sd).median() > 3 * usual


def test_members_have_opinions_of_their_own_and_the_first_alone_is_faster(
    model: Model, recipe: Recipe, basis: Basis
) -> None:
    batch, quantifier = Simulator(recipe.simulation, basis).draw(64, seed=11), Quantifier.of(model)
    both, first = quantifier.opinions(batch.fids), quantifier.opinions(batch.fids, members=1)
    assert both.theta.shape == (2, 64, 4)
    assert both.amplitudes is None
    assert torch.equal(both.theta[:1], first.theta)
    assert torch.equal(both.novelty, first.novelty)
    # Trained alike from other weights: they agree better than with chance, and are not the same.
    apart = (both.theta[0] - both.theta[1])[:, 1].abs().median()
    assert 0.01 < apart < batch.theta[:, 1].std()
    torch.testing.assert_close(quantifier.predict(batch.fids).theta, both.theta.mean(0))


def test_what_training_never_saw_is_novel(model: Model, recipe: Recipe, basis: Basis) -> None:
    drawn = Simulator(recipe.simulation, basis).draw(2000, seed=12).fids
    quantifier, time = Quantifier.of(model), torch.as_tensor(basis.acquisition.time).float()
    # One in a thousand by definition: 9 or more of 2000 have a chance of 2e-4.
    assert (quantifier.opinions(drawn).novelty > 1).sum() < 9
    torch.testing.assert_close(
        quantifier.opinions(50 * drawn[:9]).novelty, quantifier.opinions(drawn[:9]).novelty
    )
    lipid = 300 * torch.polar(torch.exp(-50 * time), 2 * torch.pi * 410 * time)
    assert (quantifier.opinions(drawn + lipid).novelty > 1).float().mean() > 0.9


def test_predictions_do_not_depend_on_the_batch(model: Model, recipe: Recipe, basis: Basis) -> None:
    fids = Simulator(recipe.simulation, basis).draw(22, seed=6).fids
    whole, parts = predict(model, fids), predict(model, fids, batch=7)
    # One signal alone takes another matrix product, so rounding may differ.
    torch.testing.assert_close(parts.theta, whole.theta, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts.amplitudes, whole.amplitudes, rtol=1e-3, atol=1e-3)


def test_real_signals_teach_without_labels(recipe: Recipe, basis: Basis, tmp_path: Path) -> None:
    batch = Simulator(recipe.simulation, basis).draw(200, seed=7)
    fids = batch.fids.numpy()
    fids[0] = np.nan
    scan = RealSignals(fids, "scan.zarr")
    model, _ = train_quantifier(recipe, basis, tmp_path / "model", scan=scan)
    other = Simulator(recipe.simulation, basis).draw(200, seed=8)
    shift = predict(model, other.fids).theta[:, 1]
    # An untrained encoder is off by the range's SD, 2.9 Hz.
    assert (shift - other.theta[:, 1]).square().mean().sqrt() < 1.5
    assert model.card.training is not None
    assert model.card.training.data == "scan.zarr"
    few = RealSignals(fids[1:6, :100], "scan.zarr")
    with pytest.raises(InputError, match=r"scan\.zarr: 5 finite signals of 100 points"):
        train_quantifier(recipe, basis, tmp_path / "other", scan=few)


def test_more_input_points_than_the_signals_have_are_refused(
    recipe: Recipe, basis: Basis, tmp_path: Path
) -> None:
    longer = recipe.model_copy(update={"input_points": 512})
    with pytest.raises(InputError, match="input_points is 512, the signals have 256"):
        train_quantifier(longer, basis, tmp_path / "model")
