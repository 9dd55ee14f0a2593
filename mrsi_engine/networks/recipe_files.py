"""Recipes of networks as files: those in the package by name, any other by its path."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.networks.kind_names import known_kind
from mrsi_engine.networks.model import first_mistake
from mrsi_engine.networks.training import TrainingSettings

#: The folder of recipes inside the package.
_SHIPPED = resources.files("mrsi_engine") / "networks" / "recipes"


class SignalAxis(BaseModel):
    """Signals to simulate: their number of points, dwell time (s) and frequency (MHz).

    What is not given is the basis' own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: PositiveInt | None = None
    dwell_time: PositiveFloat | None = None
    spectrometer_frequency: PositiveFloat | None = None

    def of(self, acquisition: Acquisition) -> Acquisition:
        """The acquisition of a basis with what is given here."""
        return replace(acquisition, **self.model_dump(exclude_none=True))


class RecipeFile(BaseModel):
    """Base of recipes, whose fields are the keys of their files.

    A file says ``kind = "fpc"`` where it is not for quantification.

    Parameters
    ----------
    name, description
        For people.
    training
        How to train.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]

    name: str
    description: str = ""
    training: TrainingSettings = TrainingSettings()

    @property
    def calibration_signals(self) -> int:
        """Simulated signals that the error bars of the model are to be calibrated with."""
        return 0

    @classmethod
    def load(cls, name_or_file: str | Path) -> Self:
        """A shipped recipe by name, or any by TOML file.

        Raises
        ------
        InputError
            If there is no such recipe, it is not TOML, of another kind, or a setting is wrong
            (named).
        """
        source = str(name_or_file)
        kind, settings = read_recipe(source)
        if kind != cls.kind:
            raise InputError(f"{source}: kind is {kind!r}, expected a recipe for {cls.kind!r}")
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise InputError(f"{source}: {first_mistake(error)}") from error


def read_recipe(source: str) -> tuple[str, dict[str, Any]]:
    """What a recipe is for, and its settings as they stand in the file.

    Raises
    ------
    InputError
        If there is no such recipe, it is not TOML, or there is no such kind.
    """
    try:
        settings = tomllib.loads(recipe_text(source))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{source}: not valid TOML: {error}") from error
    named = settings.pop("kind", "quantification")
    try:
        return known_kind(named), settings
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def recipe_text(source: str) -> str:
    """The TOML text of a shipped recipe or a file, to be copied and changed.

    Raises
    ------
    InputError
        If there is no such recipe.
    """
    if source in _names():
        return (_SHIPPED / f"{source}.toml").read_text(encoding="utf-8")
    if not Path(source).is_file():
        raise InputError(f"{source}: no such recipe; shipped: {_names()}, or give a TOML file")
    try:
        return Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not a TOML file, which is text in UTF-8 ({error})") from error


def shipped_recipes(kind: str | None = None) -> list[str]:
    """Names of the recipes in the package; of one kind, or of all."""
    return [name for name in _names() if kind is None or read_recipe(name)[0] == kind]


def _names() -> list[str]:
    files = (file.name for file in _SHIPPED.iterdir())
    return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))
