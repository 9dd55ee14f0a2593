"""Tasks of a source on real clusters: on demand, in order, whatever happens to workers."""

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import acts
import dask
import pytest
from conftest import whole_again

from mrsi_engine.engine.clusters import DASK_SETTINGS, local, local_cluster, refill_of
from mrsi_engine.engine.patience import Patience
from mrsi_engine.engine.window import AHEAD, LEAST_AHEAD, Failure, Task, run_tasks
from mrsi_engine.errors import RunError

#: Limits that are only reached by what hangs for ever: heavy load must not reach them.
QUICK = Patience(unknown=600.0, least=3.0, times=20.0)


@pytest.fixture(scope="module")
def threads():
    with local_cluster(1, 2, processes=False) as client:
        yield client


@pytest.fixture(scope="module")
def two_processes():
    with local_cluster(2) as client:
        yield client


@pytest.fixture
def processes(two_processes):
    return whole_again(two_processes)


def acting(folder, scripts, count=6):
    """Tasks 0 to ``count``, some by a script."""
    return [
        Task("act", str(n), partial(acts.act, str(folder), n, *scripts.get(n, ())), of=n)
        for n in range(count)
    ]


def source_of(tasks):
    left = iter(tasks)
    return lambda: next(left, None)


def outcomes(tasks, client, **named):
    """Outcomes by what their source knows the tasks by, in the order in which they ended."""
    return {e.task.of: e.outcome for e in run_tasks(source_of(tasks), client, **named)}


@pytest.mark.parametrize("where", ["here", "threads"])
def test_a_source_is_asked_on_demand_and_after_every_outcome(where, request):
    client = None if where == "here" else request.getfixturevalue(where)
    most = 1 if client is None else max(LEAST_AHEAD, AHEAD * 2)
    handed_out, ended, waiting = [], [], [*range(40)]

    def source():
        if not waiting:
            return None
        assert len(handed_out) - len(ended) < most
        handed_out.append(waiting.pop(0))
        return Task("give", str(handed_out[-1]), partial(acts.give, handed_out[-1]))

    for one in run_tasks(source, client):
        ended.append(one.outcome)
        if one.outcome < 40:
            # What follows from a task that ended, as the next step of a scan does.
            waiting.append(one.outcome + 100)
    assert sorted(ended) == [*range(40), *range(100, 140)]
    # Futures are released in the client's own thread.
    while client is not None and client.futures:
        threading.Event().wait(0.01)


@pytest.mark.parametrize("where", ["here", "threads"])
def test_what_goes_wrong_comes_back_as_text(where, request):
    client = None if where == "here" else request.getfixturevalue(where)
    kinds = ["input", "disk", "any"]
    found = outcomes([Task("fail", k, partial(acts.fail, k), of=k) for k in kinds], client)
    assert all(isinstance(failure, Failure) for failure in found.values())
    assert found["input"].refused
    assert found["disk"].disk_full
    assert found["any"].error == "ValueError: a any error"
    assert "in fail" in found["any"].traceback
    assert (found["any"].worker is None) == (client is None)


def test_tasks_of_the_same_name_are_two(threads):
    tasks = [Task("give", "same", partial(acts.give, n), of=n) for n in range(12)]
    assert outcomes(tasks, threads) == {n: n for n in range(12)}


def test_what_was_begun_goes_first(tmp_path):
    gate = tmp_path / "gate"

    def wait():
        while not gate.exists():
            threading.Event().wait(0.01)

    new = [Task("wait", str(n), wait, of=n) for n in range(6)]
    begun = [Task("wait", str(n), wait, of=n, begun=True) for n in (100, 101)]
    with local_cluster(1, 1, processes=False) as client:
        all_ended = run_tasks(source_of([*new, *begun]), client)
        threading.Timer(0.5, gate.touch).start()
        order = [one.task.of for one in all_ended]
    # The scheduler may have sent the first before it heard of all.
    assert {100, 101} <= set(order[:3])


def test_closing_calls_off_what_has_not_ended(tmp_path, threads):
    tasks = acting(tmp_path, dict.fromkeys(range(30), ("sleep 0.2",)), count=30)
    all_ended = run_tasks(source_of(tasks), threads)
    next(all_ended)
    all_ended.close()
    while threads.futures:
        threading.Event().wait(0.01)
    assert len(list(tmp_path.iterdir())) < 30


def test_a_worker_that_is_stopped_is_replaced(tmp_path, processes):
    before = {*processes.scheduler_info()["workers"]}
    tasks = acting(tmp_path, {2: ("stop", "")})
    assert {*outcomes(tasks, processes, patience=QUICK).values()} == {*range(6)}
    assert acts.runs(tmp_path, 2) == 2
    while len({*processes.scheduler_info()["workers"]} - before) == 0:
        threading.Event().wait(0.05)


def test_a_task_that_hangs_with_every_worker_fails_alone(tmp_path, processes):
    found = outcomes(acting(tmp_path, {2: ("stop",)}), processes, patience=QUICK)
    failure = found.pop(2)
    assert "took longer than 3 s, 3 times" in failure.error
    assert [*found.values()] == [*found]
    assert acts.runs(tmp_path, 2) == 3


def test_a_result_on_a_worker_that_stopped_after_its_task_is_made_again(tmp_path, processes):
    tasks = [
        Task("late", "0", partial(acts.stop_later, str(tmp_path), 0), of=0),
        *acting(tmp_path, {}, count=1),
    ]
    patience = Patience(unknown=4.0, least=1.0)
    assert outcomes(tasks, processes, patience=patience) == {0: 0}


def test_a_slow_task_is_waited_for_as_long_as_its_like_take(tmp_path, threads):
    patience = Patience(unknown=60.0, least=0.1, times=50.0)
    tasks = acting(tmp_path, {0: ("sleep 0.1",), 1: ("sleep 3",)}, count=2)
    assert outcomes(tasks, threads, patience=patience) == {0: 0, 1: 1}
    assert acts.runs(tmp_path, 1) == 1


def test_suspects_do_not_hold_up_the_rest(tmp_path, processes):
    tasks = acting(tmp_path, {0: ("kill", "kill", ""), 3: ("kill",)}, count=40)
    found = outcomes(tasks, processes, refill=refill_of(processes))
    assert {*[*found][-2:]} == {0, 3}
    assert found.pop(3).worker_died
    assert [*found.values()] == [*found]


@pytest.fixture
def dying_at_start(tmp_path):
    """Workers that kill themselves while they start, as long as marks are left."""
    marks, script = tmp_path / "marks", tmp_path / "die.py"
    marks.mkdir()
    script.write_text(
        "import os, pathlib, signal\n"
        "def dask_setup(worker):\n"
        f"    for mark in pathlib.Path({str(marks)!r}).iterdir():\n"
        "        mark.unlink()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with dask.config.set({"distributed.worker.preload": [str(script)]}):
        yield marks


def test_workers_that_die_while_they_start_are_replaced(tmp_path, dying_at_start, monkeypatch):
    impatient = {
        **DASK_SETTINGS,
        "distributed.scheduler.no-workers-timeout": "1s",
        "distributed.deploy.lost-worker-timeout": "1s",
    }
    monkeypatch.setattr(local, "DASK_SETTINGS", impatient)
    (tmp_path / "log").mkdir()
    with local_cluster(2) as client:
        for n in range(6):
            (dying_at_start / str(n)).touch()
        tasks = acting(tmp_path / "log", {0: ("kill", ""), 1: ("kill", "")})
        found = outcomes(tasks, client, refill=refill_of(client), patience=QUICK)
        assert {*found.values()} == {*range(6)}
        client.wait_for_workers(2, timeout=60)
    assert not list(dying_at_start.iterdir())


def test_tasks_wait_for_the_first_worker(tmp_path, monkeypatch):
    impatient = {**DASK_SETTINGS, "distributed.scheduler.no-workers-timeout": "0.1s"}
    monkeypatch.setattr(local, "DASK_SETTINGS", impatient)
    with local_cluster(1, processes=False) as client:
        client.cluster.scale(0)
        while client.nthreads():
            threading.Event().wait(0.05)
        sent = threading.Event()

        def come():
            sent.wait()
            client.cluster.scale(1)

        threading.Thread(target=come).start()
        # The source is asked before there is a worker, and for one task only.
        tasks = iter(acting(tmp_path, {}))

        def source():
            sent.set()
            return next(tasks, None)

        assert len([*run_tasks(source, client)]) == 6


def test_without_any_worker_a_run_ends_and_says_why(tmp_path):
    with local_cluster(1, processes=False) as client:
        client.cluster.scale(0)
        while client.nthreads():
            threading.Event().wait(0.05)
        patience = Patience(without_workers=0.5)
        with pytest.raises(RunError, match=r"no worker for 0\.5 s: the cluster has none"):
            outcomes(acting(tmp_path, {}), client, patience=patience)


DRIVER = """
import sys
from functools import partial
import acts
from mrsi_engine.engine.clusters import local_cluster
from mrsi_engine.engine.patience import Patience
from mrsi_engine.engine.window import Task, run_tasks
from mrsi_engine.errors import MRSIError

def main(folder, workers):
    script = [("sleep 1",), ("sleep 600",)]
    tasks = (
        Task("act", str(n), partial(acts.act, folder, n, *script[n % 2]), of=n) for n in range(50)
    )
    def go(client):
        for ended in run_tasks(lambda: next(tasks, None), client, patience=Patience(farewell=2.0)):
            print("ended", ended.outcome, flush=True)
    if workers:
        with local_cluster(2) as client:
            go(client)
    else:
        go(None)

if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except MRSIError as error:
        print(type(error).__name__, error, flush=True)
        sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_a_run_gives_up_what_runs_and_says_how_to_go_on(workers, asked, tmp_path):
    (tmp_path / "drive.py").write_text(DRIVER)
    (tmp_path / "log").mkdir()
    here = str(Path(__file__).parent)
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "drive.py", tmp_path / "log", str(workers)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    while not acts.runs(tmp_path / "log", 1):
        assert driver.poll() is None
        threading.Event().wait(0.05)
    driver.send_signal(asked)
    told, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert "ended 0" in told
    assert f"Interrupted stopped by {asked.name}" in told
    assert "goes on with the same command" in told
    # What was waiting was not begun.
    assert len(list((tmp_path / "log").iterdir())) <= 2 + workers


def test_a_lost_scheduler_is_told(monkeypatch):
    impatient = {**DASK_SETTINGS, "distributed.comm.timeouts.connect": "1s"}
    monkeypatch.setattr(local, "DASK_SETTINGS", impatient)
    with local_cluster(1, processes=False) as client:
        cluster = client.cluster
        tasks = [Task("give", str(n), partial(acts.give, n)) for n in range(20)]
        all_ended = run_tasks(source_of(tasks), client)
        next(all_ended)
        cluster.sync(cluster.scheduler.close)
        with pytest.raises(RunError, match="lost the Dask scheduler"):
            list(all_ended)
