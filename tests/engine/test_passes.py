"""Passes over the whole scan: what they find, who does them, and what survives a kill."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from conftest import ACQUISITION, HERE, drive_until_killed, write_scan
from test_blocks import assert_same, maps
from whole_scan import Casorati, Scale, Template, counts

from mrsi_engine.conventions import Status
from mrsi_engine.engine.blocks import run_block
from mrsi_engine.engine.clusters import local_cluster
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.events import PartDone, PassFinished, PassStarted
from mrsi_engine.engine.lazy import quantify
from mrsi_engine.engine.passes import finish_pass, next_pass, parts_of, prepare, run_part
from mrsi_engine.engine.plan import plan
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.result_store import open_result
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import Pipeline

BAD = {3: np.nan, 17: 0, 50: np.inf}


def pipeline_of(*stages):
    return Pipeline(name="passes", stages=stages)


TEMPLATE = pipeline_of(Template())


@pytest.fixture(scope="module")
def processes():
    with local_cluster(2) as client:
        yield client


@pytest.fixture(scope="module")
def threads():
    with local_cluster(1, 3, processes=False) as client:
        yield client


def expected_of(fids):
    """Mean FID and scatter of the good voxels, in numpy."""
    good = np.isfinite(fids).all(1) & fids.any(1)
    mean = fids[good].astype(complex).mean(0)
    return good, mean, np.sqrt((np.abs(fids[good] - mean) ** 2).sum() / good.sum())


def assert_close(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_allclose(first[name], second[name], rtol=2e-6, err_msg=name)


def test_two_steps_find_the_mean_and_the_scatter_around_it(scan, tmp_path):
    todo = plan(scan.path, TEMPLATE, None, tmp_path / "out", block_size=7)
    run(todo, workers=0)
    good, mean, scatter = expected_of(scan.read_fids(0, 100))
    result = open_result(tmp_path / "out")
    np.testing.assert_allclose(result.quality.sel(measure="scatter")[good], scatter, rtol=1e-6)
    assert (result.quality.sel(measure="voxels")[good] == 97).all()
    distance = np.abs(scan.read_fids(0, 100)[good] - mean).mean(1)
    np.testing.assert_allclose(result.estimate[good, 0], distance, rtol=1e-5)
    stored = zarr.open_group(tmp_path / "out" / "state" / "0" / "0", mode="r")
    np.testing.assert_allclose(stored["mean"][:], mean, rtol=1e-12)
    assert set(result.data_vars) == {"estimate", "sd", "quality", "status", "flags"}


@pytest.mark.parametrize("where", ["threads", "processes"])
def test_workers_do_not_matter_at_all(where, tmp_path, request):
    """70 blocks in 64 parts: some parts are one block, some two."""
    scan = write_scan(tmp_path / "scan", voxels=70, bad=BAD)
    pipeline = pipeline_of(Scale(), Template())
    alone = plan(scan.path, pipeline, None, tmp_path / "alone", block_size=1)
    run(alone, workers=0)
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=1)
    run(todo, client=request.getfixturevalue(where))
    assert_same(maps(tmp_path / "alone"), maps(tmp_path / "out"))


@pytest.mark.parametrize("block_size", [1, 13, 64])
def test_block_size_matters_to_rounding_only(block_size, scan, tmp_path):
    for name, size in (("whole", 100), ("cut", block_size)):
        run(plan(scan.path, TEMPLATE, None, tmp_path / name, block_size=size), workers=0)
    assert_close(maps(tmp_path / "whole"), maps(tmp_path / "cut"))


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_lazy_result_is_the_batch_result(scheduler, tmp_path):
    scan = write_scan(tmp_path / "scan", voxels=66, bad=BAD)
    pipeline = pipeline_of(Scale(), Template())
    run(plan(scan.path, pipeline, None, tmp_path / "out", block_size=1), workers=0)
    lazy = quantify(scan.to_xarray(), None, pipeline, block_size=1).compute(scheduler=scheduler)
    assert_same(maps(tmp_path / "out"), {n: lazy[n].values for n in lazy.data_vars})


def test_lazy_passes_see_only_the_part_of_the_scan_they_are_given(scan):
    part = scan.to_xarray().isel(voxel=slice(10, 60, 3))
    found = quantify(part, None, TEMPLATE).compute()
    _, _, scatter = expected_of(part.fid.values)
    good = found.status.values == Status.LEAST_SQUARES
    np.testing.assert_allclose(found.quality.sel(measure="scatter")[good], scatter, rtol=1e-6)


def test_a_pass_sees_what_the_stages_before_leave(scan, tmp_path):
    """Also their states; and a voxel that a stage spoilt enters no summary."""
    pipeline = pipeline_of(Casorati(), Scale(factor=3.0, spoil=11.0), Template())
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=9)
    run(todo, workers=0)
    fids = scan.read_fids(0, 100)
    energy = (np.abs(fids[expected_of(fids)[0]]) ** 2).sum()
    fids[10] = np.nan
    with np.errstate(invalid="ignore"):
        good, _, scatter = expected_of(3 * fids)
    quality = open_result(tmp_path / "out").quality
    np.testing.assert_allclose(quality.sel(measure="energy")[good], energy, rtol=1e-5)
    np.testing.assert_allclose(quality.sel(measure="scatter")[good], scatter, rtol=1e-5)
    assert (quality.sel(measure="voxels")[good] == 96).all()


def test_no_scheduler_at_all(scan, tmp_path):
    todo = plan(scan.path, TEMPLATE, None, tmp_path / "out", block_size=30)
    with pytest.raises(RunError, match=r"pass 1 of 2 of stage 1 .* is not done; prepare the run"):
        run_block(todo, 0)
    prepare(todo)
    for block in todo.store.missing():
        run_block(todo, block)
    run(plan(scan.path, TEMPLATE, None, tmp_path / "run", block_size=30), workers=0)
    assert_same(maps(tmp_path / "out"), maps(tmp_path / "run"))


def test_state_is_reused_by_the_same_run_and_by_no_other(scan, tmp_path):
    (tmp_path / "log").mkdir()
    stage = Template(folder=str(tmp_path / "log"))
    todo = plan(scan.path, pipeline_of(stage), None, tmp_path / "out", block_size=25)
    prepare(todo)
    assert not todo.store.done()
    again = plan(scan.path, pipeline_of(stage), None, tmp_path / "out", block_size=25)
    assert next_pass(again) is None
    run(again, workers=0)
    # Voxels 3, 17 and 50 are bad: the third block begins with 51.
    once = {0: 1, 25: 1, 51: 1, 75: 1}
    for what in ("step0", "step1", "apply"):
        assert counts(tmp_path / "log", what) == once
    other = pipeline_of(Scale(factor=5.0), stage)
    options = {"block_size": 25, "overwrite": True}
    changed = plan(scan.path, other, None, tmp_path / "out", **options)
    assert next_pass(changed).stage == 1
    run(changed, workers=0)
    with np.errstate(invalid="ignore"):
        _, _, scatter = expected_of(5 * scan.read_fids(0, 100))
    np.testing.assert_allclose(open_result(tmp_path / "out").quality[0, 1], scatter, rtol=1e-6)


def test_failed_parts_are_named_and_only_they_are_done_again(scan, tmp_path):
    log = tmp_path / "log"
    log.mkdir()
    (log / "fail").touch()
    pipeline = pipeline_of(Template(folder=str(log), fail_at=31))
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=10)
    message = r"pass 1 of 2 of stage 'test_template' .* failed in 1 of 10 parts"
    with pytest.raises(RunError, match=message) as caught:
        run(todo, workers=0)
    assert "part 3 (voxels 30 to 39): ValueError: scripted failure" in str(caught.value)
    assert not todo.store.done()
    (log / "fail").unlink()
    run(todo, workers=0)
    assert counts(log, "step0") == {v: 2 if v == 30 else 1 for v in counts(log, "step0")}
    assert set(counts(log, "step1").values()) == {1}
    assert sorted(os.listdir(tmp_path)) == ["log", "out", "scan.zarr"]


@pytest.mark.parametrize("step", [0, 1])
def test_driver_killed_in_a_pass_goes_on(step, tmp_path):
    scan = write_scan(tmp_path / "scan", voxels=30)
    log = tmp_path / "log"
    log.mkdir()
    (log / f"kill-in-step{step}").touch()
    pipeline = pipeline_of(Template(folder=str(log)))
    drive_until_killed(scan.path, tmp_path / "out", pipeline)
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=2)
    assert next_pass(todo).step == step
    assert not todo.store.done()
    run(todo, workers=0)
    for done in range(2):
        # 15 blocks, and once more the one that was being summarised when the driver died.
        assert sum(counts(log, f"step{done}").values()) == 15 + (done == step)
    whole = plan(scan.path, TEMPLATE, None, tmp_path / "whole", block_size=2)
    run(whole, workers=0)
    assert_same(maps(tmp_path / "whole"), maps(tmp_path / "out"))
    assert not list(tmp_path.glob(".*.partial"))


def test_one_voxel(tmp_path):
    scan = write_scan(tmp_path / "scan", voxels=1)
    run(plan(scan.path, TEMPLATE, None, tmp_path / "out"), workers=0)
    result = open_result(tmp_path / "out")
    np.testing.assert_allclose(result.quality[0], [0, 1], atol=1e-6)


def test_all_voxels_bad(tmp_path):
    scan = write_scan(tmp_path / "scan", voxels=40, bad=dict.fromkeys(range(40), np.nan))
    pipeline = pipeline_of(Template(), Casorati())
    run(plan(scan.path, pipeline, None, tmp_path / "out", block_size=10), workers=0)
    assert (open_result(tmp_path / "out").status == Status.NO_FIT).all()
    assert (quantify(scan, None, pipeline).compute().status == Status.NO_FIT).all()


def test_scalp_is_summarised_and_nothing_else(tmp_path):
    scan = write_scan(tmp_path / "scan", bad=BAD)
    scalp = np.arange(100) % 4 == 1
    group = zarr.open_group(scan.path, mode="r+")
    group.create_array("scalp", data=scalp, dimension_names=("voxel",))
    scan = ScanStore.open(scan.path)
    run(plan(scan.path, TEMPLATE, None, tmp_path / "out", block_size=9), workers=0)
    result = open_result(tmp_path / "out")
    good, _, scatter = expected_of(scan.read_fids(0, 100))
    fitted = result.status.values == Status.LEAST_SQUARES
    np.testing.assert_array_equal(fitted, good & ~scalp)
    np.testing.assert_allclose(result.quality[:, 0].values[fitted], scatter, rtol=1e-6)
    assert np.isnan(result.estimate.values[scalp]).all()
    np.testing.assert_array_equal(result.scalp, scalp)
    lazy = quantify(scan, None, TEMPLATE, block_size=9).compute()
    xr.testing.assert_identical(lazy.drop_attrs(), result.load().drop_attrs())


def test_events_say_how_far_a_pass_is(scan, tmp_path):
    seen = []
    todo = plan(scan.path, TEMPLATE, None, tmp_path / "out", block_size=40)
    summary = run(todo, workers=0, sinks=[seen.append])
    kinds = [PassStarted] + 3 * [PartDone] + [PassFinished]
    assert [type(event) for event in seen[1:11]] == 2 * kinds
    first, second = (e for e in seen if isinstance(e, PassStarted))
    assert (first.stage, first.step, first.steps) == ("test_template", 1, 2)
    assert (first.pending, first.pending_voxels, second.step) == (3, 100, 2)
    assert [(e.start, e.stop) for e in seen if isinstance(e, PartDone)][:3] == [
        (0, 40),
        (40, 80),
        (80, 100),
    ]
    assert summary.voxels_done == 100
    (timing,) = open_result(tmp_path / "out").attrs["timings"]
    assert 0 < timing["prepare_seconds"] <= timing["seconds"]


def test_stage_that_refuses_the_scan_says_so(scan, tmp_path, threads):
    class Refuses(Template):
        stage = "test_refuses"

        def finish(self, context, summary, step):
            raise InputError("no lipids anywhere")

    todo = plan(scan.path, pipeline_of(Refuses()), None, tmp_path / "out")
    with pytest.raises(InputError, match="no lipids anywhere"):
        run(todo, client=threads)


@pytest.mark.parametrize("blocks", [1, 63, 64, 65, 1000])
def test_parts_hold_every_block_once_in_order(blocks):
    parts = parts_of(blocks)
    assert [block for part in parts for block in part] == list(range(blocks))
    assert len(parts) <= 64
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_travels_is_small(scan, tmp_path):
    todo = plan(scan.path, pipeline_of(Casorati()), None, tmp_path / "out", block_size=30)
    assert len(pickle.dumps(next_pass(todo))) < 1000


def test_parts_may_be_done_twice_and_in_any_order(scan, tmp_path):

    todo = plan(scan.path, TEMPLATE, None, tmp_path / "out", block_size=10)
    first = next_pass(todo)
    for part in (3, 9, 0, 1, 3, 2, 8, 4, 5, 7, 6, 0):
        run_part(first, part)
    finish_pass(first)
    prepare(todo)
    other = plan(scan.path, TEMPLATE, None, tmp_path / "other", block_size=10)
    prepare(other)
    for step in (1, 2):
        assert_same(todo.store.states.read(0, step), other.store.states.read(0, step))


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import whole_scan
from mrsi_engine.engine.passes import prepare
from mrsi_engine.engine.plan import plan
from mrsi_engine.pipeline.pipeline import Pipeline
pipeline = Pipeline(name="gram", block_size=1024, stages=(whole_scan.Casorati(),))
small, big = (plan(scan, pipeline, None, scan + "-out") for scan in sys.argv[2:4])
prepare(small)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare(big)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_scan(tmp_path):
    """40 MB of FIDs in blocks of 2 MB, a Gram matrix of 1 MB of each of the 20 blocks."""
    sizes = {"small": 1024, "big": 20_480}
    paths = []
    for name, voxels in sizes.items():
        scan = write_long_scan(tmp_path / name, voxels, 256)
        paths.append(str(scan.path))
    command = [sys.executable, "-c", MEMORY, str(HERE), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 15


def write_long_scan(path, voxels, points):

    places = np.stack(np.unravel_index(np.arange(voxels), (64, 64, -(-voxels // 4096))), axis=1)
    shape = (64, 64, -(-voxels // 4096))
    scan = ScanStore.create(path, places, ACQUISITION.with_points(points), shape, np.eye(4))
    rng = np.random.default_rng(0)
    fids = torch.complex(*(torch.from_numpy(rng.normal(size=(2, 1024, points))))).numpy()
    for start in range(0, voxels, scan.chunk):
        scan.write_fids(start, fids[: min(scan.chunk, voxels - start)])
    return ScanStore.open(path)
