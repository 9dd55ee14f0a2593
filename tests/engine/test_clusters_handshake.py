"""Before a run a cluster says whether it can do it; what was quiet once speaks."""

import os
import signal
import subprocess
import sys
import threading
import time
from queue import Queue

import pytest
from distributed import Client
from foreign import foreign_scheduler, worker_process

from mrsi_engine.engine.clusters import ClusterChoice, Need, handshake, heart, open_cluster
from mrsi_engine.engine.clusters.handshake import ask_workers, refuse_unfit, wait_for_workers
from mrsi_engine.engine.clusters.heart import Heart
from mrsi_engine.engine.clusters.opening import silent, try_cluster
from mrsi_engine.engine.clusters.pool import Served
from mrsi_engine.errors import InputError, RunError


@pytest.fixture
def quick(monkeypatch):
    """Half a minute is a tenth of a second."""
    monkeypatch.setattr(heart, "BEAT_SECONDS", 0.1)


@pytest.fixture
def need(tmp_path):
    return Need(tmp_path / "out")


def test_a_scheduler_without_workers_is_told_of_until_one_comes(quick, need):
    told = Queue()
    with foreign_scheduler() as (address, cluster):
        came = threading.Event()

        def run():
            with open_cluster(ClusterChoice(address), need, told.put) as opened:
                came.workers = len(opened.client.nthreads())
            came.set()

        threading.Thread(target=run, daemon=True).start()
        lines = [told.get(timeout=30) for _ in range(2)]
        assert all("0 workers; 0 blocks/s" in line for line in lines)
        cluster.scale(1)
        assert came.wait(60)
        assert came.workers == 1


def test_a_memory_limit_below_what_a_block_needs_is_refused_with_both_numbers(need):
    need = Need(need.folder, bytes=1000 << 20)
    with (
        foreign_scheduler(1, memory_limit="300MiB") as (address, _),
        pytest.raises(InputError, match=r"memory limit is 300 MiB, but a block needs 1000 MiB"),
        open_cluster(ClusterChoice(address), need),
    ):
        pass


def test_a_worker_whose_folder_is_another_is_named(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    hide = f'mount -t tmpfs tmpfs {out} && exec "$@"'
    apart = ["unshare", "-m", "sh", "-c", hide, "sh"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("a folder of its own for a process needs root")
    with (
        foreign_scheduler(1) as (address, _),
        worker_process(address, "--name", "apart", before=apart),
        Client(address, set_as_default=False) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        names = {w["name"]: a for a, w in client.scheduler_info(n_workers=-1)["workers"].items()}
        with pytest.raises(InputError) as caught, open_cluster(ClusterChoice(address), Need(out)):
            pass
        head, line = str(caught.value).splitlines()
        assert head == "the cluster cannot do this run"
        assert line.startswith(f"worker {names['apart']} on ")
        assert f"does not share the folder {out}: cannot read {out}/.mrsi-token-" in line
    assert list(out.iterdir()) == []


def test_a_folder_where_workers_may_not_write(need, monkeypatch):
    need.folder.mkdir()

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    with foreign_scheduler(1, processes=False) as (address, _), Client(address) as client:
        original = type(need.folder).write_text
        monkeypatch.setattr(
            type(need.folder),
            "write_text",
            lambda path, *a, **k: (
                denied()
                if "token" in path.name and path.name.count("-") > 2
                else original(path, *a, **k)
            ),
        )
        [report] = ask_workers(client, need)
    assert "cannot write beside" in report.problem
    assert "(Permission denied), as user" in report.problem


def test_a_worker_of_another_version_is_named(tmp_path, need):
    other = tmp_path / "mrsi_engine-9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: mrsi-engine\nVersion: 9.9\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with (
        foreign_scheduler() as (address, _),
        worker_process(address, environment={"PYTHONPATH": path}),
        pytest.raises(InputError, match=r"other versions: mrsi-engine is 9\.9 there and"),
        open_cluster(ClusterChoice(address), need),
    ):
        pass


def test_a_worker_without_this_package_is_named(tmp_path, need):
    broken = tmp_path / "mrsi_engine"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with (
        foreign_scheduler() as (address, _),
        worker_process(address, environment={"PYTHONPATH": path}),
        pytest.raises(InputError, match=r"cannot load mrsi_engine \(.*not here.*\): .* there"),
        open_cluster(ClusterChoice(address), need),
    ):
        pass


def test_a_worker_without_the_gpu_that_is_asked_for(need):
    need = Need(need.folder, device="cuda:7")
    with (
        foreign_scheduler(1, processes=False) as (address, _),
        pytest.raises(InputError, match=r"device is 'cuda:7', but torch sees .* in this worker"),
        open_cluster(ClusterChoice(address), need),
    ):
        pass


def test_a_worker_that_hangs_does_not_hold_up_the_others(need, monkeypatch):
    monkeypatch.setattr(handshake, "_ANSWER_SECONDS", 1.0)
    with foreign_scheduler(1, processes=False) as (address, _), worker_process(address) as worker:
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            client.run(__import__, "mrsi_engine.engine.devices")
            worker.send_signal(signal.SIGSTOP)
            problems = [report.problem for report in ask_workers(client, need)]
        assert sorted(problems) == ["", "does not answer within 1 s"]


def test_no_worker_in_time(need):
    with (
        foreign_scheduler() as (address, _),
        Client(address, set_as_default=False) as client,
        pytest.raises(RunError, match=r"0 of 1 workers came within 0\.2 s"),
    ):
        wait_for_workers(client, Heart(client, str, silent), Served(), patience=0.2)


def test_jobs_that_end_one_after_the_other_are_given_up(tmp_path):
    class Lost(Served):
        lost_jobs = 3

        def last_words(self):
            return "job 7 ends with: no such python"

    with (
        foreign_scheduler() as (address, _),
        Client(address, set_as_default=False) as client,
        pytest.raises(RunError, match=r"3 jobs ended before a worker came; job 7 ends with"),
    ):
        wait_for_workers(client, Heart(client, str, silent), Lost())


def test_versions_that_can_work_together_are_told(need):
    told = []
    with foreign_scheduler(1, processes=False) as (address, _), Client(address) as client:
        [report] = ask_workers(client, need)
    refuse_unfit([report], told.append)
    assert told == []
    old = dict(report.seen.versions, torch=report.seen.versions["torch"] + ".1")
    seen = type(report.seen)(report.seen.host, 1, 0, old)
    [note] = handshake._notes(seen, report.seen)
    assert f"has torch {old['torch']}, this machine" in note
    far = dict(old, torch="1.0.0")
    assert "torch is 1.0.0 there" in handshake._versions(
        type(seen)(seen.host, 1, 0, far), report.seen
    )


def test_heart_speaks_of_what_is_lost_and_silent_and_how_fast_it_goes(monkeypatch):
    monkeypatch.setattr(heart, "_SILENT", 0.5)
    monkeypatch.setattr(heart, "BEAT_SECONDS", 1.0)
    told = []

    def until(text):
        deadline = time.monotonic() + 60
        while not (told and text in told[-1]):
            assert time.monotonic() < deadline, told
            beating.beat()
            time.sleep(0.05)
        return told[-1]

    with foreign_scheduler() as (address, _), Client(address, set_as_default=False) as client:
        beating = Heart(client, lambda: "2 pending (Priority)", told.append)
        with worker_process(address) as first, worker_process(address):
            client.wait_for_workers(2, timeout=60)
            line = until("2 workers; 2 pending (Priority); 0 blocks/s")
            assert "lost" not in line
            first.send_signal(signal.SIGSTOP)
            assert "silent for" in until("silent for")
            first.kill()
            until("1 worker; ")
            assert "1 lost since the last block ended" in until("lost")
            beating.block_ended()
            assert "lost" not in until("blocks/s") or until("1 worker; 2 pending")


def test_workers_that_are_lost_again_and_again(quick):
    told = []
    with foreign_scheduler() as (address, _), Client(address) as client:
        beating = Heart(client, str, told.append, needed=700 << 20)
        beating._known = {"tcp://a:1", "tcp://b:1", "tcp://c:1"}
        time.sleep(0.15)
        beating.beat()
    assert "3 lost since the last block ended" in told[0]
    assert "they are killed, for their memory (one needs 700 MiB), or crash" in told[0]


def test_heart_is_quiet_on_this_machine_while_blocks_end(quick):
    told = []
    with foreign_scheduler(1, processes=False) as (address, _), Client(address) as client:
        beating = Heart(client, str, told.append, here=True)
        for _ in range(4):
            time.sleep(0.15)
            beating.block_ended()
            beating.beat()
        assert told == []
        time.sleep(0.15)
        beating.beat()
        assert len(told) == 1


def test_a_trial_says_when_each_worker_came(need):
    trial = try_cluster(ClusterChoice("local"), need)
    assert len(trial.reports) == len(trial.came) == 2
    assert all(report.problem == "" for report in trial.reports)
    assert 0 < trial.opened <= min(trial.came.values())


def test_a_scheduler_that_was_lost_meanwhile_is_told(need, monkeypatch):
    with foreign_scheduler() as (address, _), Client(address, set_as_default=False) as client:
        # What a client knows that gave its scheduler up.
        monkeypatch.setattr(client, "scheduler_info", lambda **_: {"type": "Scheduler"})
        with pytest.raises(RunError, match="lost the Dask scheduler"):
            ask_workers(client, need)
