import errno
import os
import re
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
import zarr

from mrsi_engine.conventions import Acquisition, Status
from mrsi_engine.errors import DamagedError, InputError, RunError
from mrsi_engine.io.files import DiskFullError
from mrsi_engine.io.result_quantities import parameters_of
from mrsi_engine.io.result_schema import BlockArrays
from mrsi_engine.io.result_store import (
    RESULT_STORE,
    ResultStore,
    mend_frame,
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

    monkeypatch.setattr("mrsi_engine.io.result_store.create_coordinates", full)
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
    assert not RESULT_STORE.holds(tmp_path / "group")


@pytest.mark.parametrize("version", [1, 99])
def test_another_schema_is_refused(tmp_path, version):
    create(tmp_path / "out").annotate(schema_version=version)
    with pytest.raises(InputError, match=rf"schema version {version}, written by mrsi_engine"):
        open_result(tmp_path / "out")
    assert RESULT_STORE.holds(tmp_path / "out")


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
    assert not store.states.has(2, 0)
    store.states.write(2, 0, STATE)
    store.states.write(2, 1, {"threshold": np.array(0.5)})
    again = ResultStore.open(tmp_path / "out")
    for name, values in again.states.read(2, 1).items():
        assert values.dtype == STATE[name].dtype
        np.testing.assert_array_equal(values, STATE[name])
        assert values.shape == STATE[name].shape
    assert again.states.read(2, 1).keys() == STATE.keys()
    assert again.states.read(2, 2)["threshold"] == 0.5
    with pytest.raises(RunError, match=r"pass 3 of 3 of stage 3 .* is not done"):
        again.states.read(2, 3)
    assert os.listdir(tmp_path) == ["out"]


def test_state_that_could_not_be_written_is_not_there(tmp_path, monkeypatch):
    store = create(tmp_path / "out")

    def full(self, name, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zarr.Group, "create_array", full)
    with pytest.raises(DiskFullError, match="disk full"):
        store.states.write(0, 0, STATE)
    assert not store.states.has(0, 0)
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


def finished(path, **options):
    """A store of three blocks, all done, with a signal and a basis."""
    fids = np.exp(1j * np.arange(16.0)).reshape(2, 8)
    basis = Basis(("NAA", "Cr"), fids, ACQUISITION, sequence="press", source="a file")
    store = create(path, signals=["fit"], basis=basis, **options)
    for start, voxels in [(0, 4), (4, 4), (8, 2)]:
        store.write_block(start, block(voxels, fill=start + 1, signals=["fit"]))
    return store.annotate(finished="today")


def chunk_of(file):
    """First index of a chunk by its file; none of a folder."""
    return file.parts[file.parts.index("c") + 1] if file.is_file() else None


def cut(file, by=3):
    file.write_bytes(file.read_bytes()[:-by])


def flip(file, at=None):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 16
    file.write_bytes(content)


def fill_with_zeros(file):
    file.write_bytes(bytes(4))


WAYS = {"missing": os.unlink, "cut": cut, "flipped": flip, "zeros": fill_with_zeros}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["estimate", "sd", "quality", "flags", "fit", "status"])
def test_damaged_block_is_named_and_forgotten(tmp_path, name, way):
    store = finished(tmp_path / "out")
    (file,) = (f for f in (store.path / name / "c").rglob("*") if chunk_of(f) == "1")
    WAYS[way](file)
    found = "is missing" if way == "missing" else "is cut short or altered"
    message = f"{file.relative_to(store.path)} {found} (block 1, voxels 4 to 7)"
    with pytest.raises(DamagedError, match=re.escape(f"out: damaged: {message}; run the same")):
        store.check()
    if name != "fit" or way == "missing":
        with pytest.raises(DamagedError, match=re.escape(message)):
            open_result(store.path)
    store, damages = ResultStore.open(store.path).forget_damaged()
    assert [str(damage) for damage in damages] == [message]
    assert store.missing() == [1]
    assert not store.attributes["finished"]
    store.write_block(4, block(4, fill=5, signals=["fit"]))
    store.check()
    np.testing.assert_array_equal(
        open_result(store.path).estimate[:, 0], [1] * 4 + [5] * 4 + [9] * 2
    )


def test_block_of_nothing_but_fill_values_is_no_damage(tmp_path):
    store = create(tmp_path / "out", signals=["fit"])
    shapes = {"fit": (ACQUISITION.points,)}
    for start, voxels in [(0, 4), (4, 4), (8, 2)]:
        store.write_block(start, BlockArrays.unfitted(voxels, DECLARATION, shapes))
    store.check()
    assert store.forget_damaged()[1] == []


def test_unfinished_blocks_are_no_damage_and_are_not_touched(tmp_path):
    store = create(tmp_path / "out")
    store.write_block(4, block(4))
    # A writer is at work on block 0: all but its status is there.
    (tmp_path / "out" / "estimate" / "c" / "0").mkdir(parents=True)
    (tmp_path / "out" / "estimate" / "c" / "0" / "0").write_bytes(b"half")
    store.check()
    assert store.forget_damaged()[1] == []
    assert (tmp_path / "out" / "estimate" / "c" / "0" / "0").read_bytes() == b"half"


def test_forgetting_deletes_nothing_but_the_word_of_the_ledger(tmp_path):
    store = finished(tmp_path / "out")
    cut(store.path / "sd" / "c" / "2" / "0")
    before = {f for f in store.path.rglob("*") if f.is_file()}
    store.forget_damaged()
    assert before - {f for f in store.path.rglob("*") if f.is_file()} == {
        store.path / "status" / "c" / "2"
    }


@pytest.mark.parametrize("way", ["missing", "cut", "flipped"])
def test_damaged_attributes_are_refused_and_nothing_is_lost(tmp_path, way):
    store = finished(tmp_path / "out")
    WAYS[way](store.path / "zarr.json")
    before = sorted(store.path.rglob("*"))
    with pytest.raises(DamagedError, match=r"out: damaged: zarr\.json is .*put the file back"):
        open_result(store.path)
    with pytest.raises(DamagedError, match=r"--overwrite"):
        ResultStore.open(store.path)
    assert sorted(store.path.rglob("*")) == before
    assert RESULT_STORE.holds(store.path)
    remove_result(store.path)


def test_flipped_bits_of_the_attributes_are_seen(tmp_path):
    store = finished(tmp_path / "out", attributes={"affine": np.eye(4).tolist(), "stem": "a"})
    file = store.path / "zarr.json"
    whole = file.read_bytes()
    refused = 0
    for at in range(0, len(whole), 11):
        file.write_bytes(whole)
        flip(file, at)
        try:
            # White space, or a key that Zarr does not miss.
            assert RESULT_STORE.attributes(store.path) == store.attributes
        except InputError:
            refused += 1
    assert refused > 0.8 * len(whole) / 11


FRAME = {
    "estimate/zarr.json": os.unlink,
    "x/c/0": flip,
    "unit/c/0": cut,
    "time/c/0": os.unlink,
    "state/zarr.json": flip,
    "basis/zarr.json": os.unlink,
    "basis/fid/c/0/0": cut,
}


def test_what_a_store_holds_before_its_first_block_is_put_back(tmp_path):
    whole = finished(tmp_path / "whole")
    path = tmp_path / "out"
    shutil.copytree(whole.path, path)

    def create_again(fresh):
        shutil.copytree(whole.path, fresh)

    for file, spoil in FRAME.items():
        spoil(path / file)
        with pytest.raises(DamagedError, match=rf"damaged: {file} is .*run the same command"):
            open_result(path)
        assert [d.file for d in mend_frame(path, create_again)] == [file]
        assert (path / file).read_bytes() == (whole.path / file).read_bytes()
        assert set(os.listdir(tmp_path)) == {"whole", "out"}
    open_result(path)


def test_another_frame_is_not_put_in(tmp_path):
    store = finished(tmp_path / "out")
    cut(store.path / "sd" / "zarr.json")
    with pytest.raises(DamagedError, match=r"sd/zarr.json is cut short or altered; what it holds"):
        mend_frame(store.path, lambda path: create(path, block_size=5))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", ["template/c/0", "threshold/c", "found/zarr.json", "zarr.json"])
def test_damaged_state_is_named_and_forgotten(tmp_path, file, way):
    store = create(tmp_path / "out")
    store.states.write(0, 0, STATE)
    store.states.write(0, 1, STATE)
    assert store.states.damaged() == {}
    WAYS[way](store.path / "state" / "0" / "1" / file)
    message = rf"damaged: state/0/1/{file} is .*pass 2 of stage 1 over the scan.*this pass again"
    with pytest.raises(DamagedError, match=message):
        store.states.read(0, 2)
    _, damages = store.forget_damaged()
    assert [damage.file for damage in damages] == [f"state/0/1/{file}"]
    assert (store.states.has(0, 0), store.states.has(0, 1)) == (True, False)
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("way", WAYS)
def test_damaged_summary_is_missing_and_named(tmp_path, way):
    summaries = Summaries.of(create(tmp_path / "out"), 0, 0)
    for part in range(3):
        summaries.write(part, STATE)
    WAYS[way](summaries.folder / "1.npz")
    assert summaries.missing(3) == [1]
    with pytest.raises(DamagedError, match=r"1\.npz: is .*the summary of part 1 of a pass"):
        summaries.read(1)
