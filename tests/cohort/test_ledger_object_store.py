"""Ledger and lock on an object store: nothing can be appended to or linked there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mrsi_engine.cohort import segments
from mrsi_engine.cohort.ledger import LEDGER, Ledger, LedgerReader, Record, Session, State
from mrsi_engine.cohort.lock import LOCK, CohortLock, Holder, holder_of, locked
from mrsi_engine.errors import InputError
from mrsi_engine.io.exclusive import create_whole
from mrsi_engine.io.places import place

SESSION = Session("2026-11-28T14:00:00.000+00:00", "node1", 42)


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Path:
    """A prefix of an object store, of this process or spoken to as one speaks to S3."""
    address = "memory://bucket" if request.param == "memory" else request.getfixturevalue("s3")
    return place(f"{address}/ledgers")


@pytest.fixture
def out(store: Path, request: pytest.FixtureRequest) -> Path:
    return store / request.node.name.split("[")[0]


def test_a_ledger_is_put_whole_now_and_then(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "PUT_EVERY", 3600.0)
    ledger = Ledger(out, SESSION, roll=3)
    ledger.write(*(Record(name, State.WAITING) for name in "ab"))
    ledger.write(Record("a", State.RUNNING, attempt=1))
    assert {r.state for r in LedgerReader(out).read().scans.values()} <= {State.WAITING}
    ledger.flush()
    ledger.write(Record("a", State.DONE, attempt=1))
    ledger.close()
    story = LedgerReader(out).read()
    assert story.counts == {State.WAITING: 1, State.DONE: 1}
    assert (story.problems, story.sessions) == ((), (SESSION,))
    assert len(list((out / LEDGER).iterdir())) == 2
    again = Ledger(out, replace(SESSION, pid=43))
    again.write(Record("b", State.RUNNING, attempt=1))
    again.close()
    assert LedgerReader(out).read().counts == {State.RUNNING: 1, State.DONE: 1}


def test_a_file_is_created_once(out: Path) -> None:
    assert create_whole(out / "file", b"first")
    assert not create_whole(out / "file", b"second")
    assert (out / "file").read_bytes() == b"first"


def test_a_second_driver_is_refused(out: Path) -> None:
    with locked(out) as lock:
        lock.renew()
        with pytest.raises(InputError, match="runs this cohort"):
            CohortLock(out).take()
    assert holder_of(out) is None
    assert not (out / LOCK).exists()


def test_a_dead_driver_is_taken_over(out: Path) -> None:
    me = Holder.me()
    (out / LOCK).write_bytes(replace(me, started=me.started - 100, token="dead").data())
    with locked(out) as lock:
        assert lock.taken_from is not None
        assert holder_of(out) is not None
        assert [path.name for path in out.iterdir()] == [LOCK]


def test_one_of_another_machine_lives_while_it_is_renewed(out: Path) -> None:
    far = replace(Holder.me(), host="node7", machine="another", token="far")
    (out / LOCK).write_bytes(far.data())
    with pytest.raises(InputError, match="on node7"):
        CohortLock(out).take()
    with pytest.raises(InputError, match="the same command takes over in"):
        CohortLock(out).take()
    lock = CohortLock(out, renewed_every=-1.0)
    lock.take()
    assert lock.taken_from is not None
    lock.leave()
