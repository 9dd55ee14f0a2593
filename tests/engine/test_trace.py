"""Voxels of a finished run between its stages."""

import numpy as np
import pytest
import torch
from conftest import ACQUISITION, write_scan
from scripted import Moments
from whole_scan import MeanCoil, Scale, Template

from mrsi_engine.engine.driver import run
from mrsi_engine.engine.passes import prepare
from mrsi_engine.engine.plan import plan
from mrsi_engine.engine.revisit import repeat_voxels, trace_voxels
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.result_store import open_result
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Stage
from mrsi_engine.stages.averaging import Averaging
from mrsi_engine.stages.eddy_current import EddyCurrent


class Halve(Stage):
    """Writes into the FIDs it was given, and says which noise error bars go by."""

    stage = "test_halve"

    def declare(self, context):
        return Scale().declare(context)

    def build(self, context):
        def apply(block):
            block.fids.mul_(0.5)
            block.noise_sd = block.fids.new_full((len(block.fids),), 7.0).real
            block.measures["first"] = block.fids.flatten(1)[:, 0].abs()

        return apply


def traced(path, scan, voxels, *stages):
    todo = plan(scan.path, Pipeline(name="traced", stages=stages), None, path)
    run(todo, workers=0)
    return todo.store, trace_voxels(todo.store, scan, voxels)


def test_each_stage_sees_what_the_one_before_left(scan, tmp_path):
    voxels = [70, 8]
    store, traces = traced(tmp_path / "out", scan, voxels, Template(), Halve(), Moments())
    raw = np.concatenate([scan.read_fids(v, v + 1) for v in voxels])
    assert [(t.index, t.name, t.changed) for t in traces] == [
        (0, "test_template", False), (1, "test_halve", True), (2, "test_moments", False),
    ]  # fmt: skip
    assert np.array_equal(traces[0].before, raw)
    assert np.array_equal(traces[1].before, raw)
    assert np.array_equal(traces[1].after, raw / 2)
    again = repeat_voxels(store, scan, voxels).signals["corrected"]
    assert np.array_equal(traces[2].before, again)
    assert [t.noise_sd is None for t in traces] == [True, False, True]
    assert traces[1].noise_sd.tolist() == [7.0, 7.0]


def test_the_state_of_its_passes_comes_along(scan, tmp_path):
    _, traces = traced(tmp_path / "out", scan, [8], Scale(), Template())
    good = np.setdiff1d(np.arange(100), [3, 17, 50])
    mean = 2 * scan.read_fids(0, 100)[good].mean(0)
    np.testing.assert_allclose(traces[1].state["mean"], mean, rtol=1e-5)
    assert [q.name for q in traces[1].declaration.measures] == ["scatter", "voxels"]
    scatter = open_result(tmp_path / "out").quality.sel(measure="scatter")[8]
    assert float(traces[1].state["scatter"]) == pytest.approx(float(scatter), rel=1e-6)


def test_dimensions_before_and_after(tmp_path):
    scan = ScanStore.create(
        tmp_path / "raw.zarr", np.zeros((1, 3), int), ACQUISITION, (1, 1, 1), np.eye(4),
        dimensions={"coil": 3, "dynamic": 4},
    )  # fmt: skip
    values = np.random.default_rng(0).normal(size=(1, 3, 4, 64)).view(complex)
    scan.write_fids(0, values.astype(np.complex64))
    stages = MeanCoil(), EddyCurrent(optional=True), Averaging()
    _, (coils, eddy, mean) = traced(tmp_path / "out", ScanStore.open(scan.path), [0], *stages)
    assert coils.dimensions_before == ("coil", "dynamic")
    assert coils.dimensions_after == mean.dimensions_before == ("dynamic",)
    assert (mean.dimensions_after, mean.after.shape) == ((), (1, 32))
    assert eddy.skipped.startswith("the scan has no water reference")
    assert (coils.skipped, mean.skipped, eddy.changed) == ("", "", False)
    assert torch.equal(coils.before.mean(1), coils.after)


def test_voxels_that_reach_no_stage_are_refused(scan, tmp_path):
    with pytest.raises(InputError, match=r"voxels \[1\] of those given .* reach no stage"):
        traced(tmp_path / "out", scan, [8, 17], Scale())


def test_passes_come_first(tmp_path):
    scan = write_scan(tmp_path / "scan")
    todo = plan(scan.path, Pipeline(name="t", stages=(Template(),)), None, tmp_path / "out")
    with pytest.raises(RunError, match="is not done"):
        trace_voxels(todo.store, scan, [0])
    prepare(todo)
    assert len(trace_voxels(todo.store, scan, [0])) == 1
