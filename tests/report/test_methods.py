"""The methods text says what was done, of every stage there is, and cites nothing else."""

from __future__ import annotations

import re
import tomllib
from importlib import resources

import pytest

from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.registry import every_stage
from mrsi_engine.report.methods import cited, methods_of

TABLES = tomllib.loads(resources.files("mrsi_engine.report").joinpath("methods.toml").read_text())


def settings_of(*stages: dict[str, object]) -> list[tuple[dict[str, object], int]]:
    return [({"name": "own", "stages": list(stages)}, 3)]


def test_every_stage_of_ours_has_a_sentence() -> None:
    ours = {
        name
        for name, kind in every_stage().kinds.items()
        if kind.__module__.startswith("mrsi_engine.")
    }
    assert ours == {sentence["stage"] for sentence in TABLES["sentence"]}


def test_every_source_is_cited_by_something_and_known() -> None:
    used = {key for s in TABLES["sentence"] for key in s["cite"]}
    used |= {key for keys in TABLES["software"].values() for key in keys}
    assert used | {"clarke2022", "lin2021"} == set(TABLES["reference"])
    for key in TABLES["reference"]:
        assert re.search(r"[a-z] \d{4};", cited(key)), key


@pytest.mark.parametrize("name", ["brain-1h-3t", "brain-31p-7t", "dmi-2h", "minimal", "svs"])
def test_pipelines_of_ours_are_told_stage_by_stage(name: str) -> None:
    settings = Pipeline.load(name).settings()
    text = methods_of([(settings, 2)]).markdown()
    assert "plug-in" not in text
    assert "{" not in text
    assert "linear combination modelling" in text


def test_settings_choose_the_sentence() -> None:
    by_water = methods_of(settings_of({"stage": "scale", "quantity": "molal"}))
    assert "referenced to unsuppressed water" in by_water.markdown()
    assert "gasparovic2006" in by_water.references
    assert (
        "gasparovic2006"
        not in methods_of(settings_of({"stage": "scale", "quantity": "ratio"})).references
    )


def test_a_stage_of_someone_else_is_named() -> None:
    assert "Stage 'mine' of a plug-in" in methods_of(settings_of({"stage": "mine"})).markdown()


def test_numbers_of_references_go_by_their_order() -> None:
    text = methods_of([(Pipeline.load("brain-1h-3t").settings(), 1)], [("1H 3 T", 1)]).markdown()
    body = text.split("## References")[0]
    order = [int(n) for found in re.findall(r"\[([\d, ]+)\]", body) for n in found.split(",")]
    first = list(dict.fromkeys(order))
    assert first == sorted(first) == list(range(1, len(first) + 1))
