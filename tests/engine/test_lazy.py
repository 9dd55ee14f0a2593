import dask
import numpy as np
import pytest
import scripted
import xarray as xr
from conftest import write_scan
from test_blocks import MOMENTS, run_all

from mrsi_engine.engine.clusters import local_cluster
from mrsi_engine.engine.lazy import quantify
from mrsi_engine.engine.plan import plan
from mrsi_engine.errors import InputError
from mrsi_engine.io.result_store import open_result
from mrsi_engine.pipeline.pipeline import Pipeline

SIGNALS = ["corrected", "fit"]
OF_THE_RUN = {"identity", "run_fingerprint", "scan", "stage_modules"}


@pytest.fixture
def batch(scan, basis, tmp_path):
    todo = plan(scan.path, MOMENTS, basis, tmp_path / "out", block_size=30, keep=SIGNALS)
    run_all(todo)
    return open_result(tmp_path / "out").load()


@pytest.mark.parametrize("scheduler", ["sync", "threads", "distributed"])
@pytest.mark.parametrize("block_size", [1, 33, None])
def test_lazy_result_is_the_batch_result(scheduler, block_size, scan, basis, batch):
    lazy = quantify(scan.to_xarray(), basis, MOMENTS, block_size=block_size, keep=SIGNALS)
    assert all(v.chunks is not None for v in lazy.data_vars.values())
    if scheduler == "distributed":
        with local_cluster(1, 2, processes=False) as client, client.as_current():
            computed = lazy.compute(scheduler=client)
    else:
        computed = lazy.compute(scheduler=scheduler)
    expected = batch.drop_attrs(deep=False).assign_attrs(
        {name: value for name, value in batch.attrs.items() if name not in OF_THE_RUN}
    )
    xr.testing.assert_identical(computed, expected)


def test_nothing_is_computed_before_values_are_asked_for(scan, tmp_path):
    script = scripted.Script(folder=str(tmp_path))
    pipeline = Pipeline(name="counted", stages=(script, scripted.Moments()))
    lazy = quantify(scan, None, pipeline, block_size=50)
    assert not scripted.runs(tmp_path)
    lazy.compute(scheduler="threads")
    # Voxel 50 is bad: the second block begins with 51 for the stages.
    assert scripted.runs(tmp_path) == {0: 1, 51: 1}
    assert len(list(tmp_path.glob("built-*"))) == 1


def test_part_of_a_scan(scan, batch):
    part = quantify(scan.to_xarray().isel(voxel=slice(10, 60, 3)), None, MOMENTS)
    np.testing.assert_array_equal(part.estimate, batch.estimate[10:60:3])
    np.testing.assert_array_equal(part.x, batch.x[10:60:3])


def test_recipe_stands_once_in_the_graph(scan, basis):
    def size(block_size):
        lazy = quantify(scan, basis, MOMENTS, block_size=block_size)
        graph = lazy.estimate.data.__dask_graph__()
        procedures = [key for key in graph if str(key).startswith("procedure-")]
        assert len(procedures) == 1
        return len(graph)

    # Open, read, compute and cut: what is left grows by a few nodes a block.
    assert size(10) - size(100) <= 9 * 4


def test_water_reaches_the_stages(tmp_path):
    scan = write_scan(tmp_path / "scan", water=True)

    class Scale(scripted.Moments):
        stage = ""

        def build(self, context):
            inner = super().build(context)

            def apply(block):
                inner(block)
                block.measures["energy"] = block.water.abs()[:, 0]

            return apply

    pipeline = Pipeline.model_construct(name="scale", block_size=64, stages=(Scale(),))
    result = quantify(scan, None, pipeline).quality.compute(scheduler="sync")
    np.testing.assert_array_equal(result[:, 0], np.arange(100) + 1)


def test_follows_the_active_scheduler(scan):
    used = []

    def spy(graph, keys, **options):
        used.append(keys)
        return dask.get(graph, keys, **options)

    with dask.config.set(scheduler=spy):
        quantify(scan, None, MOMENTS).status.compute()
    assert used


def test_what_is_no_scan_is_refused(scan):
    with pytest.raises(InputError, match="the Dataset lacks fid, x, y, z"):
        quantify(xr.Dataset(), None, MOMENTS)
    with pytest.raises(InputError, match="16 time points, its attribute points says 32"):
        quantify(scan.to_xarray().isel(time=slice(16)), None, MOMENTS)
