import dataclasses
import pickle
import threading

import numpy as np
import pytest
import scripted
import torch
from conftest import ACQUISITION, write_scan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrsi_engine.conventions import Status
from mrsi_engine.engine.blocks import run_block
from mrsi_engine.engine.finish import finalise
from mrsi_engine.engine.plan import Plan, default_block_size, plan
from mrsi_engine.engine.procedure import procedure_for
from mrsi_engine.engine.voxels import Voxels
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.result_schema import SCHEMA_VERSION
from mrsi_engine.io.result_store import open_result
from mrsi_engine.pipeline.pipeline import Pipeline

MOMENTS = Pipeline(name="moments", stages=(scripted.Moments(),))


def run_all(plan):
    return [run_block(plan, block) for block in plan.store.missing()]


def maps(path):
    dataset = open_result(path).load()
    return {name: dataset[name].values for name in dataset.data_vars}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_results_are_what_the_stage_wrote(scan, basis, tmp_path):
    todo = plan(scan.path, MOMENTS, basis, tmp_path / "out.zarr", block_size=30)
    receipts = run_all(todo)
    result = open_result(tmp_path / "out.zarr")
    fids = scan.read_fids(0, 100)
    good = result.status.values == Status.LEAST_SQUARES
    assert set(np.flatnonzero(~good)) == {3, 17, 50}
    mean = result.estimate.sel(parameter="mean").values
    np.testing.assert_allclose(mean[good], np.abs(fids[good]).mean(axis=1), rtol=1e-5)
    energy = (np.abs(fids[good]) ** 2).sum(axis=1)
    np.testing.assert_allclose(result.quality.values[good, 0], energy, rtol=1e-5)
    assert [r.voxels for r in receipts] == [30, 30, 30, 10]
    assert all(0 < r.kernel_seconds <= r.seconds for r in receipts)


def test_bad_voxels_get_no_fit_and_nan(scan, tmp_path):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=1, keep=["fit"])
    run_all(todo)
    result = open_result(tmp_path / "out").isel(voxel=[3, 17, 50])
    assert (result.status == Status.NO_FIT).all()
    for name in ("estimate", "sd", "quality", "fit"):
        assert np.isnan(result[name].values).all(), name


def test_voxel_a_stage_gave_up_is_nan(tmp_path):
    class GivesUp(scripted.Moments):
        stage = ""

        def build(self, context):
            inner = super().build(context)

            def apply(block):
                inner(block)
                block.status[1] = Status.NO_FIT

            return apply

    pipeline = Pipeline.model_construct(name="p", stages=(GivesUp(),))
    procedure = procedure_for(ACQUISITION, pipeline, None)
    fids = write_scan(tmp_path / "scan", voxels=4).read_fids(0, 4)
    arrays, _ = procedure.apply(Voxels(fids))
    assert np.isnan(arrays.estimate[1]).all()
    assert np.isnan(arrays.sd[1]).all()
    assert np.isfinite(arrays.estimate[[0, 2, 3]]).all()
    assert np.isfinite(arrays.quality[1]).all()


def test_stage_that_forgets_what_it_declared_is_named():
    class Forgets(scripted.Moments):
        stage = ""

        def build(self, context):
            return lambda block: None

    pipeline = Pipeline.model_construct(name="p", stages=(Forgets(),))
    with pytest.raises(RunError, match="'mean' but wrote no estimate"):
        procedure_for(ACQUISITION, pipeline, None).apply(Voxels(np.ones((2, 32), np.complex64)))


def test_bad_water_counts_as_none():
    seen = {}

    class Looks(scripted.Moments):
        stage = ""

        def build(self, context):
            inner = super().build(context)

            def apply(block):
                seen["water"] = block.water.clone()
                inner(block)

            return apply

    water = np.ones((3, 32), np.complex64)
    water[1, 5] = np.nan
    pipeline = Pipeline.model_construct(name="looks", stages=(Looks(),))
    procedure_for(ACQUISITION, pipeline, None).apply(
        Voxels(np.ones((3, 32), np.complex64), {"water": water})
    )
    assert seen["water"].dtype == torch.complex64
    np.testing.assert_array_equal(seen["water"].numpy()[:, 0], [1, 0, 1])


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(block_size=st.integers(7, 130), order=st.randoms(use_true_random=False))
def test_any_block_size_and_order_give_the_same_maps(block_size, order, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    scan = write_scan(folder / "scan", bad={3: np.nan})
    whole = plan(scan.path, MOMENTS, None, folder / "whole", block_size=100)
    run_all(whole)
    todo = plan(scan.path, MOMENTS, None, folder / "cut", block_size=block_size)
    blocks = todo.store.missing()
    order.shuffle(blocks)
    for block in blocks:
        run_block(todo, block)
    assert_same(maps(folder / "whole"), maps(folder / "cut"))


def test_blocks_done_twice_change_nothing(scan, tmp_path):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=30)
    run_all(todo)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    for block in range(4):
        run_block(todo, block)
    assert before == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_same_run_is_taken_up(scan, basis, tmp_path):
    first = plan(scan.path, MOMENTS, basis, tmp_path / "out", block_size=30)
    run_block(first, 2)
    again = plan(scan.path, MOMENTS, basis, tmp_path / "out", block_size=30)
    assert again == first
    assert again.store.missing() == [0, 1, 3]
    assert Plan.open(tmp_path / "out") == first


def test_moved_scan_is_taken_up_where_it_is_now(scan, tmp_path):
    plan(scan.path, MOMENTS, None, tmp_path / "out")
    scan.path.rename(tmp_path / "moved.zarr")
    again = plan(tmp_path / "moved.zarr", MOMENTS, None, tmp_path / "out")
    assert again.scan == str(tmp_path / "moved.zarr")
    run_all(again)
    assert finalise(again).finished


def changed_factor(scan, basis, folder):
    return {"pipeline": Pipeline(name="moments", stages=(scripted.Moments(factor=2.5),))}


def changed_stages(scan, basis, folder):
    twice = (scripted.Script(folder=str(folder)), scripted.Moments())
    return {"pipeline": Pipeline(name="moments", stages=twice)}


def changed_basis(scan, basis, folder):
    return {"basis": basis.scaled(2.0)}


def changed_scan(scan, basis, folder):
    return {"scan_path": write_scan(folder / "other.zarr", seed=5).path}


def changed_water(scan, basis, folder):
    inputs = {"scan": "seed 0", "water": "another file", "chunk": 8}
    return {"scan_path": write_scan(folder / "watered", inputs=inputs).path}


def changed_block_size(scan, basis, folder):
    return {"block_size": 31}


def changed_signals(scan, basis, folder):
    return {"keep": ["fit"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_factor, r"pipeline stage test_moments: factor 1.0 -> 2.5"),
        (
            changed_stages,
            r"pipeline stages \['test_moments'\] -> \['test_script', 'test_moments'\]",
        ),
        (changed_basis, "basis '"),
        (changed_scan, "scan source checksum 'seed 0' -> 'seed 5'"),
        (changed_water, r"scan input water 'a file' -> 'another file'"),
        (changed_block_size, "block size 30 -> 31"),
        (changed_signals, r"kept signals \[\] -> \['fit'\]"),
    ],
)
def test_another_run_is_refused_and_named_and_may_be_overwritten(
    change, message, scan, basis, tmp_path
):
    common = {"scan_path": scan.path, "pipeline": MOMENTS, "basis": basis, "block_size": 30}
    first = plan(**common, result_path=tmp_path / "out")
    run_all(first)
    changed = {**common, **change(scan, basis, tmp_path)}
    with pytest.raises(InputError, match=message) as caught:
        plan(**changed, result_path=tmp_path / "out")
    assert "--overwrite" in str(caught.value)
    assert Plan.open(tmp_path / "out") == first
    assert not first.store.missing()
    replaced = plan(**changed, result_path=tmp_path / "out", overwrite=True)
    assert replaced.fingerprint != first.fingerprint
    assert len(replaced.store.missing()) == replaced.store.blocks


def test_overwrite_takes_up_the_same_run(scan, tmp_path):
    first = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=30)
    run_block(first, 0)
    again = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=30, overwrite=True)
    assert again.store.missing() == [1, 2, 3]


@pytest.mark.parametrize("overwrite", [False, True])
def test_folder_that_is_something_else_is_left_alone(scan, tmp_path, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("do not delete")
    with pytest.raises(InputError, match="not a result store"):
        plan(scan.path, MOMENTS, None, tmp_path / "out", overwrite=overwrite)
    with pytest.raises(InputError, match="not a result store"):
        plan(scan.path, MOMENTS, None, scan.path, overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.txt").exists()
    assert scan.path.exists()


def test_store_of_a_newer_version_is_refused_but_may_be_overwritten(scan, tmp_path):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out")
    todo.store.annotate(schema_version=99)
    with pytest.raises(InputError, match="schema version 99"):
        plan(scan.path, MOMENTS, None, tmp_path / "out")
    replaced = plan(scan.path, MOMENTS, None, tmp_path / "out", overwrite=True)
    assert replaced.store.attributes["schema_version"] == SCHEMA_VERSION


def test_run_replaced_meanwhile_is_noticed(scan, tmp_path):
    old = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=30)
    other = Pipeline(name="moments", stages=(scripted.Moments(factor=3.0),))
    plan(scan.path, other, None, tmp_path / "out", block_size=30, overwrite=True)
    with pytest.raises(RunError, match="replaced by another run"):
        run_block(old, 0)


def test_unknown_signal_and_double_parameter_are_refused(scan, tmp_path):
    with pytest.raises(
        InputError, match=r"no signal \['baseline'\]; it writes \['corrected', 'fit'"
    ):
        plan(scan.path, MOMENTS, None, tmp_path / "out", keep=["baseline"])
    double = Pipeline(name="double", stages=(scripted.Moments(), scripted.Moments(factor=2.0)))
    with pytest.raises(InputError, match="name 'mean' would be that of 'mean' of stage"):
        plan(scan.path, double, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_finalise_says_what_is_missing_and_cleans_up(scan, tmp_path):
    todo = plan(scan.path, MOMENTS, None, tmp_path / "out", block_size=30)
    run_block(todo, 1)
    leftover = tmp_path / "out" / "sd" / "c" / "1" / "0.abc.partial"
    leftover.touch()
    half = finalise(todo)
    assert half.missing == (0, 2, 3)
    assert half.statuses[Status.NOT_PROCESSED] == 70
    assert leftover.exists()
    assert "finished" not in todo.store.attributes
    run_all(todo)
    whole = finalise(todo, {"seconds": 1.0})
    assert whole.finished
    assert whole.statuses == {Status.NO_FIT: 3, Status.LEAST_SQUARES: 97}
    assert not leftover.exists()
    attributes = open_result(tmp_path / "out").attrs
    assert attributes["status_counts"] == {"no_fit": 3, "least_squares": 97}
    assert attributes["timings"] == [{"seconds": 1.0}]


def test_tables_are_built_once_by_many_threads(scan, tmp_path):
    pipeline = Pipeline(
        name="once", stages=(scripted.Script(folder=str(tmp_path)), scripted.Moments())
    )
    todo = plan(scan.path, pipeline, None, tmp_path / "out", block_size=5)
    threads = [threading.Thread(target=run_block, args=(todo, i)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert finalise(todo).finished
    assert len(list(tmp_path.glob("built-*"))) == 1


def test_what_travels_with_a_task_is_small(scan, basis, tmp_path):
    todo = plan(scan.path, MOMENTS, basis, tmp_path / "out", block_size=30)
    assert len(pickle.dumps(todo)) < 1000
    assert len(pickle.dumps(run_block(todo, 0))) < 500


def test_basis_comes_from_the_store_on_the_scans_axis(scan, basis, tmp_path):
    long = dataclasses.replace(
        basis,
        fids=np.pad(basis.fids, ((0, 0), (0, 32)), constant_values=1e-3),
        acquisition=ACQUISITION.with_points(64),
    )
    todo = plan(scan.path, MOMENTS, long, tmp_path / "out")
    stored = todo.store.basis()
    assert stored.names == ("NAA", "Cr")
    np.testing.assert_array_equal(stored.fids, long.matched_to(scan.acquisition).fids)
    assert todo.store.attributes["basis"]["fingerprint"] == long.fingerprint


@pytest.mark.parametrize(
    ("voxels", "expected"), [(10, 128), (1500, 128), (16_000, 1000), (500_000, 2048)]
)
def test_small_scans_get_smaller_blocks(voxels, expected):
    assert default_block_size(MOMENTS, voxels) == expected
