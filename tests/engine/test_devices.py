"""Which device computes, and who hands out GPUs; torch is told what this machine has."""

import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import scripted
import torch
from conftest import ACQUISITION
from distributed import LocalCluster
from test_blocks import MOMENTS
from whole_scan import Template

from mrsi_engine.engine import devices, window
from mrsi_engine.engine.clusters import (
    DASK_SETTINGS,
    ClusterChoice,
    gpu_cluster,
    local_cluster,
    opening,
)
from mrsi_engine.engine.devices import (
    check_device,
    device_here,
    gpu_workers,
    rows_to_device,
    title_of,
    to_host,
)
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.passes import finish_pass, next_pass, run_part
from mrsi_engine.engine.plan import plan
from mrsi_engine.engine.procedure import procedure_for
from mrsi_engine.engine.voxels import Voxels
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.result_store import open_result
from mrsi_engine.pipeline.pipeline import Pipeline


@pytest.fixture
def machine(monkeypatch):
    """Says how many GPUs torch sees, and whether dask-cuda is installed."""

    def has(gpus, dask_cuda=None):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        # None in the table of modules makes an import fail as if there were no such module.
        monkeypatch.setitem(sys.modules, "dask_cuda", dask_cuda)

    return has


@pytest.mark.parametrize("name", ["gpu", "abacus", "", "cuda:", "cuda:x", "cpu:0", "meta", "CUDA"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(InputError, match="expected auto, cpu or cuda"):
        check_device(name, here=False)


def test_a_gpu_that_is_not_here_is_refused_only_where_it_is_needed(machine):
    machine(0)
    assert check_device("cuda", here=False) == "cuda"
    assert check_device("auto", here=True) == "auto"
    with pytest.raises(InputError, match="torch sees no GPU on this machine; use auto or cpu"):
        check_device("cuda", here=True)
    machine(2)
    assert check_device("cuda:1", here=True) == "cuda:1"
    with pytest.raises(InputError, match="'cuda:2', but torch sees 2 GPUs"):
        check_device("cuda:2", here=True)


@pytest.mark.parametrize(
    ("name", "gpus", "expected"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 1, "cpu"), ("cuda:1", 2, "cuda:1")],
)
def test_auto_is_what_the_process_has(machine, name, gpus, expected):
    machine(gpus)
    assert device_here(name) == torch.device(expected)


def test_a_gpu_is_reported_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    assert title_of(torch.device("cuda:1")) == "Card 1"
    assert title_of(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize(
    ("name", "workers", "gpus", "expected"),
    [
        ("auto", None, 4, 4),
        ("cuda", 2, 4, 2),
        ("cuda", 1, 4, 0),
        ("auto", 0, 4, 0),
        ("cuda:2", None, 4, 0),
        ("cpu", None, 4, 0),
        ("auto", None, 1, 0),
        ("auto", 8, 1, 0),
        ("auto", 8, 0, 0),
    ],
)
def test_several_gpus_get_a_process_each(machine, name, workers, gpus, expected):
    machine(gpus, dask_cuda=SimpleNamespace())
    assert gpu_workers(name, workers) == expected


def test_more_workers_than_gpus_or_no_dask_cuda_are_refused(machine):
    machine(2)
    with pytest.raises(InputError, match="workers is 3, but torch sees 2 GPUs"):
        gpu_workers("auto", 3)
    with pytest.raises(InputError, match=r"pip install 'mrsi-engine\[cuda\]', or .*--workers 1"):
        gpu_workers("auto", None)


@pytest.fixture
def local_gpus(machine, monkeypatch):
    """What cluster a run on this machine asks for, by the number of its GPUs."""

    def asked(gpus, todo, **options):
        machine(gpus, dask_cuda=SimpleNamespace())
        calls = []

        @contextmanager
        def recorded(kind, *arguments, **further):
            calls.append((kind, arguments, further))
            raise RunError("asked")
            yield

        for kind in ("local_cluster", "gpu_cluster"):
            monkeypatch.setattr(opening, kind, lambda *a, _kind=kind, **k: recorded(_kind, *a, **k))
        with pytest.raises(RunError, match="asked"):
            run(todo, **options)
        return calls

    return asked


def test_one_gpu_gets_one_worker_and_several_get_dask_cuda(scan, tmp_path, local_gpus, monkeypatch):
    monkeypatch.setattr(opening, "default_workers", lambda: 7)
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out")
    threads = {"processes": False, "secure": True}
    two = ClusterChoice(threads_per_worker=2)
    assert local_gpus(0, todo) == [("local_cluster", (7, 1), threads)]
    assert local_gpus(1, todo) == [("local_cluster", (1, 1), threads)]
    assert local_gpus(1, todo, workers=3) == [("local_cluster", (3, 1), threads)]
    assert local_gpus(4, todo, choice=two) == [("gpu_cluster", (4, 2), {"secure": True})]
    assert local_gpus(4, todo, workers=1) == [("local_cluster", (1, 1), threads)]
    cpu = plan(scan.path, MOMENTS, None, tmp_path / "out", device="cpu")
    assert local_gpus(4, cpu) == [("local_cluster", (7, 1), threads)]


def test_dask_cuda_is_asked_for_processes_that_spill_nothing(monkeypatch):
    asked = {}

    class LocalCUDACluster(LocalCluster):
        def __init__(self, CUDA_VISIBLE_DEVICES=None, n_workers=None, **further):
            asked.update(further, n_workers=n_workers, visible=CUDA_VISIBLE_DEVICES)
            asked["method"] = dask.config.get("distributed.worker.multiprocessing-method")
            asked["environment"] = os.environ["MALLOC_TRIM_THRESHOLD_"]
            del asked["security"]
            super().__init__(
                n_workers=n_workers, processes=False, dashboard_address=None, protocol="inproc://"
            )

    fake = SimpleNamespace(LocalCUDACluster=LocalCUDACluster)
    monkeypatch.setitem(sys.modules, "dask_cuda", fake)
    with gpu_cluster(2, threads_per_worker=3) as client:
        assert len(client.scheduler_info(n_workers=-1)["workers"]) == 2
    assert asked == {
        "n_workers": 2,
        "threads_per_worker": 3,
        "visible": None,
        "data": dict,
        "protocol": "tls://",
        "dashboard_address": "127.0.0.1:0",
        "method": "spawn",
        "environment": str(1 << 30),
    }
    assert DASK_SETTINGS["distributed.worker.multiprocessing-method"] != "spawn"


@pytest.fixture(scope="module")
def threads():
    with local_cluster(1, 2, processes=False) as client:
        yield client


def test_a_worker_without_a_gpu_says_so_and_the_cpu_goes_on(scan, tmp_path, threads, machine):
    machine(0)
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=40, device="cuda")
    with pytest.raises(RunError, match=r"block 0 .*'cuda', but torch sees no GPU in this worker"):
        run(todo, client=threads)
    again = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=40, device="cpu")
    assert again.fingerprint == todo.fingerprint
    assert run(again, client=threads).blocks_done == 3


def test_a_gpu_that_is_not_here_is_refused_before_a_block_is_sent(scan, tmp_path, machine):
    machine(0)
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", device="cuda")
    for where in ({}, {"workers": 0}):
        with pytest.raises(InputError, match="torch sees no GPU on this machine"):
            run(todo, **where)


def test_the_store_knows_what_computed_it(scan, tmp_path, monkeypatch):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=30)
    names = {0: "cpu", 1: "Card", 2: "Card", 3: "cpu"}

    def attempt(do):
        done = do()
        receipt = replace(done, device=names[done.block])
        return window.Attempt(receipt, done.seconds, None)

    assert todo.device == "auto"
    monkeypatch.setattr(window, "attempt", attempt)
    run(todo, workers=0)
    [session] = open_result(tmp_path / "out").attrs["timings"]
    assert session["devices"] == {"cpu": 2, "Card": 2}


class Staged(torch.Tensor):
    """Page-locked memory, as far as a machine without a GPU can have it."""

    sent = ()

    def to(self, device, non_blocking=False):
        Staged.sent = (*Staged.sent, (str(device), non_blocking))
        return self.as_subclass(torch.Tensor)


def test_rows_go_to_a_gpu_through_page_locked_memory(monkeypatch):
    monkeypatch.setattr(Staged, "sent", ())
    monkeypatch.setattr(
        devices,
        "_page_locked",
        lambda shape, dtype: torch.zeros(shape, dtype=dtype).as_subclass(Staged),
    )
    rng = np.random.default_rng(0)
    chosen = np.array([True, False, True, True])
    for values in (
        rng.normal(size=(4, 2, 8)).astype(np.complex64),
        rng.integers(0, 9, (4, 3)).astype(np.int32),
        np.array([True, True, False, False]),
    ):
        there = rows_to_device(values, chosen, torch.device("cuda"))
        np.testing.assert_array_equal(there.numpy(), values[chosen])
        assert there.numpy().dtype == values.dtype
    assert Staged.sent == (("cuda", True),) * 3


def test_from_the_cpu_nothing_is_copied():
    tensor = torch.arange(4.0)
    arrays = to_host({"a": tensor})
    assert arrays["a"].ctypes.data == tensor.data_ptr()


class CannotBuild(scripted.Moments):
    """A stage whose tables cannot be made."""

    stage = "test_cannot_build"

    def build(self, context):
        raise ValueError("no such table")


def test_tables_that_cannot_be_made_are_told_by_blocks(scan, tmp_path, threads):
    pipeline = Pipeline(name="p", stages=(CannotBuild(),))
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=50)
    with pytest.raises(RunError, match=r"block 1 .*ValueError: no such table"):
        run(todo, client=threads)
    assert len(threads.scheduler_info()["workers"]) == 1


def test_tables_are_made_once_a_process_on_one_thread(scan, tmp_path):
    (tmp_path / "log").mkdir()
    pipeline = Pipeline(
        name="once", stages=(scripted.Script(folder=str(tmp_path / "log")), scripted.Moments())
    )
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=5)
    with local_cluster(2, processes=False) as client:
        run(todo, client=client)
    assert len(list((tmp_path / "log").glob("built-*"))) == 1


def test_making_tables_leaves_other_cores_alone():
    seen = []

    class Looks(scripted.Moments):
        stage = ""

        def build(self, context):
            seen.append((torch.get_num_threads(), context.device.type))
            return super().build(context)

    pipeline = Pipeline.model_construct(name="looks", stages=(Looks(),))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        voxels = Voxels(np.ones((2, ACQUISITION.points), np.complex64))
        procedure_for(ACQUISITION, pipeline, None, device="cpu").apply(voxels)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [(1, "cpu")]


def test_a_driver_without_a_gpu_plans_and_finishes_passes_of_workers_with_one(
    scan, tmp_path, machine
):
    machine(0)
    pipeline = Pipeline(name="template", stages=(Template(passes_wanted=1),))
    todo = plan(scan.path, pipeline, None, tmp_path / "out", device="cuda")
    one = next_pass(todo)
    for part in one.missing():
        run_part(replace(one, plan=replace(todo, device="cpu")), part)
    finish_pass(one)
    assert next_pass(todo) is None
