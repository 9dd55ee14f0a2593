"""Settings say what they are, and where those of earlier versions went."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.describe import Described, described, first_paragraph
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.registry import every_stage, is_shipped
from mrsi_engine.pipeline.settings import group_of
from mrsi_engine.pipeline.stage import Stage

SHIPPED = [kind for kind in every_stage().kinds.values() if is_shipped(kind)]


def rows(kind: type[Stage]) -> dict[str, Described]:
    return {row.key: row for row in described(kind)}


@pytest.mark.parametrize("kind", SHIPPED, ids=lambda kind: kind.stage)
def test_every_setting_of_every_stage_is_described(kind: type[Stage]) -> None:
    assert first_paragraph(kind).endswith(".")
    assert "Parameters\n" not in (kind.__doc__ or "")
    for row in described(kind):
        assert row.description.endswith("."), row
        assert row.type
        # A number is bounded or a word, and has a unit where its name says one.
        last = row.key.rpartition("_")[2]
        assert row.unit == {"hz": "Hz", "ppm": row.unit, "ms": "ms"}.get(last, row.unit), row


@pytest.mark.parametrize("kind", SHIPPED, ids=lambda kind: kind.stage)
def test_groups_are_described_too(kind: type[Stage]) -> None:
    for name, field in kind.model_fields.items():
        group = group_of(field.annotation)
        if group is not None:
            assert field.description
            assert group.leading in group.model_fields
            assert any(row.key.startswith(f"{name}.") for row in described(kind))


def test_what_a_description_says() -> None:
    of = rows(every_stage().kinds["quantify"])
    assert (of["window_ppm"].type, of["window_ppm"].unit) == ("list of 2 numbers", "ppm")
    assert of["window_ppm"].range == "low < high"
    assert of["baseline.splines_per_ppm"].range == "> 0, ≤ 50"
    assert of["baseline.kind"].range == "`none`, `spline`, `polynomial`"
    assert of["baseline.stiffness"].type == "number or word"
    assert of["baseline.stiffness"].range == "≥ 0; `adaptive`"
    assert (of["noise_ppm"].default, of["noise_ppm"].range) == ("", "low < high")
    assert of["leave_out"].default == "[]"
    assert of["acquired_points"].default == ""
    assert rows(every_stage().kinds["first_order_phase"])["delay"].default is None
    scale = rows(every_stage().kinds["scale"])
    assert (scale["echo_time"].range, scale["echo_time"].unit) == ("≥ 0, ≤ 5", "s")
    assert scale["tissue"].type == "word or table of numbers"


def moved() -> Iterator[tuple[str, str, str]]:
    for kind in SHIPPED:
        for old, new in kind.moved.items():
            yield kind.stage, old, new


@pytest.mark.parametrize(("stage", "old", "new"), list(moved()))
def test_an_old_key_is_refused_with_the_new_one(stage: str, old: str, new: str) -> None:
    assert new in rows(every_stage().kinds[stage])
    with pytest.raises(InputError) as refused:
        Pipeline.from_settings({"name": "p", "stages": [{"stage": stage, old: 1}]}, "p.toml")
    group, _, key = new.partition(".")
    expected = f"p.toml: stage {stage!r}: {old!r} is now {key!r} of the table"
    assert str(refused.value) == f"{expected} [stages.{group}]"


def refusal(**settings: object) -> str:
    with pytest.raises(InputError) as refused:
        Pipeline.from_settings({"name": "p", "stages": [{"stage": "quantify", **settings}]})
    return str(refused.value)


def test_a_word_where_a_table_is() -> None:
    message = refusal(baseline="spline")
    assert "'baseline' is a table now: [stages.baseline] kind = \"spline\"" in message


def test_a_wrong_key_of_a_table() -> None:
    message = refusal(baseline={"knid": "spline"})
    assert "unknown key 'baseline.knid'; allowed are kind, order, splines_per_ppm" in message
    assert "baseline.order: " in refusal(baseline={"order": -1})
    assert "[least, most]" in refusal(baseline={"stiffness_range": [1, 0.1]})
