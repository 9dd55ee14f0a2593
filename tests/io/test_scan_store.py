"""The scan store: what is written comes back, what is not a scan store is refused."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest
import xarray as xr
import zarr

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import DamagedError, InputError
from mrsi_engine.io.integrity import annotate, seal
from mrsi_engine.io.scan_schema import SCHEMA_VERSION
from mrsi_engine.io.scan_store import SCAN_STORE, ScanStore, damaged_files

ACQUISITION = Acquisition(16, 5e-4, 123.25, 4.7, "1H", 0.03, None)
AFFINE = np.array([[-9.8, 0.1, 0, 70], [0.1, 9.7, 1.6, -60], [0, -1.1, 14.9, 52], [0, 0, 0, 1]])
PLACES = np.argwhere(np.ones((5, 3, 2)))


@pytest.fixture
def fids(noise):
    """Thirty FIDs, one of NaN and one of zeros."""
    values = noise((30, 16))
    values[3], values[7] = np.nan, 0
    return values


@pytest.fixture
def store(tmp_path, fids, noise):
    """A store with everything in it, in chunks of 8 voxels."""
    made = ScanStore.create(
        tmp_path / "scan.zarr",
        PLACES,
        ACQUISITION,
        (5, 3, 2),
        AFFINE,
        chunk=8,
        signals={"water": {}},
        volumes={"tissue": np.linspace(0, 1, 60).reshape(30, 2)},
        classes={"tissue": ("gm", "wm")},
        stem="sub-1",
        source="sub-1.nii.gz",
        checksum="abc",
        header={"ProtocolName": "mrsi", "dim": [1, {"a": None}]},
        mask_origin="signal energy",
        notes=("assumed",),
    )
    made.write_fids(0, fids)
    made.write("water", 0, 2 * fids)
    return ScanStore.open(made.path)


class TestRoundTrip:
    def test_arrays(self, store, fids):
        np.testing.assert_array_equal(store.read_fids(0, 30), fids)
        np.testing.assert_array_equal(store.read_fids(5, 21), fids[5:21])
        np.testing.assert_array_equal(store.read("water", 5, 21), 2 * fids[5:21])
        np.testing.assert_array_equal(store.coordinates(), PLACES)
        np.testing.assert_allclose(store.read("tissue", 0, 2), [[0, 1 / 59], [2 / 59, 3 / 59]])
        assert store.read_fids(0, 1).dtype == np.complex64
        assert store.coordinates().dtype == np.int32

    def test_attributes(self, store):
        assert store.acquisition == ACQUISITION
        assert (store.shape, store.voxels, store.chunk) == ((5, 3, 2), 30, 8)
        np.testing.assert_array_equal(store.affine, AFFINE)
        assert store.companions == ("water", "tissue")
        assert store.classes == {"tissue": ("gm", "wm")}
        assert (store.stem, store.source, store.checksum) == ("sub-1", "sub-1.nii.gz", "abc")
        assert store.header == {"ProtocolName": "mrsi", "dim": [1, {"a": None}]}
        assert store.mask_origin == "signal energy"
        assert store.notes == ("assumed",)

    def test_without_water_and_tissue(self, tmp_path, fids):
        bare = ScanStore.create(tmp_path / "bare.zarr", PLACES, ACQUISITION, (5, 3, 2), AFFINE)
        bare.write_fids(0, fids)
        opened = ScanStore.open(bare.path)
        assert opened.chunk == 30
        assert opened.read("water", 0, 3) is None
        assert opened.read("tissue", 0, 3) is None
        np.testing.assert_array_equal(opened.read_fids(0, 30), fids)

    def test_goes_to_a_worker(self, store, fids):
        copy = pickle.loads(pickle.dumps(store))
        np.testing.assert_array_equal(copy.read_fids(8, 16), fids[8:16])

    def test_xarray_opens_it_with_names_and_units(self, store, fids):
        dataset = store.to_xarray()
        assert dataset.fid.dims == ("voxel", "time")
        assert set(dataset.coords) == {"x", "y", "z", "time", "tissue_class"}
        assert dataset.time.attrs["units"] == "s"
        np.testing.assert_allclose(dataset.time, ACQUISITION.time)
        assert dataset.tissue.sel(tissue_class="wm").shape == (30,)
        np.testing.assert_array_equal(dataset.fid, fids)
        assert dataset.attrs["units"]["spectrometer_frequency"] == "MHz"
        assert isinstance(xr.open_zarr(store.path, consolidated=False), xr.Dataset)


class TestWriting:
    @pytest.mark.parametrize(("start", "count"), [(0, 7), (4, 8), (8, 12)])
    def test_parts_of_chunks_are_refused(self, tmp_path, fids, start, count):
        new = ScanStore.create(tmp_path / "a", PLACES, ACQUISITION, (5, 3, 2), AFFINE, chunk=8)
        with pytest.raises(ValueError, match="chunks of 8"):
            new.write_fids(start, fids[:count])

    def test_opened_stores_are_read_only(self, store, fids):
        with pytest.raises(ValueError, match="read-only"):
            store.write_fids(0, fids)

    def test_create_never_touches_what_is_there(self, store, tmp_path, fids):
        with pytest.raises(InputError, match="exists already"):
            ScanStore.create(store.path, PLACES, ACQUISITION, (5, 3, 2), AFFINE)
        np.testing.assert_array_equal(store.read_fids(0, 30), fids)


class TestOpen:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(InputError, match="no such scan store"):
            ScanStore.open(tmp_path / "absent.zarr")

    def test_a_file_and_an_empty_folder(self, tmp_path):
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder").mkdir()
        for name in ("file", "folder"):
            with pytest.raises(InputError, match=f"{name}: not a scan store"):
                ScanStore.open(tmp_path / name)
            assert not SCAN_STORE.holds(tmp_path / name)

    def test_another_zarr_group(self, tmp_path):
        zarr.create_group(tmp_path / "other", attributes={"schema": "mrsi_engine.result"})
        with pytest.raises(InputError, match=r"not a scan store .schema 'mrsi_engine\.result'"):
            ScanStore.open(tmp_path / "other")
        assert not SCAN_STORE.holds(tmp_path / "other")

    @pytest.mark.parametrize("version", [1, SCHEMA_VERSION + 1])
    def test_another_version(self, store, version):
        changed = {"schema_version": version, "engine_version": "9.9"}
        annotate(zarr.open_group(store.path, mode="r+"), changed)
        message = rf"version {version}, written by mrsi_engine 9\.9; .* import the scan again"
        with pytest.raises(InputError, match=message):
            ScanStore.open(store.path)
        assert SCAN_STORE.holds(store.path)

    @pytest.mark.parametrize("name", ["fid", "x", "time"])
    def test_a_missing_variable(self, store, name):
        del zarr.open_group(store.path, mode="r+")[name]
        with pytest.raises(DamagedError, match=rf"{name}/zarr\.json is missing; run the same"):
            ScanStore.open(store.path)

    @pytest.mark.parametrize("name", ["dwell_time", "affine", "header"])
    def test_a_missing_attribute(self, store, name):
        group = zarr.open_group(store.path, mode="r+")
        del group.attrs[name]
        with pytest.raises(DamagedError, match=r"zarr\.json is cut short or altered"):
            ScanStore.open(store.path)
        seal(store.path, group)
        with pytest.raises(InputError, match=f"lacks '{name}'"):
            ScanStore.open(store.path)

    def test_variables_of_different_length(self, store):
        group = zarr.open_group(store.path, mode="r+")
        group["y"].resize((29,))
        seal(store.path, group)
        with pytest.raises(InputError, match="y has 29 voxels, fid has 30"):
            ScanStore.open(store.path)

    def test_metadata_cut_short(self, store):
        metadata = store.path / "zarr.json"
        metadata.write_text(metadata.read_text()[:100])
        with pytest.raises(DamagedError, match=r"zarr\.json is cut short or altered; run the same"):
            ScanStore.open(store.path)
        assert SCAN_STORE.holds(store.path)


def chunk(store, name, *place):
    return store.path.joinpath(name, "c", *map(str, place))


class TestDamage:
    def test_none(self, store):
        assert damaged_files(store.path) == []

    @pytest.mark.parametrize("name", ["fid", "water"])
    def test_a_chunk_that_is_missing(self, store, name):
        chunk(store, name, 1, 0).unlink()
        message = (
            rf"damaged: {name}/c/1/0 is missing \(voxels 8 to 15\); run the same command again"
        )
        with pytest.raises(DamagedError, match=message):
            ScanStore.open(store.path)
        read = store.read_fids if name == "fid" else partial(store.read, "water")
        assert len(read(0, 8)) == 8
        with pytest.raises(DamagedError, match=message):
            read(8, 16)

    def test_chunks_that_are_torn_or_altered(self, store):
        torn, altered = chunk(store, "fid", 3, 0), chunk(store, "water", 0, 0)
        torn.write_bytes(torn.read_bytes()[:50])
        content = bytearray(altered.read_bytes())
        content[30] ^= 4
        altered.write_bytes(content)
        assert [str(damage) for damage in damaged_files(store.path)] == [
            "fid/c/3/0 is cut short or altered (voxels 24 to 29)",
            "water/c/0/0 is cut short or altered (voxels 0 to 7)",
        ]
        opened = ScanStore.open(store.path)
        with pytest.raises(DamagedError, match=r"fid/c/3/0 is cut short or altered"):
            opened.read_fids(20, 30)
        with pytest.raises(DamagedError, match=r"water/c/0/0 is cut short or altered"):
            opened.read("water", 0, 2)

    @pytest.mark.parametrize("name", ["x", "time", "tissue"])
    def test_tables(self, store, name):
        (file,) = (f for f in (store.path / name / "c").rglob("*") if f.is_file())
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(DamagedError, match=rf"{name}/c/.* is cut short or altered"):
            ScanStore.open(store.path)

    def test_a_chunk_of_zeros_is_there(self, tmp_path):
        made = ScanStore.create(tmp_path / "a", PLACES, ACQUISITION, (5, 3, 2), AFFINE, chunk=8)
        made.write_fids(0, np.zeros((30, 16), np.complex64))
        assert damaged_files(made.path) == []
        assert not ScanStore.open(made.path).read_fids(0, 30).any()
