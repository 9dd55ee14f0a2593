"""Charts of a report: what stands where in the SVG, and round numbers on their axes."""

from __future__ import annotations

import re
from base64 import b64decode
from xml.etree import ElementTree

import numpy as np
import pytest

from mrsi_engine.report.charts import (
    INK,
    Bars,
    Chart,
    Curve,
    Rule,
    even_ticks,
    round_ticks,
    tick_labels,
)
from mrsi_engine.report.stage_figures import matrix_figure
from mrsi_engine.report.svg import chart_uri

SVG = "{http://www.w3.org/2000/svg}"


def drawn(uri: str) -> ElementTree.Element:
    return ElementTree.fromstring(b64decode(uri.split(",", 1)[1]))


def words_of(root: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def points_of(path: str) -> np.ndarray:
    """Points of a path of steps, in points of a figure."""
    numbers = np.array(re.findall(r"-?\d+", path), float).reshape(-1, 2)
    return np.cumsum(numbers, axis=0) / 100


def paths_of(root: ElementTree.Element, colour: str) -> list[np.ndarray]:
    found = (path for path in root.iter(f"{SVG}path") if path.get("stroke") == colour)
    return [points_of(str(path.get("d"))) for path in found]


def test_a_curve_runs_where_its_values_say() -> None:
    x, y = np.linspace(4, 0, 9), np.array([0, 1, 0, 2, 0, 0, 0, 0, 4.0])
    (points,) = paths_of(
        drawn(chart_uri(Chart((Curve(x, y, "#123456", 1),), (4, 0)), (5, 2))), "#123456"
    )
    across, up = points[:, 0], -points[:, 1]
    np.testing.assert_allclose(np.corrcoef(across, x)[0, 1], -1)
    np.testing.assert_allclose(np.corrcoef(up, y)[0, 1], 1, atol=1e-6)
    assert points.min() >= 0
    assert across.max() <= 5 * 72
    assert points[:, 1].max() <= 2 * 72


def test_what_is_no_number_is_left_out_and_what_is_far_outside_is_cut() -> None:
    curve = Curve(np.arange(4.0), np.array([0.0, np.nan, 1e30, 1.0]), "#123456", 1)
    root = drawn(chart_uri(Chart((curve,), (0, 3), y=(0, 1)), (5, 2)))
    (points,) = paths_of(root, "#123456")
    assert len(points) == 3
    assert np.abs(points).max() < 1000
    assert root.find(f".//{SVG}clipPath") is not None


def test_words_are_told_as_they_are() -> None:
    chart = Chart(
        (Curve(np.arange(3.0), np.arange(3.0), INK, 1, name="a < b"),),
        (0, 2),
        ticks=(0.0, 1.0, 2.0),
        below="shift & more",
        left=((1.0, "NAA"),),
        right=((1.0, "8.1 ± 2 %"),),
        title="Best",
        legend="right",
    )
    words = words_of(drawn(chart_uri(chart, (5, 2))))
    assert {"a < b", "shift & more", "NAA", "8.1 ± 2 %", "Best", "0", "1", "2"} == {*words}


def test_a_dashed_limit_and_bars() -> None:
    bars = Bars(np.arange(4.0), np.array([1.0, 0, 3]))
    chart = Chart(
        (), (0, 3), rules=(Rule(1.5, "#aa0000", 1, upright=True, dashed=True),), bars=bars
    )
    root = drawn(chart_uri(chart, (3, 1)))
    limit = next(p for p in root.iter(f"{SVG}path") if p.get("stroke") == "#aa0000")
    assert limit.get("stroke-dasharray")
    heights = next(str(p.get("d")) for p in root.iter(f"{SVG}path") if "z" in str(p.get("d")))
    assert heights.count("z") == 2, "an empty bin has no bar"


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0.0, 1.0, 6, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-13.0, 22.0, 8, [-10, -5, 0, 5, 10, 15, 20]),
        (0.031, 0.168, 4, [0.05, 0.1, 0.15]),
        (3e-6, 7e-6, 5, [3e-6, 4e-6, 5e-6, 6e-6, 7e-6]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, ticks: list[float]) -> None:
    np.testing.assert_allclose(round_ticks(low, high, most), ticks, atol=1e-12)


@pytest.mark.parametrize("span", [(1.0, 1.0), (0.0, np.inf), (np.nan, 1.0)])
def test_no_ticks_where_there_is_no_span(span: tuple[float, float]) -> None:
    assert round_ticks(*span, 5) == ()


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        (even_ticks(0.5, 2.0, 0.5), ["0.5", "1.0", "1.5", "2.0"]),
        ((-10.0, 0.0, 10.0), ["−10", "0", "10"]),
        ((2e-6, 4e-6), ["2e−6", "4e−6"]),
        ((-0.0, 0.25), ["0.00", "0.25"]),
    ],
)
def test_numbers_of_an_axis_have_the_same_decimals(
    ticks: tuple[float, ...], labels: list[str]
) -> None:
    assert tick_labels(ticks) == labels


def test_a_matrix_of_nothing_but_nan_is_drawn() -> None:
    nothing = np.full((3, 3), np.nan)
    root = drawn(matrix_figure(nothing, nothing))
    assert len(list(root.iter(f"{SVG}image"))) == 2
    height = 100 * float(str(root.get("height")).removesuffix("pt"))
    assert all(float(text.get("y", 0)) < height for text in root.iter(f"{SVG}text"))
