"""Stages by their key: the shipped ones, and those that others install beside the engine.

A package offers stages as entry points of the group ``mrsi_engine.stages``: the key of the stage
and where its class is, e.g. ``apodise = "own_stage:Apodise"``. It is imported when a pipeline names
the stage. Without a package, the environment variable ``MRSI_ENGINE_PLUGINS`` may name importable
modules, with commas between; a pipeline file itself never says what code is to be run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version

from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.stage import Stage

GROUP = "mrsi_engine.stages"
VARIABLE = "MRSI_ENGINE_PLUGINS"


@dataclass(frozen=True)
class Stages:
    """Every stage there is, by key, and what is wrong with plug-ins that could not be loaded."""

    kinds: dict[str, type[Stage]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def stage_kind(key: str) -> type[Stage]:
    """The stage of this key.

    Raises
    ------
    InputError
        If there is none, or it is of a plug-in that cannot be loaded.
    """
    if key not in Stage.registry:
        _import_shipped()
    if key not in Stage.registry:
        for module in _named_modules():
            _import_named(module)
    if key not in Stage.registry:
        for offered in entry_points(group=GROUP, name=key):
            _load(offered)
    if key not in Stage.registry:
        raise InputError(f"no stage {key!r}; there are {', '.join(sorted(_known()))}")
    return Stage.registry[key]


def every_stage() -> Stages:
    """Every stage, plug-ins loaded."""
    _import_shipped()
    problems = []
    for module in _named_modules():
        try:
            _import_named(module)
        except InputError as error:
            problems.append(str(error))
    for offered in entry_points(group=GROUP):
        try:
            _load(offered)
        except InputError as error:
            problems.append(str(error))
    return Stages(dict(sorted(Stage.registry.items())), problems)


def is_shipped(kind: type[Stage]) -> bool:
    """Whether a stage comes with the engine."""
    return kind.__module__.startswith(f"{GROUP}.")


def revision_of(kind: type[Stage]) -> int | str:
    """What the numbers of a stage are known by beside its settings: its revision.

    Of one that states none, name and version of the package it comes from; just the name of its
    module where it belongs to none.
    """
    if kind.revision is not None:
        return kind.revision
    return _package_of(kind.__module__.split(".")[0])


@cache
def _package_of(module: str) -> str:
    packages = sorted(set(packages_distributions().get(module, ())))
    return ", ".join(f"{package} {version(package)}" for package in packages) or module


def _import_shipped() -> None:
    # By name: the room of stages stands above this one. Deriving from Stage registers a stage.
    import_module(GROUP)


def _known() -> set[str]:
    return {*Stage.registry, *(offered.name for offered in entry_points(group=GROUP))}


def _named_modules() -> list[str]:
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def _import_named(module: str) -> None:
    with _explained(f"module {module!r}, which {VARIABLE} names,"):
        import_module(module)


def _load(offered: EntryPoint) -> None:
    package = offered.dist.name if offered.dist is not None else "a package"
    whose = f"stage {offered.name!r} of {package} ({offered.value})"
    if offered.name in Stage.registry and is_shipped(Stage.registry[offered.name]):
        raise InputError(f"{whose}: the engine has a stage of this name; rename or uninstall it")
    with _explained(whose):
        kind = offered.load()
    if not (isinstance(kind, type) and issubclass(kind, Stage) and kind.stage == offered.name):
        raise InputError(
            f"{whose}: not a Stage with stage = {offered.name!r}; mend its entry point or "
            "uninstall it"
        )


@contextmanager
def _explained(whose: str) -> Iterator[None]:
    """Says whose code fails as it is imported, and keeps it from replacing a shipped stage."""
    before = dict(Stage.registry)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        Stage.registry.clear()
        Stage.registry.update(before)
        raise InputError(
            f"{whose} cannot be imported: {type(error).__name__}: {error}; mend or uninstall it"
        ) from error
    replaced = [k for k, kind in before.items() if is_shipped(kind) and Stage.registry[k] != kind]
    if replaced:
        Stage.registry.update(before)
        raise InputError(f"{whose} defines {replaced}, which the engine has; rename its stages")
