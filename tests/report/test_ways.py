"""Which way voxels went, counted from a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mrsi_engine.conventions import Status
from mrsi_engine.fit.quantities import NOVELTY
from mrsi_engine.quantities import quality
from mrsi_engine.report.html import write_report
from mrsi_engine.report.mosaic import view_of
from mrsi_engine.report.ways import ways_content
from tests.report.synthetic import brain_result, with_measure
from tests.report.test_html import Page

CHECKSUM = "0123456789abcdef" * 4


def with_network(method: str, status: Status, *, calibration: str = "") -> xr.Dataset:
    """A result of a network: voxel 0 has no fit, voxel 1 is not processed, the rest ``status``."""
    result = brain_result((6, 6, 2)).sel(parameter=["NAA"])
    result = with_measure(result, NOVELTY, 0.3)
    result = with_measure(result, quality("converged", "1", "1 where it did"), 1.0)
    result["quality"].loc[{"measure": "fit_quality"}] = 1.0
    result["status"][2:] = status
    assumed = {"method": method, "model": "/models/press"}
    if calibration:
        assumed |= {"calibration": calibration, "calibrated": calibration.startswith("on ")}
    result.attrs["assumptions"] = {"quantify": assumed}
    result.attrs["identity"] = {"models": {"quantify": {"press": CHECKSUM}}}
    return result


def counted(result: xr.Dataset) -> dict[str, tuple[int, list[tuple[str, int]]]]:
    """Voxels of each way, and of each of its reasons."""
    rows = ways_content(result, None)["ways"].rows
    return {w.title: (w.count.voxels, [(r.text, r.voxels) for r in w.reasons]) for w in rows}


def test_every_voxel_is_counted_once_and_the_refused_by_reason() -> None:
    result = with_network("auto", Status.NETWORK_REFINED)
    result["status"][20:] = Status.LEAST_SQUARES
    quality = result["quality"]
    quality.loc[{"measure": "fit_quality"}][10] = 1.1
    quality.loc[{"measure": "fit_quality"}][20:24] = 1.2
    quality.loc[{"measure": "novelty"}][22:25] = 1.5
    quality.loc[{"measure": "fit_quality"}][25] = np.nan
    found = counted(result)
    assert {title: n for title, (n, _) in found.items()} == {
        "network refined": 18, "least squares": 12, "no fit": 1, "not processed": 1,
    }  # fmt: skip
    reasons = found["least squares"][1]
    # Those that are novel and badly fitted count as novel.
    assert [n for _, n in reasons] == [3, 1, 2, 6]
    words = ("novelty above 1", "noise unknown", "fit quality above 1.1)", "no minimum")
    assert all(word in text for word, (text, _) in zip(words, reasons, strict=True))
    assert found["network refined"][1] == []


def test_doubts_about_the_networks_own_word_are_counted() -> None:
    result = with_network("network", Status.NETWORK, calibration="on 20000 simulated signals")
    result["quality"].loc[{"measure": "converged"}][4:10] = 0
    result["quality"].loc[{"measure": "novelty"}][8:12] = 1.01
    voxels, reasons = counted(result)["network"]
    assert voxels == 30
    assert [n for _, n in reasons] == [4, 4]
    summary = ways_content(result, None)["ways"].summary
    assert "press (SHA-256 0123456789ab…)" in summary
    assert "on 20000 simulated signals" in summary


def test_shares_are_of_the_brain() -> None:
    result = with_network("auto", Status.NETWORK_REFINED)
    scalp = np.zeros(32, bool)
    scalp[[0, *range(20, 31)]] = True
    result["status"][20:31] = Status.NO_FIT
    rows = ways_content(result.assign_coords(scalp=("voxel", scalp)), None)["ways"].rows
    assert [(r.title, r.count.voxels, r.count.percent) for r in rows] == [
        ("network refined", 19, 95.0), ("not processed", 1, 5.0),
    ]  # fmt: skip


def test_the_section_shows_status_and_novelty(tmp_path: Path) -> None:
    result = with_network("auto", Status.NETWORK_REFINED)
    page = Page(write_report(result, tmp_path / "r.html"))
    assert page.open == []
    assert "ways" in page.ids()
    alts = [str(a.get("alt")) for t, a in page.tags if t == "img"]
    assert alts.count("Status map") == alts.count("Novelty map") == 1
    assert "1, the limit" in page.text
    assert CHECKSUM in page.text, "the full checksum stands in the provenance"
    picture = ways_content(result, view_of(result))["ways"].novelty
    assert picture.ticks[1].startswith("1,")


@pytest.mark.parametrize(
    ("assumed", "line"),
    [
        ({}, 'Method "least-squares": every voxel was fitted from'),
        ({"method": "auto", "no_model": "no shipped model is for this scan"}, "no shipped model"),
    ],
)
def test_without_a_network_it_is_one_line(
    tmp_path: Path, assumed: dict[str, str], line: str
) -> None:
    result = brain_result((6, 6, 2)).sel(parameter=["NAA"])
    result.attrs["assumptions"] = {"quantify": assumed}
    page = Page(write_report(result, tmp_path / "r.html"))
    assert "ways" not in page.ids()
    assert line in page.text
    assert page.source.count('alt="Status map"') == 1


def test_a_pipeline_that_quantifies_nothing_has_no_ways() -> None:
    result = brain_result((6, 6, 2))
    result.attrs["pipeline"] = {"stages": [{"stage": "water_removal"}]}
    assert ways_content(result, None) == {"ways": None, "ways_line": ""}


def test_errors_that_are_not_calibrated_are_said_at_the_top(tmp_path: Path) -> None:
    for state, said in (("none: may be too small", True), ("on 9000 simulated signals", False)):
        result = with_network("network", Status.NETWORK, calibration=state)
        page = Page(write_report(result, tmp_path / "r.html"))
        assert ("Calibration of the error bars" in page.text) == said
