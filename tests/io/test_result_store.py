import errno
import os
import warnings
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr

from mrsi_engine.conventions import Acquisition, Status
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.result_quantities import parameters_of
from mrsi_engine.io.result_store import (
    BlockArrays,
    DiskFullError,
    ResultStore,
    is_result_store,
    open_result,
    remove_result,
)
from mrsi_engine.io.summaries import Summaries
from mrsi_engine.quantities import Declaration, Role, amplitude, lineshape, quality, signal
from mrsi_engine.spectra.basis import Basis

ACQUISITION = Acquisition(points=8, dwell_time=5e-4, spectrometer_frequency=123.25, echo_time=0.03)
DECLARATION = Declaration(
    parameters=(
        amplitude("NAANAAG", "total NAA", role=Role.COMBINATION, title="tNAA", units="as data"),
        lineshape("shift", "Hz", "frequency shift", adds_to="b0shift"),
    ),
    measures=(quality("snr", "1", "signal to noise ratio", fill=0.0),),
    signals=(signal("fit", "modelled FID", "as data"),),
)
VOXELS = 10
PLACES = np.stack([np.arange(VOXELS), np.arange(VOXELS) % 3, np.zeros(VOXELS, int)], axis=1)


def create(path, declaration=DECLARATION, block_size=4, **options):
    return ResultStore.create(
        path, PLACES.astype(np.int32), ACQUISITION, declaration, block_size=block_size, **options
    )


def block(voxels, fill=1.0, declaration=DECLARATION, signals=()):
    shapes = dict.fromkeys(signals, (ACQUISITION.points,))
    arrays = BlockArrays.unfitted(voxels, declaration, shapes)
    for values in (arrays.estimate, arrays.sd, arrays.quality, *arrays.signals.values()):
        values[:] = fill
    arrays.status[:] = Status.LEAST_SQUARES
    return arrays


def test_new_store_is_not_processed_and_nan(tmp_path):
    store = create(tmp_path / "out", attributes={"stem": "sub-01"})
    result = open_result(tmp_path / "out")
    assert (result.status == Status.NOT_PROCESSED).all()
    assert result.status.dtype == np.uint8
    assert np.isnan(result.estimate.values).all()
    assert result.estimate.dtype == np.float32
    assert store.done() == frozenset()
    assert result.attrs["stem"] == "sub-01"


def test_xarray_finds_names_units_and_places_as_coordinates(tmp_path):
    create(tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = xr.open_zarr(tmp_path / "out", consolidated=False, chunks=None).load()
    assert set(result.data_vars) == {"estimate", "sd", "quality", "status", "flags"}
    assert result.unit.sel(parameter="shift").item() == "Hz"
    assert result.title.sel(parameter="NAANAAG").item() == "tNAA"
    assert result.role.sel(parameter="NAANAAG").item() == "combination"
    assert result.adds_to.values.tolist() == ["", "b0shift"]
    assert (result.fill.values[0], result.measure_fill.item()) == (0, 0)
    told = [replace(q, title=q.label) for q in DECLARATION.parameters]
    assert parameters_of(result) == told, "every field comes back"
    assert parameters_of(result.isel(voxel=[0], parameter=[1])) == told[1:]
    assert result.measure_doc.sel(measure="snr").item() == "signal to noise ratio"
    np.testing.assert_array_equal(np.stack([result.x, result.y, result.z], axis=1), PLACES)
    assert result.status.attrs["flag_values"] == [0, 1, 2, 3, 4]
    meanings = "no_fit network network_refined least_squares corrected"
    assert result.status.attrs["flag_meanings"] == meanings


def test_blocks_come_back_in_any_order(tmp_path):
    store = create(tmp_path / "out", signals=["fit"])
    for start, voxels in [(8, 2), (0, 4), (4, 4)]:
        store.write_block(start, block(voxels, fill=start + 1, signals=["fit"]))
    result = open_result(tmp_path / "out")
    expected = np.repeat([1, 5, 9], [4, 4, 2])
    np.testing.assert_array_equal(result.estimate[:, 1], expected)
    np.testing.assert_array_equal(result.fit[:, 3], expected.astype(np.complex64))
    np.testing.assert_allclose(result.time, np.arange(8) * 5e-4)
    assert result.fit.attrs["units"] == "as data"
    assert store.missing() == []


def test_done_is_what_the_disk_says(tmp_path):
    store = create(tmp_path / "out")
    store.write_block(4, block(4))
    (tmp_path / "out" / "status" / "c" / "0.f00d.partial").touch()
    assert ResultStore.open(tmp_path / "out").done() == {1}
    assert store.missing() == [0, 2]


def test_status_is_written_even_when_nothing_could_be_fitted(tmp_path):
    store = create(tmp_path / "out")
    store.write_block(0, BlockArrays.unfitted(4, DECLARATION, {}))
    assert store.done() == {0}
    np.testing.assert_array_equal(store.statuses()[:5], [0, 0, 0, 0, 255])


@pytest.mark.parametrize(("start", "voxels"), [(2, 4), (0, 2), (0, 8), (8, 1)])
def test_unaligned_block_is_refused(tmp_path, start, voxels):
    store = create(tmp_path / "out")
    with pytest.raises(ValueError, match="are not a block of 4"):
        store.write_block(start, block(voxels))
    assert store.done() == frozenset()


@pytest.mark.parametrize("name", ["estimate", "sd", "quality", "status"])
def test_block_counts_as_done_only_when_all_of_it_is_written(tmp_path, monkeypatch, name):
    store = create(tmp_path / "out")
    original = zarr.Array.__setitem__

    def full(array, where, values):
        if array.name == f"/{name}":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(array, where, values)

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(DiskFullError, match=r"disk full: .*make room") as caught:
        store.write_block(0, block(4))
    assert isinstance(caught.value, RunError)
    assert store.done() == frozenset()


def test_other_trouble_with_the_disk_is_not_called_full(tmp_path, monkeypatch):
    store = create(tmp_path / "out")

    def broken(array, where, values):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(zarr.Array, "__setitem__", broken)
    with pytest.raises(OSError, match="Input/output error"):
        store.write_block(0, block(4))


def test_creation_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mrsi_engine.io.result_store._create_tables", full)
    with pytest.raises(DiskFullError):
        create(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_existing_folder_is_not_written_into(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        create(tmp_path / "out")


def test_pipeline_without_parameters_or_measures(tmp_path):
    signals = Declaration(signals=DECLARATION.signals)
    store = create(tmp_path / "out", declaration=signals, signals=["fit"])
    store.write_block(0, block(4, declaration=signals, signals=["fit"]))
    result = open_result(tmp_path / "out").load()
    assert result.sizes["parameter"] == 0
    assert (result.fit[:4] == 1).all()


def test_basis_comes_back_bit_for_bit(tmp_path):
    fids = np.exp(1j * np.arange(16.0)).reshape(2, 8)
    basis = Basis(("NAA", "Cr"), fids, ACQUISITION, sequence="press", source="a file")
    create(tmp_path / "out", basis=basis)
    stored = ResultStore.open(tmp_path / "out").basis()
    assert stored.fingerprint == basis.fingerprint
    assert (stored.acquisition, stored.sequence) == (ACQUISITION, "press")
    assert create(tmp_path / "none").basis() is None


def test_what_is_no_result_store_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such result store"):
        open_result(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="not a result store"):
        open_result(tmp_path / "folder")
    zarr.create_group(tmp_path / "group", attributes={"schema": "mrsi_engine.scan"})
    with pytest.raises(InputError, match=r"schema 'mrsi_engine.scan'"):
        open_result(tmp_path / "group")
    assert not is_result_store(tmp_path / "group")


@pytest.mark.parametrize("version", [1, 99])
def test_another_schema_is_refused(tmp_path, version):
    create(tmp_path / "out").annotate(schema_version=version)
    with pytest.raises(InputError, match=rf"schema version {version}, written by mrsi_engine"):
        open_result(tmp_path / "out")
    assert is_result_store(tmp_path / "out")


def test_only_result_stores_are_removed(tmp_path):
    create(tmp_path / "out")
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="not overwritten; move it away"):
        remove_result(tmp_path / "photos")
    remove_result(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    store = create(tmp_path / "out")
    store.write_block(0, block(4))
    (tmp_path / "out" / "sd" / "c" / "0" / "0.dead.partial").touch()
    (tmp_path / ".out.beef.partial").mkdir()
    (tmp_path / ".other.beef.partial").mkdir()
    assert store.remove_leftovers() == 2
    assert {p.name for p in tmp_path.iterdir()} == {"out", ".other.beef.partial"}
    assert store.done() == {0}


STATE = {
    "template": np.arange(8) * (1 + 2j),
    "threshold": np.float64(0.25).reshape(()),
    "basis": np.zeros((8, 0), np.complex64),
    "found": np.array([True, False]),
}


def test_states_come_back_as_they_were_and_later_steps_win(tmp_path):
    store = create(tmp_path / "out")
    assert not store.has_state(2, 0)
    store.write_state(2, 0, STATE)
    store.write_state(2, 1, {"threshold": np.array(0.5)})
    again = ResultStore.open(tmp_path / "out")
    for name, values in again.state(2, 1).items():
        assert values.dtype == STATE[name].dtype
        np.testing.assert_array_equal(values, STATE[name])
        assert values.shape == STATE[name].shape
    assert again.state(2, 1).keys() == STATE.keys()
    assert again.state(2, 2)["threshold"] == 0.5
    with pytest.raises(RunError, match=r"pass 3 of 3 of stage 3 .* is not done"):
        again.state(2, 3)
    assert os.listdir(tmp_path) == ["out"]


def test_state_that_could_not_be_written_is_not_there(tmp_path, monkeypatch):
    store = create(tmp_path / "out")

    def full(self, name, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.Group, "create_array", full)
    with pytest.raises(DiskFullError, match="disk full"):
        store.write_state(0, 0, STATE)
    assert not store.has_state(0, 0)
    assert os.listdir(tmp_path) == ["out"]


def test_summaries_are_kept_by_run_and_removed_with_leftovers(tmp_path):
    store = create(tmp_path / "out", attributes={"run_fingerprint": "a" * 64})
    summaries = Summaries.of(store, 0, 1)
    assert summaries.missing(3) == [0, 1, 2]
    summaries.write(1, {"file": STATE["template"], "_n": STATE["threshold"]})
    summaries.write(0, {})
    assert summaries.missing(3) == [2]
    assert summaries.read(0) == {}
    back = summaries.read(1)
    assert set(back) == {"file", "_n"}
    np.testing.assert_array_equal(back["file"], STATE["template"])
    assert Summaries.of(store, 0, 0).missing(2) == [0, 1]
    other = store.annotate(run_fingerprint="b" * 64)
    assert Summaries.of(other, 0, 1).missing(2) == [0, 1]
    assert store.remove_leftovers() == 1
    assert os.listdir(tmp_path) == ["out"]
