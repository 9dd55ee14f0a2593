"""Recipes of any kind by name."""

from __future__ import annotations

from pathlib import Path

from mrsi_engine.networks.kinds import network_kind
from mrsi_engine.networks.recipe_files import RecipeFile, read_recipe


def load_recipe(name_or_file: str | Path) -> RecipeFile:
    """A shipped recipe by name or any by TOML file, as what its ``kind`` says.

    Raises
    ------
    InputError
        If there is no such recipe, it is not TOML or a setting is wrong (named).
    """
    kind, _ = read_recipe(str(name_or_file))
    return network_kind(kind).recipe.load(name_or_file)
