from __future__ import annotations

from pathlib import Path

import pytest

from mrsi_engine.networks.model import Card, load_model
from mrsi_engine.report.training import write_training_report
from tests.report.test_html import Page


@pytest.fixture(scope="module")
def card() -> Card:
    return load_model("press-3t-te30").card


def test_the_report_of_a_training_is_complete_and_alone(card: Card, tmp_path: Path) -> None:
    page = Page(write_training_report(card, tmp_path / "report.html"))
    assert page.open == []
    assert all(source.startswith("data:image/svg+xml") for source in page.images())
    assert len(page.images()) == 1
    assert {"learning", "scores", "axis", "recipe"} <= page.ids()
    training = card.training
    assert training is not None
    shown = ("press-3t-te30", "untrained", "R2 NAA", "dwell time", card.recipe["description"])
    for text in (*shown, card.basis.fingerprint if card.basis else "", f"{training.seconds:.0f} s"):
        assert text in page.text


def test_a_card_without_a_training_has_a_report_too(card: Card, tmp_path: Path) -> None:
    training = card.training
    assert training is not None
    tuned = training.model_copy(update={"curve": [], "start": "other <1234>"})
    bare = card.model_copy(update={"training": tuned, "basis": None, "scores": {}, "recipe": {}})
    page = Page(write_training_report(bare, tmp_path / "tuned.html"))
    assert "no learning curve" in page.text
    assert "other <1234>" in page.text
    assert page.images() == []
    none = card.model_copy(update={"training": None})
    assert Page(write_training_report(none, tmp_path / "none.html")).images() == []
