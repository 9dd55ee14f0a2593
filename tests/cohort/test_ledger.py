"""The ledger tells of each scan what was last written of it, whatever tears it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mrsi_engine.cohort.events import Step
from mrsi_engine.cohort.ledger import (
    FOLLOWS,
    LEDGER,
    Ledger,
    LedgerReader,
    Pace,
    Record,
    Session,
    State,
    Story,
)
from mrsi_engine.errors import RunError

SESSION = Session("2026-11-28T14:00:00.000+00:00", "node1", 42, "mrsi cohort", {"mrsi_engine": "1"})


def waiting(*scans: str) -> list[Record]:
    return [Record(scan, State.WAITING) for scan in scans]


def told(out: Path) -> Story:
    return LedgerReader(out).read()


def test_what_is_written_is_told(tmp_path: Path) -> None:
    done = Record(
        "sub-01/a",
        State.DONE,
        "2026-11-28T14:00:01.000+00:00",
        Step.FINISH,
        2,
        worker="tcp://10.0.0.1:4",
        seconds=1.5,
        voxels=64,
        usable=0.0,
        verdict="0 of 64 usable\nnone",
        identity={"settings": "ab", "files": {"scan": "1-2"}},
    )
    ledger = Ledger(tmp_path, SESSION)
    ledger.write(*waiting("sub-01/a", "b"))
    ledger.write(done)
    story = told(tmp_path)
    assert story.scans["sub-01/a"] == done
    assert story.counts == {State.WAITING: 1, State.DONE: 1}
    assert story.sessions == (SESSION,)
    assert story.pace == Pace(1, 64, done.time)
    assert ledger.story.scans["sub-01/a"] == replace(done, identity={})
    assert ledger.story.counts == story.counts
    assert story.problems == ()
    assert [r.scan for r in story.of(State.WAITING)] == ["b"]


def test_nothing_is_told_where_there_is_no_ledger(tmp_path: Path) -> None:
    assert told(tmp_path) == Story()


def test_a_state_that_cannot_follow_is_a_defect(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SESSION)
    with pytest.raises(RunError, match="a was unknown and cannot be done now"):
        ledger.write(Record("a", State.DONE))
    ledger.write(*waiting("a"), Record("a", State.FAILED, attempt=1))
    with pytest.raises(RunError, match="a was failed and cannot be running now"):
        ledger.write(Record("a", State.RUNNING))


def test_a_line_that_is_torn_costs_only_itself(tmp_path: Path) -> None:
    first = Ledger(tmp_path, SESSION)
    first.write(*waiting("a", "b"))
    first.close()
    (segment,) = (tmp_path / LEDGER).iterdir()
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-5])
    story = told(tmp_path)
    assert set(story.scans) == {"a"}
    assert "last line is cut short" in story.problems[0]
    second = Ledger(tmp_path, SESSION)
    second.write(*waiting("b"))
    assert set(told(tmp_path).scans) == {"a", "b"}


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SESSION)
    ledger.write(*waiting("a", "b"))
    (segment,) = (tmp_path / LEDGER).iterdir()
    lines = segment.read_text().splitlines(keepends=True)
    lines[1] = "\0" * 20 + "\n"
    segment.write_text("".join(lines))
    story = told(tmp_path)
    assert set(story.scans) == {"b"}
    assert "line 2 is damaged" in story.problems[0]


def test_fields_of_a_later_version_are_left_out() -> None:
    line = json.dumps({"scan": "a", "state": "done", "new": 1})
    assert Record.parsed(line) == Record("a", State.DONE)
    for wrong in ("[]", "{}", '{"scan": "a", "state": "lost"}', '{"state": "done"}', "nothing"):
        with pytest.raises(ValueError, match=r"record|State|Expecting"):
            Record.parsed(wrong)


def test_segments_roll(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, SESSION, roll=10)
    ledger.write(*waiting(*(f"scan{n:02}" for n in range(35))))
    assert len(list((tmp_path / LEDGER).iterdir())) == 4
    story = told(tmp_path)
    assert len(story.scans) == 35
    assert len(story.sessions) == 1


def test_complete_segments_are_read_once(tmp_path: Path) -> None:
    reader = LedgerReader(tmp_path)
    first = Ledger(tmp_path, SESSION)
    first.write(*waiting("a"))
    assert set(reader.read().scans) == {"a"}
    first.write(*waiting("b"))
    second = Ledger(tmp_path, SESSION)
    second.write(*waiting("c"))
    assert set(reader.read().scans) == {"a", "b", "c"}
    oldest = min((tmp_path / LEDGER).iterdir())
    oldest.unlink()
    oldest.write_text("nonsense\n")
    assert set(reader.read().scans) == {"a", "b", "c"}
    assert reader.read().problems == ()


class LedgerMachine(RuleBasedStateMachine):
    """A driver that writes, dies with a torn line, and begins again; a reader all the while."""

    out: Path
    SCANS = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.folder = self.out / str(len(list(self.out.iterdir())))
        self.reader = LedgerReader(self.folder)
        self.expected: dict[str, State] = {}
        self.begin()

    def begin(self) -> None:
        self.ledger = Ledger(self.folder, SESSION, roll=3)

    @rule(scan=st.sampled_from(SCANS), data=st.data())
    def write(self, scan: str, data: st.DataObject) -> None:
        state = data.draw(st.sampled_from(FOLLOWS[self.expected.get(scan)]))
        self.ledger.write(Record(scan, state, attempt=1))
        self.expected[scan] = state

    @rule(scan=st.sampled_from(SCANS), state=st.sampled_from(State))
    def refuse_what_cannot_follow(self, scan: str, state: State) -> None:
        if state not in FOLLOWS[self.expected.get(scan)]:
            with pytest.raises(RunError):
                self.ledger.write(Record(scan, state))

    @rule(torn=st.integers(1, 30))
    def die_while_writing(self, torn: int) -> None:
        last = max((self.folder / LEDGER).iterdir())
        with last.open("ab") as file:
            file.write(Record("a", State.WAITING, "2026").line().encode()[:torn])
        self.begin()

    @rule()
    def end_and_begin_again(self) -> None:
        self.ledger.close()
        self.begin()

    @invariant()
    def the_reader_knows_what_was_written(self) -> None:
        states = {scan: record.state for scan, record in self.reader.read().scans.items()}
        assert states == self.expected
        assert told(self.folder).scans == self.ledger.story.scans
        assert {scan: self.ledger.state(scan) for scan in self.expected} == self.expected


def test_state_machine(tmp_path: Path) -> None:
    machine = type("Machine", (LedgerMachine,), {"out": tmp_path})
    few = settings(
        max_examples=25,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(machine, settings=few)
