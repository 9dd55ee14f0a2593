"""What a driver does now and then: its lock is renewed, the page written, a lost lock noticed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mrsi_engine.cohort.events import CohortStarted
from mrsi_engine.cohort.ledger import Ledger, Record, Session, State
from mrsi_engine.cohort.lock import LOCK, CohortLock, Holder, LockLost
from mrsi_engine.cohort.pulse import Pulse

EVENT = CohortStarted(1)


def until(happened: Callable[[], bool]) -> None:
    """Wait for something that happens in another thread, for a long time if need be."""
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path, Session("2026-11-28T14:00:00+00:00", "vm", 1))
    found.write(Record("a", State.WAITING), Record("a", State.RUNNING, attempt=1))
    return found


@pytest.fixture
def lock(tmp_path: Path) -> CohortLock:
    found = CohortLock(tmp_path)
    found.take()
    return found


@pytest.fixture
def pulse(tmp_path: Path, ledger: Ledger, lock: CohortLock) -> Iterator[Pulse]:
    with Pulse(tmp_path, ledger, lock, beat=0.01, renewed_every=0.01) as found:
        yield found


def page(out: Path) -> str:
    return (out / "status.html").read_text()


def test_the_page_follows_the_ledger(tmp_path: Path, pulse: Pulse, ledger: Ledger) -> None:
    assert "0 of 1 scans ended" in page(tmp_path)
    assert 'http-equiv="refresh"' in page(tmp_path)
    ledger.write(Record("a", State.FAILED, attempt=1, error="it broke"))
    until(lambda: "1 of 1 scans ended" in page(tmp_path))
    until(lambda: "it broke" in (tmp_path / "failed.tsv").read_text())


def test_the_lock_is_renewed(tmp_path: Path, pulse: Pulse) -> None:
    written = (tmp_path / LOCK).stat().st_ino
    until(lambda: (tmp_path / LOCK).stat().st_ino != written)
    pulse.check(EVENT)


def test_a_lost_lock_ends_the_run(tmp_path: Path, pulse: Pulse) -> None:
    def lost() -> bool:
        # Written again and again: a renewal that was under way may put the old one back.
        (tmp_path / LOCK).write_bytes(replace(Holder.me(), host="node7", token="other").data())
        try:
            pulse.check(EVENT)
        except LockLost as error:
            return "node7" in str(error)
        return False

    until(lost)


def test_the_last_page_does_not_reload(tmp_path: Path, ledger: Ledger, lock: CohortLock) -> None:
    with Pulse(tmp_path, ledger, lock):
        ledger.write(Record("a", State.FAILED, attempt=1, error="it <broke>"))
    assert 'http-equiv="refresh"' not in page(tmp_path)
    assert "it &lt;broke&gt;" in page(tmp_path)
    assert "crash/a/error.txt" in page(tmp_path)
