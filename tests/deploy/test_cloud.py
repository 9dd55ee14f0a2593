"""The cost sheet: sums done by hand."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from mrsi_engine.cohort.events import CohortStarted, ScanAdvanced, ScanStarted, Step
from mrsi_engine.cohort.metrics import Metrics


@pytest.fixture(scope="module")
def costs(deploy: Path) -> dict[str, Any]:
    return runpy.run_path(str(deploy / "cloud" / "costs.py"))


def test_by_hand(costs: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = tmp_path / "prices.tsv"
    prices.write_text("machine\tworkers\tdollars_per_hour\tspeed\nm\t4\t0.5\t2\n")
    given = [str(prices), "--voxels-per-second", "100", "--voxels", "1e6", "--idle", "0.5"]
    assert costs["main"](given) == 0
    # 4 workers x 2 x 100 voxels/s x 3600 s / 0.5 dollars = 5.76e6, half of it idle.
    assert "m\t2.88e+06\t0.35\t0.69" in capsys.readouterr().out


def test_from_a_run(costs: dict[str, Any], deploy: Path, tmp_path: Path) -> None:
    path = tmp_path / "mrsi.prom"
    with Metrics(path) as sink:
        sink(CohortStarted(1))
        sink(ScanStarted("a", 1))
        sink(ScanAdvanced("a", Step.IMPORT, 2.0))
        sink(ScanAdvanced("a", Step.PROCESS, 6.0, 5.0, 640))
        sink(ScanAdvanced("a", Step.FINISH, 2.0))
    assert costs["measured"](path) == pytest.approx(64)
    prices = str(deploy / "cloud" / "prices.tsv")
    assert costs["main"]([prices, "--metrics", str(path)]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("machine\tworkers\n", "column dollars_per_hour is missing"),
        ("machine\tworkers\tdollars_per_hour\tspeed\nm\t4\t0\t1\n", "m: dollars_per_hour is 0"),
        ("machine\tworkers\tdollars_per_hour\tspeed\nm\tx\t1\t1\n", "m: workers is 'x'"),
    ],
)
def test_wrong_prices(
    costs: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    message: str,
) -> None:
    (tmp_path / "prices.tsv").write_text(text)
    assert costs["main"]([str(tmp_path / "prices.tsv"), "--voxels-per-second", "1"]) == 2
    assert message in capsys.readouterr().err


def test_nothing_processed(costs: dict[str, Any], tmp_path: Path) -> None:
    with Metrics(tmp_path / "mrsi.prom"):
        pass
    with pytest.raises(ValueError, match="no voxel was processed"):
        costs["measured"](tmp_path / "mrsi.prom")
