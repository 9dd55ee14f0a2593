"""Recipes by name and by file, of whichever kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.networks.fpc import FpcRecipe
from mrsi_engine.networks.quantification import Recipe
from mrsi_engine.networks.recipe_files import shipped_recipes
from mrsi_engine.networks.recipes import load_recipe


def test_shipped_recipes_are_valid_and_of_their_kind() -> None:
    for kind in (Recipe, FpcRecipe):
        names = shipped_recipes(kind.kind)
        assert names
        for name in names:
            recipe = load_recipe(name)
            assert type(recipe) is kind
            assert recipe.name == name
    both = shipped_recipes("quantification") + shipped_recipes("fpc")
    assert sorted(both) == shipped_recipes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'\ninput_points = 8\n[simulation]\ndamping = [5, 1]", r"amplitudes: Field req"),
        ("name = ", "not valid TOML"),
        ("kind = 'segmentation'\nname = 'x'", "kind is 'segmentation', expected one of"),
        ("kind = 'fpc'\nname = 'x'\ninput_points = 8", "decoder: Field required"),
        (
            "kind = 'fpc'\nname = 'x'\ndecoder = {kind = 'dSR'}\n"
            "simulation = {kind = 'transients', shift = 3}",
            r"simulation\.transients\.shift: Extra inputs",
        ),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as refused:
        load_recipe(file)
    assert str(file) in str(refused.value)


def test_no_recipe_and_one_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="no such recipe; shipped"):
        load_recipe("nothing")
    with pytest.raises(InputError, match="kind is 'quantification', expected a recipe for 'fpc'"):
        FpcRecipe.load("press-3t-te30")
