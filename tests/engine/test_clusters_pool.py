"""A pool keeps its size, whatever kills its workers, and when."""

import os
import signal
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from mrsi_engine.engine.clusters import ClusterChoice, Need, open_cluster, opening, queues
from mrsi_engine.engine.clusters.pool import Pool
from mrsi_engine.engine.clusters.queues import Queue
from mrsi_engine.errors import RunError


@pytest.fixture
def need(tmp_path):
    return Need(tmp_path / "out")


def wait_until(found, seconds=120):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_that_are_killed_while_they_start_are_replaced(need):
    with open_cluster(ClusterChoice(workers=2), need) as opened:
        cluster = opened.client.cluster
        first = cluster.workers[0]
        # Dask gives up a nanny whose worker dies before it is there.
        while first.status.name != "closed":
            pid = first.pid
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        wait_until(lambda: cluster.workers.get(0, first) is not first)
        wait_until(lambda: len(opened.client.nthreads()) == 2)
        assert opened.client.submit(os.getpid, pure=False).result(timeout=60)


def test_refill_does_not_wait(need):
    with open_cluster(ClusterChoice(workers=1), need) as opened:
        opened.client.cluster.sync(opened.client.cluster.workers[0].close)
        started = time.monotonic()
        for _ in range(20):
            opened.refill()
        assert time.monotonic() - started < 5
        wait_until(lambda: len(opened.client.nthreads()) == 1)


def test_threads_are_open_at_once_and_asked_nothing(tmp_path):
    need = Need(tmp_path / "out", processes=False)
    with open_cluster(ClusterChoice(workers=1, threads_per_worker=2), need) as opened:
        assert sum(opened.client.nthreads().values()) == 2
        assert not need.folder.exists()


def test_no_more_workers_than_fit_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 3000 << 20)
    monkeypatch.setattr(opening, "default_workers", lambda: 8)
    asked = []

    @contextmanager
    def recorded(workers, threads, **options):
        asked.append((workers, options["memory_limit"] >> 20))
        raise InterruptedError
        yield

    monkeypatch.setattr(opening, "local_cluster", recorded)

    def opened(choice, needed):
        with pytest.raises(RunError), open_cluster(choice, Need(tmp_path, bytes=needed << 20)):
            pass
        return asked[-1]

    assert opened(ClusterChoice(), 1000) == (3, 1000)
    assert opened(ClusterChoice(), 100) == (8, 375)
    assert opened(ClusterChoice(), 4000) == (1, 3000)
    assert opened(ClusterChoice(workers=5), 1000) == (5, 600)


def test_what_a_profile_says_of_this_machine_counts(tmp_path):
    profile = tmp_path / "mine.toml"
    profile.write_text(
        'class = "distributed.LocalCluster"\n[cluster]\nn_workers = 2\nprocesses = false\n'
        "threads_per_worker = 3\n"
    )
    with open_cluster(ClusterChoice(str(profile)), Need(tmp_path / "out")) as opened:
        assert list(opened.client.nthreads().values()) == [3, 3]
    with open_cluster(ClusterChoice(str(profile), workers=1), Need(tmp_path / "out")) as opened:
        assert list(opened.client.nthreads().values()) == [3]


def test_a_cluster_that_does_not_start_names_its_profile(tmp_path):
    profile = tmp_path / "mine.toml"
    profile.write_text('class = "distributed.LocalCluster"\n[cluster]\nhost = "256.0.0.1"\n')
    with (
        pytest.raises(RunError, match=r"mine\.toml: distributed\.LocalCluster does not start"),
        open_cluster(ClusterChoice(str(profile)), Need(tmp_path / "out")),
    ):
        pass


SQUEUE = "11|RUNNING|None\n12|PENDING|Priority\n13|COMPLETING|None\n99|RUNNING|None\n"


@pytest.fixture
def squeue(monkeypatch):
    def says(stdout="", returncode=0):
        said = SimpleNamespace(stdout=stdout, returncode=returncode)
        monkeypatch.setattr(queues.subprocess, "run", lambda *a, **k: said)

    return says


def test_queue_says_which_jobs_are_left_and_why_they_wait(squeue):
    squeue(SQUEUE)
    assert Queue().left(["11", "12", "13", "14"]) == {"11", "12"}
    assert Queue().summary(["11", "12", "13"]) == "1 running, 1 pending (Priority)"
    assert Queue().summary(["14"]) == "no jobs"


def test_a_queue_that_does_not_answer_loses_no_job(squeue):
    squeue(returncode=1)
    assert Queue().left(["11"]) is None
    assert Queue().summary(["11"]) == "squeue does not answer"


def test_last_words_of_a_job(tmp_path):
    cluster = SimpleNamespace()
    assert Pool(cluster, tmp_path / "none").last_words() == f"no logs in {tmp_path / 'none'}"
    old, new = tmp_path / "a.err", tmp_path / "b.err"
    old.write_text("old\n")
    os.utime(old, (1, 1))
    new.write_text("".join(f"line {n}\n" for n in range(20)))
    words = Pool(cluster, tmp_path).last_words().splitlines()
    assert words[0] == f"{new} ends with:"
    assert words[1:] == [f"line {n}" for n in range(12, 20)]
