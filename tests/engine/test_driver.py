import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import scripted
from conftest import drive_until_killed, whole_again, write_scan
from distributed import Client
from test_blocks import MOMENTS, assert_same, maps, run_all

from mrsi_engine.conventions import Status
from mrsi_engine.engine import clusters, window
from mrsi_engine.engine.clusters import (
    DASK_SETTINGS,
    WORKER_ENVIRONMENT,
    ClusterChoice,
    connected,
    local,
    local_cluster,
)
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.events import BlockDone, BlockFailed, RunFinished, RunStarted
from mrsi_engine.engine.patience import Patience
from mrsi_engine.engine.plan import plan
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io import result_store
from mrsi_engine.pipeline.pipeline import Pipeline


def scripted_pipeline(folder, table=None, pause=0.0):
    folder.mkdir(exist_ok=True)
    table = {str(voxel): actions for voxel, actions in (table or {}).items()}
    script = scripted.Script(folder=str(folder), table=table, pause=pause)
    return Pipeline(name="scripted", stages=(script, scripted.Moments()))


@pytest.fixture(scope="module")
def two_processes():
    with local_cluster(2) as client:
        yield client


@pytest.fixture
def processes(two_processes):
    return whole_again(two_processes)


@pytest.fixture(scope="module")
def threads():
    with local_cluster(1, 2, processes=False) as client:
        yield client


@pytest.fixture
def expected(scan, tmp_path):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "expected", block_size=100)
    run_all(todo)
    return maps(tmp_path / "expected")


@pytest.mark.parametrize("block_size", [7, 100])
@pytest.mark.parametrize("where", ["serial", "threads", "processes"])
def test_any_executor_and_block_size_give_the_same_maps(
    where, block_size, scan, expected, tmp_path, request
):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=block_size)
    chosen = {"workers": 0} if where == "serial" else {"client": request.getfixturevalue(where)}
    summary = run(todo, **chosen)
    assert_same(maps(tmp_path / "out"), expected)
    assert summary.summary.finished
    assert summary.voxels_done == 100
    assert summary.summary.statuses == {Status.NO_FIT: 3, Status.LEAST_SQUARES: 97}


def test_finished_run_does_nothing(scan, tmp_path):
    pipeline = scripted_pipeline(tmp_path / "log")
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=30)
    run(todo, workers=0)
    again = run(todo, workers=2)
    assert again.blocks_done == 0
    assert set(scripted.runs(tmp_path / "log").values()) == {1}


def test_failed_blocks_are_reported_after_all_others_and_done_next_time(
    scan, expected, tmp_path, processes
):
    pipeline = scripted_pipeline(tmp_path / "log", {10: ["fail", "ok"], 60: ["fail", "ok"]})
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=10)
    seen = []
    with pytest.raises(RunError, match="2 of 10 blocks are not done") as caught:
        run(todo, client=processes, sinks=[seen.append])
    assert "block 1 (voxels 10 to 19): ValueError: scripted failure at voxel 10" in str(
        caught.value
    )
    assert any("Traceback" in note for note in caught.value.__notes__)
    assert todo.store.missing() == [1, 6]
    assert sum(isinstance(event, BlockFailed) for event in seen) == 2
    run(todo, client=processes)
    counts = scripted.runs(tmp_path / "log")
    assert counts == {v: 2 if v in (10, 60) else 1 for v in counts}
    assert_same(maps(tmp_path / "out"), expected)


def test_worker_killed_once_costs_nothing_but_time(scan, expected, tmp_path, processes):
    pipeline = scripted_pipeline(tmp_path / "log", {20: ["kill", "ok"]})
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=10)
    run(todo, client=processes)
    assert_same(maps(tmp_path / "out"), expected)
    assert scripted.runs(tmp_path / "log")[20] == 2


def test_poison_block_fails_alone(scan, expected, tmp_path, processes):
    pipeline = scripted_pipeline(tmp_path / "log", {20: ["kill"]}, pause=0.05)
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=10)
    with pytest.raises(RunError, match=r"block 2 \(voxels 20 to 29\): its worker died"):
        run(todo, client=processes)
    assert todo.store.missing() == [2]
    done = np.r_[0:20, 30:100]
    assert_same(
        {name: values[done] for name, values in maps(tmp_path / "out").items()},
        {name: values[done] for name, values in expected.items()},
    )


@pytest.mark.parametrize(
    ("workers", "done", "table"),
    [(0, 0, {}), (0, -1, {30: ["kill", "ok"]}), (2, 15, {})],
    ids=["at the start", "in a block", "with workers"],
)
def test_driver_killed_at_any_point_goes_on(workers, done, table, scan, expected, tmp_path):
    pipeline = scripted_pipeline(tmp_path / "log", table)
    drive_until_killed(scan.path, tmp_path / "out", pipeline, workers, done)
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=2)
    missing = todo.store.missing()
    # Workers are a bounded window ahead of the driver.
    assert missing[0] == 15 if table else len(missing) >= (20 if workers else 50)
    run(todo, workers=0)
    assert_same(maps(tmp_path / "out"), expected)
    # Blocks that were running when the driver died may run once more.
    assert sum(scripted.runs(tmp_path / "log").values()) <= 50 + max(1, workers)
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_stalled_blocks_are_sent_again(scan, expected, tmp_path, processes):
    pipeline = scripted_pipeline(tmp_path / "log", {20: ["sleep 60", "ok"]})
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=10)
    processes.run(import_module, "mrsi_engine.engine.blocks")
    run(todo, client=processes, patience=Patience(unknown=60.0, least=0.5))
    assert_same(maps(tmp_path / "out"), expected)
    assert scripted.runs(tmp_path / "log")[20] == 2


def test_block_that_stalls_again_fails_alone(scan, tmp_path, processes):
    pipeline = scripted_pipeline(tmp_path / "log", {20: ["sleep 60"]})
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=10)
    with pytest.raises(RunError, match=r"block 2 .*: it took longer than .* s, 3 times"):
        run(todo, client=processes, patience=Patience(unknown=60.0, least=0.5))
    assert todo.store.missing() == [2]


def test_full_disk_stops_the_run_and_leaves_nothing_half_written(scan, tmp_path, monkeypatch):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=10)
    original = result_store.zarr.Array.__setitem__

    def full_from_block_3(array, where, values):
        if array.name == "/quality" and where.start >= 30:
            raise OSError(28, "No space left on device")
        original(array, where, values)

    monkeypatch.setattr(result_store.zarr.Array, "__setitem__", full_from_block_3)
    seen = []
    with pytest.raises(RunError, match=r"disk full: .*out cannot be written"):
        run(todo, workers=0, sinks=[seen.append])
    assert todo.store.missing() == list(range(3, 10))
    assert sum(isinstance(event, BlockFailed) for event in seen) == 1
    assert isinstance(seen[-1], RunFinished)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_really_full_disk(small_disk, tmp_path, processes):
    scan = write_scan(tmp_path / "scan", voxels=2000)
    todo = plan(scan.path, MOMENTS, None, small_disk / "out", block_size=100, keep=["corrected"])
    with pytest.raises(RunError, match="disk full"):
        run(todo, client=processes)
    done = sorted(todo.store.done())
    assert 0 < len(done) < 20
    corrected = maps(small_disk / "out")["corrected"].reshape(20, 100, 32)
    assert np.isfinite(corrected[done]).all()


def test_disk_full_before_the_first_block(small_disk, tmp_path):
    scan = write_scan(tmp_path / "scan")
    (small_disk / "fill").write_bytes(b"0" * 590_000)
    with pytest.raises(RunError, match="disk full"):
        plan(scan.path, MOMENTS, None, small_disk / "out")
    assert [p.name for p in small_disk.iterdir()] == ["fill"]


def test_existing_scheduler(scan, expected, tmp_path):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=10)
    with local_cluster(2, secure=False) as client:
        run(todo, choice=ClusterChoice(client.scheduler.address))
    assert_same(maps(tmp_path / "out"), expected)


def test_no_scheduler_at_the_address():
    with (
        pytest.raises(RunError, match=r"tcp://127\.0\.0\.1:1: no Dask scheduler answers"),
        connected("tcp://127.0.0.1:1", timeout=0.5),
    ):
        pass


def test_lost_scheduler_is_told(scan, tmp_path, monkeypatch):
    pipeline = scripted_pipeline(tmp_path / "log", pause=0.1)
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=10)
    impatient = {**DASK_SETTINGS, "distributed.comm.timeouts.connect": "1s"}
    monkeypatch.setattr(local, "DASK_SETTINGS", impatient)
    with local_cluster(1, processes=False) as client:

        def lose(event):
            if isinstance(event, BlockDone):
                client.cluster.sync(client.cluster.scheduler.close)

        with pytest.raises(RunError, match="lost the Dask scheduler"):
            run(todo, client=client, sinks=[lose])


def test_where_to_run_is_said_once(scan, tmp_path):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out")
    with pytest.raises(InputError, match="one of client, workers and choice"):
        run(todo, workers=1, choice=ClusterChoice("tcp://127.0.0.1:1"))


def test_local_cluster_of_its_own_and_its_dashboard(scan, tmp_path):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=50)
    seen = []
    run(todo, workers=1, processes=False, sinks=[seen.append])
    started = seen[0]
    assert isinstance(started, RunStarted)
    assert started.dashboard.startswith("http://127.0.0.1:")
    assert (started.pending, started.pending_voxels, started.workers) == (2, 100, 1)
    assert isinstance(seen[-1], RunFinished)
    assert (seen[-1].done, seen[-1].voxels) == (2, 100)


def test_workers_are_set_up_and_leave_no_trace(processes):
    def environment():
        import torch

        return {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}, torch.get_num_threads()

    for variables, torch_threads in processes.run(environment).values():
        assert variables == WORKER_ENVIRONMENT
        assert torch_threads == 1


def test_workers_are_forked_with_everything_imported(processes):
    def imported():
        return "mrsi_engine.engine.driver" in sys.modules, os.getppid()

    clusters.warm_up()
    with local_cluster(1) as client:
        ((ready, parent),) = client.run(imported).values()
    assert ready
    assert parent == next(iter(processes.run(os.getppid).values()))
    assert parent != os.getpid()


def test_malloc_settings_do_not_leak(monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    with local_cluster(1):
        pass
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ


def test_graph_grows_with_blocks_by_little(scan, tmp_path, processes, monkeypatch):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=2)
    sent, flying = [], []
    original = Client._send_to_scheduler

    def send(self, message):
        if message["op"] == "update-graph":
            sent.append(sum(len(frame) for frame in message["expr_ser"].frames))
        original(self, message)

    def count(event):
        if isinstance(event, BlockDone):
            flying.append(len(processes.futures))

    monkeypatch.setattr(Client, "_send_to_scheduler", send)
    run(todo, client=processes, sinks=[count])
    assert sent
    assert sum(sent) < 50 * 2000
    assert max(flying) <= max(window.LEAST_AHEAD, window.AHEAD * 2)
    assert not processes.futures
