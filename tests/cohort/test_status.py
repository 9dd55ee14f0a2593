"""How far a cohort is, in figures."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mrsi_engine.cohort.events import Step
from mrsi_engine.cohort.ledger import Pace, Record, Session, State, Story
from mrsi_engine.cohort.lock import LOCK, Holder
from mrsi_engine.cohort.status import duration, read_status, status_of
from mrsi_engine.cohort.status_page import status_page
from mrsi_engine.errors import InputError

START = Session("2026-11-28T14:00:00+00:00", "node1", 42, "", {"mrsi-engine": "1.2"})
NOW = datetime(2026, 11, 28, 14, 1, 40, tzinfo=UTC)


def story(pace: Pace, **states: State) -> Story:
    scans = {name: Record(name, state, attempt=1) for name, state in states.items()}
    return Story(scans, (START,), pace)


def test_pace_and_what_is_left() -> None:
    told = story(Pace(2, 500, "x"), a=State.DONE, b=State.FAILED, c=State.RUNNING, d=State.WAITING)
    status = status_of(Path("out"), told, Holder.me(), NOW)
    assert (status.total, status.ended) == (4, 2)
    assert status.voxels_per_s == pytest.approx(5.0)
    assert status.seconds_left == pytest.approx(100.0)
    expected = "4 scans: 1 waiting, 1 running, 1 done, 1 failed; 5 voxels/s, 1 min 40 s left"
    assert status.line == expected


def test_nothing_is_left_where_nobody_runs_it() -> None:
    told = story(Pace(1, 500, "2026-11-28T14:00:50+00:00"), a=State.DONE, b=State.INTERRUPTED)
    status = status_of(Path("out"), told, None, NOW)
    assert status.voxels_per_s == pytest.approx(10.0)
    assert status.seconds_left is None


def test_before_a_scan_ends() -> None:
    status = status_of(Path("out"), story(Pace(), a=State.RUNNING), Holder.me(), NOW)
    assert (status.voxels_per_s, status.seconds_left) == (None, None)
    assert status.line == "1 scans: 1 running"


def test_a_driver_that_is_dead_is_none(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / LOCK).write_bytes(Holder.me().data())
    assert read_status(tmp_path).driver is not None
    (tmp_path / LOCK).write_bytes(replace(Holder.me(), started=1.0).data())
    assert read_status(tmp_path).driver is None
    with pytest.raises(InputError, match="holds no cohort"):
        read_status(tmp_path / "elsewhere")


def test_the_page_says_what_users_typed_as_it_is() -> None:
    scans = {
        "sub-01/<b>": Record("sub-01/<b>", State.FAILED, step=Step.IMPORT, error="<script>"),
        "x y": Record("x y", State.UNUSABLE, verdict="0 of 3 & none"),
    }
    page = status_page(status_of(Path("a&b"), Story(scans, (START,)), None))
    assert "<script>" not in page
    assert "a&amp;b: 2 of 2 scans ended" in page
    assert 'href="x%20y/report.html"' in page
    assert "0 of 3 &amp; none" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("seconds", "words"), [(7.4, "7 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
