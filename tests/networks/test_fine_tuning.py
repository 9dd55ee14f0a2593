"""Training that begins with a trained model, on fixed, noiseless or varied real signals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.networks import quantification
from mrsi_engine.networks.decoders import DecoderSettings
from mrsi_engine.networks.encoders import DenseSettings
from mrsi_engine.networks.kinds import RealSignals
from mrsi_engine.networks.model import Model, load_model
from mrsi_engine.networks.quantification import Recipe, train_quantifier
from mrsi_engine.networks.quantifier import Quantifier, normalise, predict
from mrsi_engine.networks.simulation import AugmentationSettings, SimulationSettings, Simulator
from mrsi_engine.networks.training import TrainingProgress, TrainingSettings
from mrsi_engine.spectra.basis import Basis


@pytest.fixture(autouse=True, scope="module")
def _few_signals() -> Iterator[None]:
    """What is usual and the scores, from fewer signals: neither is looked at here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantification, "_NOVELTY_SIGNALS", 512)
        patch.setattr(quantification, "_SCORED", 64)
        yield


@pytest.fixture(scope="module")
def recipe(settings: SimulationSettings) -> Recipe:
    return Recipe(
        name="tiny",
        input_points=128,
        target="noiseless",
        encoder=DenseSettings(widths=(64, 32)),
        decoder=DecoderSettings(kind="nMM", directions=True, shift_hz=10, phase_deg=60),
        # So that most of a signal is noise.
        simulation=settings.model_copy(update={"noise_sd": (8.0, 8.0)}),
        training=TrainingSettings(
            steps=60, batch=64, validate_every=20, learning_rate=5e-3, validation=128, seed=1
        ),
    )


@pytest.fixture(scope="module")
def model(recipe: Recipe, basis: Basis, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("trained") / "model"
    train_quantifier(recipe, basis, folder)
    return load_model(folder)


@pytest.fixture(scope="module")
def scan(recipe: Recipe, basis: Basis) -> RealSignals:
    batch = Simulator(recipe.simulation, basis).draw(300, seed=7)
    return RealSignals(batch.fids.numpy(), "scan.zarr")


def _changed(recipe: Recipe, **changes: Any) -> Recipe:
    return Recipe.model_validate({**recipe.model_dump(), **changes})


def _steps(recipe: Recipe, steps: int, every: int = 20) -> dict[str, Any]:
    return {**recipe.training.model_dump(), "steps": steps, "validate_every": every}


def test_noise_is_no_target(recipe: Recipe, model: Model, basis: Basis) -> None:
    training = model.card.training
    assert training is not None
    batch = Simulator(recipe.simulation, basis).draw(200, seed=3)
    # The loss of a noisy target could not fall below the noise; that of this one can.
    noise = (2 * batch.noise_sd**2 / batch.fids.abs().square().mean(1)).mean().item()
    assert min(validation for *_, validation in training.curve) < 0.7 * noise


def test_fine_tuning_begins_where_the_model_ended(
    recipe: Recipe, model: Model, basis: Basis, scan: RealSignals, tmp_path: Path
) -> None:
    careful = {**_steps(recipe, 4, every=2), "learning_rate": 1e-6}
    tuned, progress = train_quantifier(
        _changed(recipe, training=careful), basis, tmp_path / "tuned", scan=scan, start=model
    )
    untrained, _ = train_quantifier(
        _changed(recipe, training=careful), basis, tmp_path / "untrained", scan=scan
    )
    fids = torch.as_tensor(scan.fids)
    usual, other, rough = (predict(m, fids).theta[:, 1] for m in (model, tuned, untrained))
    torch.testing.assert_close(other, usual, atol=0.02, rtol=0)
    assert (rough - usual).std() > 1
    assert tuned.card.training is not None
    assert tuned.card.training.start == f"tiny {model.checksum[:12]}"
    assert tuned.card.training.data == "scan.zarr"
    assert progress.step == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"kind": "dense", "widths": (64, 16)}}, "encoder is"),
        ({"decoder": {"kind": "pMM"}}, "decoder is"),
        ({"input_points": 100}, "input_points is 128, recipe tiny has 100"),
        ({"members": 2}, "members is 1, recipe tiny has 2"),
    ],
)
def test_a_model_that_does_not_fit_the_recipe_is_no_start(
    changes: dict[str, Any],
    message: str,
    recipe: Recipe,
    model: Model,
    basis: Basis,
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=message):
        train_quantifier(_changed(recipe, **changes), basis, tmp_path / "tuned", start=model)
    assert not (tmp_path / "tuned").exists()


def test_a_model_of_another_basis_is_no_start(
    recipe: Recipe, model: Model, basis: Basis, tmp_path: Path
) -> None:
    fewer = basis.select(set(basis.names) - {"Tau"})
    amplitudes = dict.fromkeys(fewer.names, (1.0, 10.0))
    simulation = {**recipe.simulation.model_dump(), "amplitudes": amplitudes}
    with pytest.raises(InputError, match="differ in \\['Tau'\\]"):
        train_quantifier(
            _changed(recipe, simulation=simulation), fewer, tmp_path / "tuned", start=model
        )


@pytest.mark.parametrize("way", ["fixed set", "fine-tuned on varied real signals"])
def test_it_goes_on_to_the_same_weights(
    way: str, recipe: Recipe, model: Model, basis: Basis, scan: RealSignals, tmp_path: Path
) -> None:
    if way == "fixed set":
        chosen = _changed(recipe, signals=130, training=_steps(recipe, 12, every=4))
        given: dict[str, Any] = {}
    else:
        augmentation = AugmentationSettings(shift_hz=(-2, 2), noise=(0.0, 0.1))
        chosen = _changed(
            recipe, augmentation=augmentation.model_dump(), training=_steps(recipe, 12, every=4)
        )
        given = {"scan": scan, "start": model}
    whole, expected = train_quantifier(chosen, basis, tmp_path / "whole", **given)

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_quantifier(chosen, basis, tmp_path / "parts", on_point=stop, **given)
    again, found = train_quantifier(chosen, basis, tmp_path / "parts", resume=True, **given)
    assert found.curve == expected.curve
    assert again.checksum == whole.checksum
    if given:
        other = _changed(chosen, augmentation={})
        with pytest.raises(KeyboardInterrupt):
            train_quantifier(chosen, basis, tmp_path / "other", on_point=stop, **given)
        with pytest.raises(InputError, match="another recipe"):
            train_quantifier(other, basis, tmp_path / "other", resume=True, **given)
        with pytest.raises(InputError, match="another start"):
            train_quantifier(chosen, basis, tmp_path / "other", resume=True, scan=scan)


def test_varied_signals_are_known_without_the_noise_added_to_them(
    recipe: Recipe, model: Model, basis: Basis, scan: RealSignals, tmp_path: Path
) -> None:
    loud = AugmentationSettings(noise=(1.0, 1.0)).model_dump()
    training = {**_steps(recipe, 2, every=2), "learning_rate": 1e-6}
    losses = {}
    for target in ("measured", "noiseless"):
        chosen = _changed(recipe, augmentation=loud, target=target, training=training)
        _, progress = train_quantifier(chosen, basis, tmp_path / target, scan=scan, start=model)
        losses[target] = progress.curve[0].training
    time = torch.as_tensor(basis.acquisition.time, dtype=torch.float32)
    seen, clean = chosen.augmentation.vary(torch.as_tensor(scan.fids), time, seed=5)
    normalised, size = normalise(seen, recipe.input_points)
    noise = (normalised - clean / size).abs().square().mean().item()
    assert losses["measured"] - losses["noiseless"] == pytest.approx(noise, rel=0.15)


def test_single_lines_begin_with_the_best_fit_to_the_macromolecules(
    recipe: Recipe, basis: Basis, tmp_path: Path
) -> None:
    alike = {**recipe.simulation.model_dump(), "amplitudes": dict.fromkeys(basis.names, (5, 5))}
    parametric = _changed(
        recipe,
        decoder={"kind": "pMM"},
        simulation=alike,
        training=_steps(recipe, 1, every=1),
    )
    fids = basis.fids.copy()
    fids[-1] *= 3
    strong = replace(basis, fids=fids)
    begins = {}
    for name, of in (("pattern", basis), ("strong", strong)):
        trained, _ = train_quantifier(parametric, of, tmp_path / name)
        decoder = Quantifier.of(trained).decoder
        line, naa = (decoder.typical[decoder.names.index(n)].item() for n in ("MM0.88", "NAA"))
        begins[name] = line / naa
    # All columns have the same amplitude.
    assert begins == pytest.approx({"pattern": 1, "strong": 3}, rel=0.01)


def test_a_fixed_set_has_a_batch_at_least(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="at least a batch of 64"):
        _changed(recipe, signals=63)
