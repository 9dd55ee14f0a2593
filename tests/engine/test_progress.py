import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from mrsi_engine.engine.blocks import Receipt
from mrsi_engine.engine.events import (
    BlockDone,
    BlockFailed,
    Failure,
    PartDone,
    PassFinished,
    PassStarted,
    RunFinished,
    RunStarted,
)
from mrsi_engine.engine.progress import JsonLines, RichProgress

EVENTS = [
    RunStarted(Path("out"), 100, 4, 3, 75, 2, "http://127.0.0.1:8787/status"),
    BlockDone(Receipt(1, 25, 2.0, 1.5, {3: 25}), 25, 50),
    BlockDone(Receipt(2, 25, 2.0, 1.5, {3: 24, 0: 1}), 50, 75),
    BlockFailed(3, Failure("ValueError: scripted"), 75, 100),
    RunFinished(Path("out"), 2, 1, 50, 4.0, 3.0),
]


def test_bar_counts_voxels_rate_and_failures():
    text = io.StringIO()
    bar = RichProgress(Console(file=text, width=120, force_terminal=True), "fit sub-01")
    for event in EVENTS:
        bar(event)
    last = next(line for line in reversed(text.getvalue().splitlines()) if "fit" in line)
    assert "fit sub-01" in last
    assert "50/75" in last
    assert "voxels/s" in last
    assert "1 failed" in last


def test_passes_have_a_bar_of_their_own_while_they_last():
    text = io.StringIO()
    bar = RichProgress(Console(file=text, width=120, force_terminal=True))
    passes = [
        PassStarted(Path("out"), "fpc", 1, 2, 2, 100),
        PartDone(Receipt(0, 50, 2.0, 1.5), 0, 50),
        PassFinished(Path("out"), "fpc", 1, 4.0),
    ]
    bar(EVENTS[0])
    for event in passes[:2]:
        bar(event)
    bar._progress.refresh()
    during = text.getvalue().splitlines()
    assert any("prepare fpc 1/2" in line and "50/100" in line for line in during)
    bar(passes[2])
    for event in EVENTS[1:]:
        bar(event)
    last = text.getvalue().splitlines()[-3:]
    assert not any("prepare" in line for line in last)
    assert any("50/75" in line for line in last)


def test_bar_stops_so_that_the_terminal_is_given_back():
    text = io.StringIO()
    bar = RichProgress(Console(file=text, force_terminal=True))
    bar(EVENTS[0])
    bar(EVENTS[-1])
    assert text.getvalue().endswith("\x1b[?25h")


def test_unknown_event_is_refused():
    with pytest.raises(TypeError, match="not an event"):
        RichProgress(Console(file=io.StringIO()))("done")


def test_log_holds_a_line_an_event(tmp_path):
    log = JsonLines(tmp_path / "logs" / "run.jsonl")
    for event in EVENTS:
        log(event)
    lines = [
        json.loads(line) for line in (tmp_path / "logs" / "run.jsonl").read_text().splitlines()
    ]
    assert [line["event"] for line in lines] == [type(event).__name__ for event in EVENTS]
    assert lines[0]["result"] == "out"
    assert lines[2]["receipt"]["statuses"] == {"3": 24, "0": 1}
    assert lines[3]["failure"]["error"] == "ValueError: scripted"
    assert all(line["time"].endswith("+00:00") for line in lines)
