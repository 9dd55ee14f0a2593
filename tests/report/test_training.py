from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest

from mrsi_engine.networks.model import Calibration, Card, load_model
from mrsi_engine.report.tables import number
from mrsi_engine.report.training import covered_bins, write_training_report
from tests.report.test_html import Page


@pytest.fixture(scope="module")
def card() -> Card:
    return load_model("press-3t-te30").card.model_copy(update={"calibration": None})


def test_the_report_of_a_training_is_complete_and_alone(card: Card, tmp_path: Path) -> None:
    page = Page(write_training_report(card, tmp_path / "report.html"))
    assert page.open == []
    assert all(source.startswith("data:image/svg+xml") for source in page.images())
    assert len(page.images()) == 1
    assert {"learning", "scores", "axis", "recipe"} <= page.ids()
    training = card.training
    assert training is not None
    fingerprint = card.basis.fingerprint if card.basis else ""
    # A page's text has plain spaces in place of thin ones.
    seconds = " ".join(f"{number(training.seconds)} s".split())
    shown = ("press-3t-te30", "untrained", "R2 NAA", "dwell time", fingerprint, seconds)
    for text in (*shown, card.recipe["description"]):
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


def test_calibration_is_drawn_by_parameter_and_snr(card: Card, tmp_path: Path) -> None:
    calibration = Calibration(
        snr=(10.0, 30.0),
        factors={"NAA": (1.5, 1.2, 1.0), "CrPCr": (1.1, 1.3, 1.2)},
        coverage={"NAA": (0.93, 0.95, 0.96), "CrPCr": (0.94, 0.951, 0.97)},
        signals=12000,
    )
    assert covered_bins(calibration) == (4, 6)
    own = card.model_copy(update={"calibration": calibration})
    page = Page(write_training_report(own, tmp_path / "report.html"))
    assert page.open == []
    assert "in 4 of 6 bins" in page.text
    figure = b64decode(page.images()[1].split(",", 1)[1]).decode()
    for words in ("SNR up to 10", "10 to 30", "above 30", "NAA", "tCr", "coverage", "factor"):
        assert words in figure, words


def test_a_model_that_is_not_calibrated_has_no_such_section(card: Card, tmp_path: Path) -> None:
    bare = card.model_copy(update={"calibration": None})
    assert "calibration" not in Page(write_training_report(bare, tmp_path / "r.html")).ids()
    unmeasured = Calibration(snr=(), factors={"NAA": (1.5,)}, signals=500)
    own = card.model_copy(update={"calibration": unmeasured})
    page = Page(write_training_report(own, tmp_path / "r.html"))
    assert "calibration" in page.ids()
    assert "Coverage" not in page.text
