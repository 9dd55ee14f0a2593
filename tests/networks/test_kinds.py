"""A kind of network is one file: found by its name, trained and loaded through the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.networks import kinds
from mrsi_engine.networks.kind_names import known_kind
from mrsi_engine.networks.kinds import Given, NetworkKind, network_kind
from mrsi_engine.networks.model import load_model, shipped_models
from mrsi_engine.networks.recipe_files import RecipeFile, shipped_recipes
from mrsi_engine.networks.recipes import load_recipe
from mrsi_engine.runs import training


@pytest.mark.parametrize("name", kinds.MODULES)
def test_every_kind_says_its_name(name: str) -> None:
    kind = network_kind(name)
    assert kind.name == kind.recipe.kind == name
    assert shipped_recipes(name)
    assert all(isinstance(load_recipe(r), kind.recipe) for r in shipped_recipes(name))


@pytest.mark.parametrize("name", shipped_models())
def test_every_shipped_model_can_be_made_ready(name: str) -> None:
    model = load_model(name)
    assert network_kind(model.card.kind).ready(model, "cpu").model.card == model.card


def test_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind is 'segmentation', expected one of"):
        known_kind("segmentation")
    (tmp_path / "r.toml").write_text('kind = "segmentation"\nname = "r"\n')
    with pytest.raises(InputError, match=r"r\.toml: kind is 'segmentation', expected one of"):
        load_recipe(tmp_path / "r.toml")


def test_a_kind_of_ones_own_is_trained_by_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OwnRecipe(RecipeFile):
        kind = "own"

    asked: list[Given] = []
    model = load_model(shipped_models()[0])

    def train(recipe: OwnRecipe, given: Given) -> tuple[object, object]:
        asked.append(given)
        return model, None

    def ready(model: object, device: object) -> object:
        return model

    monkeypatch.setattr(
        training, "network_kind", lambda name: NetworkKind(name, OwnRecipe, train, ready)
    )
    (tmp_path / "model").mkdir()
    done, _ = training.train(tmp_path / "model", OwnRecipe(name="mine"), None, device="cpu")
    assert done is model
    assert (asked[0].folder, asked[0].basis, asked[0].scan) == (tmp_path / "model", None, None)
    assert (tmp_path / "model" / "report.html").exists()
