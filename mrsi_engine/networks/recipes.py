"""Recipes of any kind by name."""

from __future__ import annotations

from pathlib import Path

from mrsi_engine.networks.fpc import FpcRecipe
from mrsi_engine.networks.quantifier import Recipe
from mrsi_engine.networks.recipe_files import read_recipe

AnyRecipe = Recipe | FpcRecipe


def load_recipe(name_or_file: str | Path) -> AnyRecipe:
    """A shipped recipe by name or any by TOML file, as what its ``kind`` says.

    Raises
    ------
    InputError
        If there is no such recipe, it is not TOML or a setting is wrong (named).
    """
    kind, _ = read_recipe(str(name_or_file))
    recipe: type[Recipe] | type[FpcRecipe] = FpcRecipe if kind == "fpc" else Recipe
    return recipe.load(name_or_file)
