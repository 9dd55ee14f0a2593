"""What is seen of a cohort that runs."""

from __future__ import annotations

import io

from rich.console import Console

from mrsi_engine.cli.cohort_progress import CohortBar, CohortLines
from mrsi_engine.cohort.events import (
    CohortStarted,
    ScanAdvanced,
    ScanFailed,
    ScanFinished,
    ScanStarted,
    Step,
)

EVENTS = (
    CohortStarted(4, 5),
    ScanStarted("a", 1),
    ScanAdvanced("a", Step.IMPORT, 1.0),
    ScanFinished("a", 64, True, "60 of 64 voxels usable"),
    ScanFailed("b", Step.PROCESS, "it broke", again=True),
    ScanFailed("b", Step.PROCESS, "it broke\nbadly"),
    ScanFailed("[c]", Step.IMPORT, "no file", refused=True),
    ScanFinished("d", 64, False, "0 of 64 voxels usable"),
)


def test_a_line_a_scan_where_it_is_read_later() -> None:
    said: list[str] = []
    lines = CohortLines(said.append)
    for event in EVENTS:
        lines(event)
    assert said == [
        "(1 of 4) a: 60 of 64 voxels usable",
        "(2 of 4) b: failed (process): it broke",
        "(3 of 4) [c]: refused: no file",
        "(4 of 4) d: 0 of 64 voxels usable",
    ]


def test_one_bar_in_a_terminal() -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=120)
    with CohortBar(console) as bar:
        for event in EVENTS[:-1]:
            bar(event)
    last = drawn.getvalue()
    assert "3/4" in last
    assert "2 failed" in last


def test_nothing_is_drawn_where_nothing_runs() -> None:
    drawn = io.StringIO()
    with CohortBar(Console(file=drawn, force_terminal=True)) as bar:
        bar(CohortStarted(0, 5))
    assert drawn.getvalue() == ""
