"""Stages of other packages: found by their entry points, loaded when they are named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.registry import every_stage, is_shipped, revision_of, stage_kind
from mrsi_engine.pipeline.stage import Stage

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_stage.py"

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a module and what a package says of it where Python finds both."""
    before = dict(Stage.registry)
    monkeypatch.syspath_prepend(tmp_path)

    def installed(text: str, offers: str, module: str = "stages_of_others") -> None:
        (tmp_path / f"{module}.py").write_text(text)
        about = tmp_path / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (about / "RECORD").write_text(f"{module}.py,,\n")
        (about / "entry_points.txt").write_text(f"[mrsi_engine.stages]\n{offers}\n")

    yield installed
    for module in [name for name in sys.modules if name.startswith("stages_of_others")]:
        del sys.modules[module]
    Stage.registry.clear()
    Stage.registry.update(before)


def test_a_stage_of_a_package_is_loaded_when_a_pipeline_names_it(install: Install) -> None:
    install(EXAMPLE.read_text(), "apodise = stages_of_others:Apodise")
    Pipeline.from_settings({"name": "p", "stages": [{"stage": "quantify"}]})
    assert "stages_of_others" not in sys.modules
    pipeline = Pipeline.from_settings({"name": "p", "stages": [{"stage": "apodise"}]})
    assert type(pipeline.stages[0]).__module__ == "stages_of_others"
    assert "apodise" in every_stage().kinds


def test_numbers_of_a_stage_are_known_by_its_revision_or_its_package(install: Install) -> None:
    install(EXAMPLE.read_text(), "apodise = stages_of_others:Apodise")
    own = stage_kind("apodise")
    assert revision_of(own) == "stages_of_others 1.0"
    own.revision = 4
    assert revision_of(own) == 4
    shipped = [kind for kind in every_stage().kinds.values() if is_shipped(kind)]
    assert all(isinstance(revision_of(kind), int) for kind in shipped)


def test_an_unknown_stage_names_those_that_packages_offer(install: Install) -> None:
    install(EXAMPLE.read_text(), "apodise = stages_of_others:Apodise")
    with pytest.raises(InputError, match=r"no stage 'apodize'; there are apodise, averaging, "):
        stage_kind("apodize")


@pytest.mark.parametrize(
    ("text", "offer", "message"),
    [
        ("import no_such_thing", "mine = stages_of_others:Mine", "ModuleNotFoundError: .*no_such"),
        ("1 / 0", "mine = stages_of_others:Mine", "ZeroDivisionError: division by zero"),
        ("", "mine = stages_of_others:Mine", "AttributeError: .*'Mine'"),
        ("Mine = 3", "mine = stages_of_others:Mine", "not a Stage with stage = 'mine'"),
        (EXAMPLE.read_text(), "mine = stages_of_others:Apodise", "not a Stage with stage = 'mine'"),
    ],
)
def test_a_broken_one_says_whose_it_is(
    install: Install, text: str, offer: str, message: str
) -> None:
    install(text, offer)
    with pytest.raises(InputError, match=message) as refused:
        stage_kind("mine")
    assert str(refused.value).startswith("stage 'mine' of stages_of_others (stages_of_others:")
    assert [str(refused.value)] == every_stage().problems
    assert "quantify" in every_stage().kinds


def test_a_shipped_stage_is_not_replaced(install: Install) -> None:
    theirs = EXAMPLE.read_text().replace('"apodise"', '"averaging"')
    shipped = stage_kind("averaging")
    install(theirs, "averaging = stages_of_others:Apodise\nmine = stages_of_others:Apodise")
    first, second = every_stage().problems
    assert "the engine has a stage of this name" in first
    assert "defines ['averaging'], which the engine has" in second
    assert stage_kind("averaging") is shipped


def test_a_module_by_the_environment(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(EXAMPLE.read_text(), "", "stages_of_others_unpacked")
    monkeypatch.setenv("MRSI_ENGINE_PLUGINS", "stages_of_others_unpacked")
    assert stage_kind("apodise").__module__ == "stages_of_others_unpacked"
    monkeypatch.setenv("MRSI_ENGINE_PLUGINS", "nowhere")
    (problem,) = every_stage().problems
    assert problem.startswith("module 'nowhere', which MRSI_ENGINE_PLUGINS names, cannot be")
