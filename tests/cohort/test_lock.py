"""One driver a folder: who is refused, who takes over, and that only one does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mrsi_engine.cohort.lock import LOCK, MISSED, CohortLock, Holder, holder_of, locked
from mrsi_engine.errors import InputError, RunError

#: A process that takes the lock, says so, and waits to be killed.
HOLDS = """
import sys, time
from pathlib import Path
from mrsi_engine.cohort.lock import CohortLock
CohortLock(Path(sys.argv[1])).take()
print("taken", flush=True)
time.sleep(600)
"""


def dead_here() -> Holder:
    """A process of this machine that is no more."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return replace(Holder.me(), pid=done.pid, token="dead")


def elsewhere() -> Holder:
    return replace(Holder.me(), host="node7", machine="another", pid=4711, token="far")


def taken_at_once(out: Path, drivers: int) -> list[CohortLock]:
    """Locks that were taken, of many drivers that try at the same time."""
    together, took = threading.Barrier(drivers), []

    def take() -> None:
        lock = CohortLock(out)
        together.wait()
        with suppress(InputError):
            lock.take()
            took.append(lock)

    threads = [threading.Thread(target=take) for _ in range(drivers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


@pytest.fixture
def held_by(tmp_path: Path) -> Callable[..., Path]:
    """A lock of a holder, renewed so many seconds ago."""

    def write(holder: Holder, age: float = 0.0, name: str = LOCK) -> Path:
        path = tmp_path / name
        path.write_bytes(holder.data())
        now = path.stat().st_mtime
        os.utime(path, (now - age, now - age))
        return path

    return write


def test_a_second_driver_is_told_of_the_first(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        first.stdout.readline()
        me = Holder.me()
        with pytest.raises(InputError) as refused:
            CohortLock(tmp_path).take()
        assert f"process {first.pid} on {me.host}, since {me.since[:10]}" in str(refused.value)
        assert f"kill {first.pid}" in str(refused.value)
    finally:
        first.kill()
        first.wait()
    second = CohortLock(tmp_path)
    second.take()
    assert second.taken_from is not None
    assert second.taken_from.pid == first.pid


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with locked(tmp_path / "out") as lock:
        assert holder_of(tmp_path / "out") is not None
        lock.renew()
        assert [p.name for p in (tmp_path / "out").iterdir()] == [LOCK]
    assert not (tmp_path / "out").exists()
    (tmp_path / "other").mkdir()
    with locked(tmp_path / "other"):
        pass
    assert (tmp_path / "other").exists()


def test_this_process_does_not_take_it_twice(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        CohortLock(tmp_path).take()


def test_a_process_of_the_same_number_that_began_later_is_another(
    tmp_path: Path, held_by: Callable[..., Path]
) -> None:
    me = Holder.me()
    held_by(replace(me, started=me.started - 100, token="before"))
    with locked(tmp_path) as lock:
        assert lock.taken_from is not None


def test_a_process_of_another_user_that_cannot_be_seen_may_live(
    tmp_path: Path, held_by: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held_by(dead_here())
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(InputError, match="the same command takes over in"):
        CohortLock(tmp_path).take()
    held_by(dead_here(), age=MISSED * 15 + 60)
    with locked(tmp_path) as lock:
        assert lock.taken_from is not None


class TestOfAnotherMachine:
    def test_one_that_was_renewed_is_alive(
        self, tmp_path: Path, held_by: Callable[..., Path]
    ) -> None:
        held_by(elsewhere(), age=MISSED * 15 - 60)
        with pytest.raises(InputError) as refused:
            CohortLock(tmp_path).take()
        assert "process 4711 on node7" in str(refused.value)
        assert "the same command takes over in" in str(refused.value)

    def test_one_that_was_not_renewed_is_dead(
        self, tmp_path: Path, held_by: Callable[..., Path]
    ) -> None:
        held_by(elsewhere(), age=MISSED * 15 + 60)
        with locked(tmp_path) as lock:
            assert lock.taken_from is not None
            assert lock.taken_from.host == "node7"
            assert [p.name for p in tmp_path.iterdir()] == [LOCK]

    def test_a_torn_lock_is_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / LOCK
        path.write_bytes(b'{"host"')
        with pytest.raises(InputError, match="is about to take this folder"):
            CohortLock(tmp_path).take()
        os.utime(path, (1e9, 1e9))
        with locked(tmp_path):
            assert holder_of(tmp_path) is not None


class TestTakingOver:
    def test_a_taker_who_died_half_way_is_taken_over(
        self, tmp_path: Path, held_by: Callable[..., Path]
    ) -> None:
        first, second = dead_here(), replace(dead_here(), token="taker")
        held_by(first)
        held_by(second, name=f"{LOCK}.dead")
        with locked(tmp_path) as lock:
            assert lock.taken_from == second
            assert [p.name for p in tmp_path.iterdir()] == [LOCK]

    def test_a_taker_who_lives_is_the_holder(
        self, tmp_path: Path, held_by: Callable[..., Path]
    ) -> None:
        held_by(dead_here())
        held_by(elsewhere(), name=f"{LOCK}.dead")
        with pytest.raises(InputError, match="node7"):
            CohortLock(tmp_path).take()

    def test_only_one_of_many_takes_it(self, tmp_path: Path, held_by: Callable[..., Path]) -> None:
        for number in range(10):
            held_by(replace(dead_here(), token=f"dead{number}"))
            assert len(taken_at_once(tmp_path, 6)) == 1
            assert [p.name for p in tmp_path.iterdir()] == [LOCK]

    def test_who_lost_it_is_told(self, tmp_path: Path, held_by: Callable[..., Path]) -> None:
        lock = CohortLock(tmp_path)
        lock.take()
        held_by(elsewhere())
        with pytest.raises(RunError, match="was taken by process 4711 on node7"):
            lock.renew()
        lock.leave()
        assert (holder_of(tmp_path) or Holder.me()).host == "node7"

    def test_a_lock_that_somebody_deleted_is_put_back(self, tmp_path: Path) -> None:
        with locked(tmp_path) as lock:
            (tmp_path / LOCK).unlink()
            lock.renew()
            assert holder_of(tmp_path) is not None
