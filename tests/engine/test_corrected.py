"""Pipelines that quantify nothing: clean signals come out, and raw data may stay raw."""

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from conftest import ACQUISITION, write_scan
from scripted import Moments
from whole_scan import MeanCoil, Scale, Template

from mrsi_engine.conventions import Status
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.lazy import quantify
from mrsi_engine.engine.plan import plan
from mrsi_engine.engine.revisit import repeat_voxels
from mrsi_engine.errors import InputError
from mrsi_engine.io.maps import export_maps
from mrsi_engine.io.nifti_mrs import read_header
from mrsi_engine.io.result_store import open_result
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.io.signals import export_signals
from mrsi_engine.io.tables import voxel_table
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.report.html import write_report

DIMENSIONS = {"coil": 3, "dynamic": 4}


def pipeline_of(*stages):
    return Pipeline(name="correct", stages=stages)


@pytest.fixture
def raw(tmp_path):
    """Twelve voxels of 3 coils and 4 transients, the water with one transient."""
    rng = np.random.default_rng(0)
    places = np.stack(np.unravel_index(np.arange(12), (3, 2, 2)), axis=1)
    scan = ScanStore.create(
        tmp_path / "raw.zarr",
        places,
        ACQUISITION,
        (3, 2, 2),
        np.diag([5.0, 5.0, 10.0, 1.0]),
        dimensions=DIMENSIONS,
        signals={"water": {"coil": 3, "dynamic": 1}},
        header={"dim_5": "DIM_DYN", "dim_6": "DIM_COIL", "ProtocolName": "raw"},
    )
    fids = rng.normal(size=(2, 12, 3, 4, 32))
    signals = (fids[0] + 1j * fids[1]).astype(np.complex64)
    signals[5, 1, 2, 3] = np.nan
    scan.write_fids(0, signals)
    scan.write("water", 0, signals[:, :, :1])
    return ScanStore.open(scan.path)


def test_clean_signals_are_kept_without_being_asked_for(scan, tmp_path):
    run(plan(scan.path, pipeline_of(Scale()), None, tmp_path / "out", block_size=30), workers=0)
    result = open_result(tmp_path / "out")
    good = np.setdiff1d(np.arange(100), [3, 17, 50])
    np.testing.assert_array_equal(result.corrected[good], 2 * scan.read_fids(0, 100)[good])
    assert np.isnan(result.corrected[[3, 17, 50]]).all()
    assert (result.status[good] == Status.CORRECTED).all()
    assert (result.status[[3, 17, 50]] == Status.NO_FIT).all()
    first = 2 * np.abs(scan.read_fids(0, 100)[good, 0])
    np.testing.assert_allclose(result.quality.sel(measure="first")[good], first, rtol=1e-6)


def test_everything_a_run_leaves_copes_with_no_parameters(scan, tmp_path):
    run(plan(scan.path, pipeline_of(Scale()), None, tmp_path / "out"), workers=0)
    result = open_result(tmp_path / "out").load()
    names = {p.name.split("desc-")[1] for p in export_maps(result, tmp_path / "maps")}
    expected = ("first", "status", "flags", "brainmask")
    assert names == {f"{name}_mrsi.nii.gz" for name in expected}
    (file,) = export_signals(result, tmp_path / "signals")
    x, y, z = (int(result[axis][8]) for axis in "xyz")
    written = np.asarray(nib.load(file).dataobj)
    np.testing.assert_array_equal(written[x, y, z], 2 * scan.read_fids(8, 9)[0])
    assert voxel_table(result).num_rows == 100
    page = write_report(result, tmp_path / "report.html").read_text()
    assert "97</strong>voxels corrected" in page
    assert "quantifies nothing" in page
    assert 'id="maps"' not in page


def test_corrected_can_be_kept_by_any_pipeline(scan, tmp_path):
    todo = pipeline_of(Scale(), Template())
    run(plan(scan.path, todo, None, tmp_path / "a", keep=["corrected"]), workers=0)
    kept = open_result(tmp_path / "a").corrected
    np.testing.assert_array_equal(kept[:3], 2 * scan.read_fids(0, 3))
    run(plan(scan.path, todo, None, tmp_path / "b"), workers=0)
    assert "corrected" not in open_result(tmp_path / "b")


def test_a_stage_that_writes_corrected_is_believed(scan, tmp_path):
    todo = pipeline_of(Moments(factor=7.0))
    run(plan(scan.path, todo, None, tmp_path / "out", keep=["corrected"]), workers=0)
    kept = open_result(tmp_path / "out").corrected
    np.testing.assert_allclose(kept[:3], 7 * scan.read_fids(0, 3), rtol=1e-6)


@pytest.mark.parametrize(
    ("stages", "left"), [((Scale(),), ["coil", "dynamic"]), ((MeanCoil(),), ["dynamic"])]
)
def test_raw_data_keep_the_dimensions_the_pipeline_leaves(stages, left, raw, tmp_path):
    todo = pipeline_of(*stages)
    run(plan(raw.path, todo, None, tmp_path / "out", block_size=5), workers=0)
    result = open_result(tmp_path / "out").load()
    fids = raw.read_fids(0, 12)
    expected = 2 * fids if "coil" in left else fids.mean(1)
    good = np.arange(12) != 5
    assert result.corrected.dims == ("voxel", *left, "time")
    np.testing.assert_allclose(result.corrected[good], expected[good], rtol=1e-5)
    assert result.status[5] == Status.NO_FIT
    lazy = quantify(raw, None, todo, block_size=5).compute()
    xr.testing.assert_identical(lazy.drop_attrs(), result.drop_attrs())
    (file,) = export_signals(result, tmp_path / "signals")
    header = read_header(file)
    tags = {"coil": "DIM_COIL", "dynamic": "DIM_DYN"}
    assert [tag for tag, _ in header.higher_dimensions] == [tags[d] for d in left]
    assert header.shape == (3, 2, 2, 32, *(DIMENSIONS[d] for d in left))
    volume = np.asarray(nib.load(file).dataobj)
    np.testing.assert_array_equal(volume[0, 0, 1], np.moveaxis(result.corrected.values[1], -1, 0))


def test_stages_see_dimensions_and_water(raw):
    seen = {}

    class Looks(Scale):
        stage = ""

        def build(self, context):
            inner = super().build(context)

            def apply(block):
                seen["context"] = context
                seen["water"] = block.water.shape
                seen["places"] = block.coordinates.numpy()
                inner(block)

            return apply

    pipeline = Pipeline.model_construct(name="looks", block_size=64, stages=(MeanCoil(), Looks()))
    quantify(raw, None, pipeline).status.compute(scheduler="sync")
    context = seen["context"]
    assert (context.dimensions, context.has_water, context.has_scalp) == (("dynamic",), True, False)
    assert seen["water"][1:] == (3, 1, 32)
    assert {tuple(place) for place in seen["places"]} <= {tuple(p) for p in raw.coordinates()}


def test_a_block_of_raw_data_has_fewer_voxels(tmp_path, raw):
    """As many FIDs, not voxels: 128 over 3 coils and 4 transients."""
    todo = plan(raw.path, pipeline_of(Scale()), None, tmp_path / "out")
    assert todo.store.block_size == 10


def test_voxels_done_again_give_what_the_run_gave(tmp_path):
    scan = write_scan(tmp_path / "scan", bad={3: np.nan})
    todo = plan(scan.path, pipeline_of(Template(), Moments()), None, tmp_path / "out")
    run(todo, workers=0)
    again = repeat_voxels(todo.store, scan, [3, 8, 70])
    result = open_result(tmp_path / "out").isel(voxel=[3, 8, 70])
    np.testing.assert_array_equal(again.estimate, result.estimate)
    assert set(again.signals) == {"corrected", "fit"}
    np.testing.assert_allclose(again.signals["fit"][1], scan.read_fids(8, 9)[0] / 2)


def test_signal_that_nobody_writes_is_refused(scan, tmp_path):
    with pytest.raises(InputError, match=r"no signal \['fit'\]; it writes \['corrected'\]"):
        plan(scan.path, pipeline_of(Scale()), None, tmp_path / "out", keep=["fit"])
