"""From NIfTI-MRS to the scan store: every sample, every refusal, nothing left behind."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io import importing, streaming
from mrsi_engine.io.importing import changed_since, import_scan
from mrsi_engine.io.nifti_mrs import read_header
from mrsi_engine.io.scan_store import SCHEMA_VERSION, ScanStore
from tests.io.conftest import AFFINE, write_plain

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
BRAIN = SHARED / "mrsi_3t_brain"
SINGLE_VOXELS = SHARED / "mrsi_3t_te16"
SHAPE = (4, 3, 2)
POINTS = 16
EXTENSION = {"SpectrometerFrequency": [123.25], "ResonantNucleus": ["1H"], "EchoTime": 0.03}
FLAT = [[10, 10, 0, 0], [10, 10, 0, 0], [0, 0, 10, 0], [0, 0, 0, 1]]
AT_ANOTHER_FREQUENCY = {**EXTENSION, "SpectrometerFrequency": [127.7]}


@pytest.fixture
def data(noise):
    """Noise ``(4, 3, 2, 16)``."""
    return noise((*SHAPE, POINTS))


@pytest.fixture
def mask_values():
    """Eight of 24 voxels."""
    return (np.arange(24) % 3 == 0).reshape(SHAPE)


@pytest.fixture
def scan(tmp_path, scan_file, data):
    """A good scan."""
    return scan_file(tmp_path / "scan.nii.gz", data)


@pytest.fixture
def mask(tmp_path, plain_file, mask_values):
    """A good mask."""
    return plain_file(tmp_path / "mask.nii.gz", mask_values)


def rows(volume, mask):
    """Masked voxels of a volume with x fastest, the slow and obvious way."""
    nx, ny, nz = mask.shape
    places = [(x, y, z) for z in range(nz) for y in range(ny) for x in range(nx) if mask[x, y, z]]
    return np.array([volume[p] for p in places]), np.array(places)


def plain_mask(folder):
    """A mask of every voxel."""
    return write_plain(folder / "every.nii", np.ones(SHAPE, bool))


def refused(match, *arguments, **options):
    """An import that ends with InputError and leaves the folder as it was."""
    folder = arguments[0].parent
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=match):
        import_scan(arguments[0], folder / "out.zarr", *arguments[1:], **options)
    assert sorted(folder.rglob("*")) == before


class TestImport:
    def test_store_of_a_scan_with_everything(
        self, tmp_path, scan_file, plain_file, scan, mask, data, mask_values
    ):
        water = scan_file(tmp_path / "water.nii", 100 * data)
        fractions = np.random.default_rng(1).dirichlet([1, 1], SHAPE).astype(np.float32)
        tissue = plain_file(tmp_path / "tissue.nii", fractions)
        store = import_scan(
            scan,
            tmp_path / "new" / "scan.zarr",
            mask=mask,
            water=water,
            tissue=tissue,
            tissue_classes=("gm", "wm"),
            chunk=3,
        )
        fids, places = rows(data, mask_values)
        np.testing.assert_array_equal(store.read_fids(0, 8), fids)
        np.testing.assert_array_equal(store.read("water", 0, 8), rows(100 * data, mask_values)[0])
        np.testing.assert_array_equal(store.read("tissue", 0, 8), rows(fractions, mask_values)[0])
        np.testing.assert_array_equal(store.coordinates(), places)
        assert (store.voxels, store.chunk, store.shape) == (8, 3, SHAPE)
        assert store.acquisition == read_header(scan).acquisition
        assert (store.stem, store.source, store.mask_origin) == ("scan", "scan.nii.gz", "given")
        assert store.header == EXTENSION
        assert os.listdir(tmp_path / "new") == ["scan.zarr"]

    @given(
        shape=st.tuples(*[st.integers(1, 5)] * 3),
        points=st.integers(2, 9),
        dtype=st.sampled_from(["<c8", "<c16"]),
        version=st.sampled_from([1, 2]),
        suffix=st.sampled_from([".nii", ".nii.gz"]),
        chunk=st.integers(1, 20),
        memory_budget=st.sampled_from([1, 2000, 1 << 20]),
        draw=st.data(),
    )
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_every_masked_sample_arrives(
        self, scan_file, plain_file, noise, shape, points, dtype, version, suffix, chunk,
        memory_budget, draw,
    ):  # fmt: skip
        volume = noise((*shape, points), dtype, seed=points)
        chosen = draw.draw(hnp.arrays(bool, shape).filter(np.any))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            store = import_scan(
                scan_file(folder / f"s{suffix}", volume, version=version),
                folder / "out",
                mask=plain_file(folder / "m.nii", chosen),
                chunk=chunk,
                memory_budget=memory_budget,
            )
            fids, places = rows(volume.astype(np.complex64), chosen)
            np.testing.assert_array_equal(store.read_fids(0, store.voxels), fids)
            np.testing.assert_array_equal(store.coordinates(), places)
            assert sorted(os.listdir(folder)) == sorted([f"s{suffix}", "m.nii", "out"])

    def test_big_endian_samples(self, tmp_path, data):
        header = nib.Nifti1Header(endianness=">")
        header.set_data_dtype(">c8")
        image = nib.Nifti1Image(data, np.diag([10, 10, 10, 1]), header)
        image.header["pixdim"][4] = 5e-4
        image.header["intent_name"] = b"mrs_v0_11"
        content = b'{"SpectrometerFrequency": [123.25], "ResonantNucleus": ["1H"]}'
        image.header.extensions.append(nib.nifti1.Nifti1Extension(44, content))
        nib.save(image, tmp_path / "scan.nii")
        assert read_header(tmp_path / "scan.nii").dtype == np.dtype(">c8")
        store = import_scan(tmp_path / "scan.nii", tmp_path / "out")
        np.testing.assert_array_equal(store.read_fids(0, 24), data.reshape(24, POINTS, order="F"))

    def test_without_a_mask_the_water_decides_what_is_head(self, tmp_path, scan_file, noise):
        head = np.zeros((8, 8, 2), bool)
        head[2:6, 2:6] = True
        scan = scan_file(tmp_path / "scan.nii.gz", noise((8, 8, 2, 64)))
        water = scan_file(
            tmp_path / "water.nii.gz", noise((8, 8, 2, 64), seed=1) + 50 * head[..., np.newaxis]
        )
        with_water = import_scan(scan, tmp_path / "a", water=water)
        np.testing.assert_array_equal(with_water.coordinates(), rows(head, head)[1])
        assert with_water.mask_origin == "signal energy"
        assert import_scan(scan, tmp_path / "b").voxels == head.size

    def test_bad_voxels_of_a_mask_are_kept(self, tmp_path, scan_file, plain_file, data):
        data[0, 0, 0, 3], data[1, 0, 0], data[2, 0, 0, 0] = np.nan, 0, np.inf
        scan = scan_file(tmp_path / "scan.nii", data)
        mask = plain_file(tmp_path / "mask.nii", np.ones(SHAPE, np.uint8))
        store = import_scan(scan, tmp_path / "out", mask=mask)
        np.testing.assert_array_equal(store.read_fids(0, 3), data[:3, 0, 0])
        assert store.voxels == 24

    def test_bad_voxels_are_no_signal(self, tmp_path, scan_file, data):
        data[0, 0, 0, 3], data[1, 0, 0], data[2, 0, 0, 0] = np.nan, 0, np.inf
        store = import_scan(scan_file(tmp_path / "scan.nii", data), tmp_path / "out")
        assert store.voxels == 21

    def test_points_cut_the_fids(self, tmp_path, scan, data):
        store = import_scan(scan, tmp_path / "out", points=10)
        assert store.acquisition.points == 10
        np.testing.assert_array_equal(store.read_fids(0, 1), data[:1, 0, 0, :10])

    def test_progress_counts_time_points(self, tmp_path, scan_file, scan, data):
        seen = []
        water = scan_file(tmp_path / "w.nii", data)
        import_scan(scan, tmp_path / "out", water=water, progress=lambda *at: seen.append(at))
        assert seen == [(POINTS, 2 * POINTS), (2 * POINTS, 2 * POINTS)]

    def test_long_scans_are_read_in_runs(self, tmp_path, scan_file, noise):
        """A run is 1 MB: here 5 planes of 204 800 bytes."""
        data, seen = noise((32, 40, 20, 12)), []
        scan = scan_file(tmp_path / "big.nii", data)
        store = import_scan(scan, tmp_path / "out", progress=lambda *at: seen.append(at), points=7)
        assert seen == [(5, 12), (10, 12), (12, 12)]
        fids = data.reshape(-1, 12, order="F")[:, :7]
        np.testing.assert_array_equal(store.read_fids(0, store.voxels), fids)

    def test_single_voxels_of_many_transients_are_read_in_few_runs(self, tmp_path, scan_file):
        data = np.ones((1, 1, 1, 4096, 64), np.complex64)
        extension = {**EXTENSION, "dim_5": "DIM_DYN"}
        scan = scan_file(tmp_path / "svs.nii", data, extension=extension)
        calls = []
        import_scan(scan, tmp_path / "out", progress=lambda *at: calls.append(at))
        assert len(calls) == 2

    def test_checksum_is_of_the_file(self, tmp_path, scan):
        expected = subprocess.run(["sha256sum", scan], capture_output=True, text=True, check=True)
        assert import_scan(scan, tmp_path / "out").checksum == expected.stdout.split()[0]

    def test_a_fifth_dimension_of_one(self, tmp_path, scan_file, data):
        extension = {**EXTENSION, "dim_5": "DIM_DYN"}
        scan = scan_file(tmp_path / "s.nii", data[..., np.newaxis], extension=extension)
        assert import_scan(scan, tmp_path / "out").read_fids(0, 24).shape == (24, POINTS)

    @pytest.mark.parametrize("memory_budget", [1, 1 << 30])
    @pytest.mark.parametrize("tags", [("DIM_COIL", "DIM_DYN"), ("DIM_DYN", "DIM_COIL")])
    def test_coils_and_transients_in_any_order(
        self, tmp_path, scan_file, mask, mask_values, noise, tags, memory_budget
    ):
        lengths = {"DIM_COIL": 2, "DIM_DYN": 3}
        data = noise((*SHAPE, POINTS, *(lengths[tag] for tag in tags)))
        extension = {**EXTENSION, "dim_5": tags[0], "dim_6": tags[1]}
        scan = scan_file(tmp_path / "raw.nii", data, extension=extension)
        options = {"mask": mask, "points": 10, "memory_budget": memory_budget, "chunk": 12}
        store = import_scan(scan, tmp_path / "out", **options)
        wanted = data[..., :10, :, :]
        order = (0, 2, 3, 1) if tags[0] == "DIM_COIL" else (0, 3, 2, 1)
        expected = rows(wanted, mask_values)[0].transpose(order)
        np.testing.assert_array_equal(store.read_fids(0, 8), expected)
        assert store.dimensions == {"coil": 2, "dynamic": 3}
        assert store.chunk == 2
        assert store.to_xarray().fid.dims == ("voxel", "coil", "dynamic", "time")

    @pytest.mark.parametrize("transients", [1, 4])
    def test_water_has_its_own_transients(self, tmp_path, scan_file, noise, transients):
        extension = {**EXTENSION, "dim_5": "DIM_COIL", "dim_6": "DIM_DYN"}
        scan = scan_file(tmp_path / "s.nii", noise((*SHAPE, POINTS, 2, 3)), extension=extension)
        data = noise((*SHAPE, POINTS, 2, transients), seed=1)
        water = scan_file(tmp_path / "w.nii", data, extension=extension)
        store = import_scan(scan, tmp_path / "out", water=water)
        expected = rows(data, np.ones(SHAPE, bool))[0].transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(store.read("water", 0, 24), expected)
        assert store.to_xarray().water.sizes["water_dynamic"] == transients

    @pytest.mark.parametrize("masked", [True, False])
    def test_scalp_outside_the_mask_is_kept_and_flagged(
        self, tmp_path, scan, mask, mask_values, plain_file, data, masked
    ):
        scalp = np.zeros(SHAPE, bool)
        scalp[:, 0] = True
        file = plain_file(tmp_path / "scalp.nii", scalp)
        store = import_scan(scan, tmp_path / "out", mask=mask if masked else None, scalp=file)
        kept = mask_values | scalp if masked else np.ones(SHAPE, bool)
        marked = scalp & ~mask_values if masked else scalp
        fids, places = rows(data, kept)
        np.testing.assert_array_equal(store.coordinates(), places)
        np.testing.assert_array_equal(store.read_fids(0, store.voxels), fids)
        np.testing.assert_array_equal(store.read("scalp", 0, store.voxels), rows(marked, kept)[0])
        changed = changed_since(store.inputs, scan, mask=mask if masked else None)
        assert changed == ["scalp"]
        assert not changed_since(store.inputs, scan, mask=mask if masked else None, scalp=file)

    def test_water_on_a_coarser_grid(self, tmp_path, scan, mask, mask_values, scan_file):
        """Complex FIDs that grow evenly over the head, on voxels twice as large and off by some."""
        cut = np.diag([2.0, 2.0, 2.0, 1.0])
        cut[:3, 3] = -0.7
        index = np.stack(np.meshgrid(*[np.arange(n) for n in (4, 4, 3)], indexing="ij"), -1)
        line = np.exp(np.arange(2 * POINTS) * (0.3j - 0.05))
        growth = np.array([1.0, 2.0, 3.0])
        coarse = ((index @ cut[:3, :3] + cut[:3, 3]) @ growth + 50)[..., None] * line
        water = scan_file(
            tmp_path / "w.nii.gz", coarse.astype(np.complex64), affine=AFFINE @ cut,
            extension={**EXTENSION, "EchoTime": 0.02, "RepetitionTime": 5.0},
        )  # fmt: skip
        places = rows(mask_values, mask_values)[1]
        expected = (places @ growth + 50)[:, None] * line[:POINTS]
        for budget in (1, 1 << 20):
            store = import_scan(
                scan, tmp_path / str(budget), mask=mask, water=water, memory_budget=budget, chunk=3
            )
            np.testing.assert_allclose(store.read("water", 0, 8), expected, rtol=1e-5)
        assert store.notes[-1].startswith(
            "water reference trilinearly interpolated from 4 x 4 x 3 to 4 x 3 x 2 voxels"
        )
        assert store.timing["water"] == {"echo_time": 0.02, "repetition_time": 5.0}

    def test_voxels_beyond_the_water_get_none(self, tmp_path, scan, scan_file, noise):
        coils = noise((2, 3, 2, POINTS), seed=4)
        store = import_scan(scan, tmp_path / "out", water=scan_file(tmp_path / "w.nii", coils))
        # Without a mask the water decides, so only voxels with water are kept.
        expected = rows(coils, np.ones((2, 3, 2), bool))[0]
        np.testing.assert_allclose(store.read("water", 0, store.voxels), expected, rtol=1e-6)
        with_mask = plain_mask(tmp_path)
        store = import_scan(scan, tmp_path / "all", mask=with_mask, water=tmp_path / "w.nii")
        reached = store.coordinates()[:, 0] < 2
        water = store.read("water", 0, 24)
        np.testing.assert_allclose(water[reached], expected, rtol=1e-6)
        assert not water[~reached].any()

    def test_raw_water_on_another_grid(self, tmp_path, scan_file, noise):
        extension = {**EXTENSION, "dim_5": "DIM_COIL", "dim_6": "DIM_DYN"}
        scan = scan_file(tmp_path / "s.nii", noise((*SHAPE, POINTS, 2, 3)), extension=extension)
        data = noise((4, 3, 1, POINTS, 2, 4), seed=1)
        water = scan_file(tmp_path / "w.nii", data, extension=extension)
        store = import_scan(scan, tmp_path / "out", mask=plain_mask(tmp_path), water=water)
        expected = rows(data, np.ones((4, 3, 1), bool))[0].transpose(0, 2, 3, 1)
        found = store.read("water", 0, 24)
        np.testing.assert_allclose(found[:12], expected, rtol=1e-6)
        assert not found[12:].any()

    def test_knows_its_own_inputs(self, tmp_path, scan, mask, plain_file):
        store = import_scan(scan, tmp_path / "out", mask=mask)
        assert changed_since(store.inputs, scan, mask=mask) == []
        assert changed_since(store.inputs, scan) == ["mask"]
        assert changed_since(store.inputs, scan, mask=mask, points=8) == ["points"]
        plain_file(mask, np.ones(SHAPE, np.uint8))
        assert changed_since(store.inputs, scan, mask=mask) == ["mask"]


class TestRefusals:
    def test_not_nifti(self, tmp_path):
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(b"no spectra" * 100)
        refused("not a NIfTI file", path)

    def test_real_data(self, tmp_path, scan_file):
        refused("float32", scan_file(tmp_path / "s.nii", np.ones((2, 2, 1, 8), np.float32)))

    def test_missing_frequency(self, tmp_path, scan_file, data):
        extension = {"ResonantNucleus": ["1H"]}
        refused("SpectrometerFrequency", scan_file(tmp_path / "s.nii", data, extension=extension))

    @pytest.mark.parametrize("tags", [("DIM_DYN", "DIM_DYN"), ("DIM_DYN", "DIM_OTHER")])
    def test_dimensions_other_than_coils_and_transients(self, tmp_path, scan_file, noise, tags):
        extension = {**EXTENSION, **{f"dim_{d}": tag for d, tag in enumerate(tags, 5)}}
        data = noise((2, 2, 2, 8, *range(2, 2 + len(tags))))
        scan = scan_file(tmp_path / "s.nii", data, extension=extension)
        refused(rf"{tags[-1]} of {1 + len(tags)}\); supported are DIM_COIL and DIM_DYN", scan)

    @pytest.mark.parametrize(
        ("tags", "shape"),
        [(("DIM_COIL",), (3,)), ((), ()), (("DIM_COIL", "DIM_DYN"), (3, 2))],
    )
    def test_water_of_other_coils(self, tmp_path, scan_file, noise, tags, shape):
        coils = {**EXTENSION, "dim_5": "DIM_COIL"}
        scan = scan_file(tmp_path / "s.nii", noise((*SHAPE, POINTS, 2)), extension=coils)
        extension = {**EXTENSION, **{f"dim_{d}": tag for d, tag in enumerate(tags, 5)}}
        water = scan_file(tmp_path / "w.nii", noise((*SHAPE, POINTS, *shape)), extension=extension)
        refused("give a reference of the same coils", scan, water=water)

    def test_scalp_inside_the_mask(self, scan, mask):
        refused("every scalp voxel lies in the mask", scan, mask=mask, scalp=mask)

    def test_scalp_that_is_all_there_is(self, tmp_path, scan, plain_file):
        scalp = plain_file(tmp_path / "scalp.nii", np.ones(SHAPE))
        refused("no voxel outside the scalp", scan, scalp=scalp)

    def test_mask_of_another_shape_or_affine(self, scan, plain_file, tmp_path):
        refused("shape", scan, mask=plain_file(tmp_path / "m.nii", np.ones((4, 3, 1), np.uint8)))
        elsewhere = plain_file(tmp_path / "a.nii", np.ones(SHAPE, np.uint8), np.eye(4))
        refused("affine", scan, mask=elsewhere)

    def test_empty_mask(self, scan, plain_file, tmp_path):
        refused("selects no voxel", scan, mask=plain_file(tmp_path / "m.nii", np.zeros(SHAPE)))

    def test_no_signal_at_all(self, tmp_path, scan_file, data):
        refused("no voxel holds a signal", scan_file(tmp_path / "s.nii", 0 * data))

    def test_water_that_lies_elsewhere(self, scan, mask, scan_file, noise, tmp_path):
        elsewhere = AFFINE.copy()
        elsewhere[0, 3] += 500
        water = scan_file(tmp_path / "w.nii", noise((2, 3, 2, POINTS)), affine=elsewhere)
        for options in ({}, {"mask": mask}):
            refused(
                "reaches none of the scan's voxels .its centre is at", scan, water=water, **options
            )

    @pytest.mark.parametrize(
        ("affine", "match"),
        [
            (np.diag([1e4, 1e4, 1e4, 1]), r"its shape is .*, or files that state their position"),
            (FLAT, "its affine .* places no volume in space; give a water"),
        ],
    )
    def test_water_without_a_place(self, scan, scan_file, noise, tmp_path, affine, match):
        water = scan_file(tmp_path / "w.nii", noise((2, 3, 2, POINTS)), affine=affine)
        refused(match, scan, water=water)

    @pytest.mark.parametrize(
        ("name", "points", "changes"),
        [
            ("dwell_time", POINTS, {"pixdim": 4e-4}),
            ("points", POINTS - 1, {}),
            ("spectrometer_frequency", POINTS, {"extension": AT_ANOTHER_FREQUENCY}),
        ],
    )
    def test_water_of_another_acquisition(
        self, scan, scan_file, noise, tmp_path, name, points, changes
    ):
        water = scan_file(tmp_path / "w.nii", noise((*SHAPE, points)), **changes)
        refused(f"water reference with {name}", scan, water=water)

    @pytest.mark.parametrize("points", [1, 17, -3])
    def test_impossible_points(self, scan, points):
        refused("expected 2 to 16", scan, points=points)

    @pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
    def test_truncated_gz(self, tmp_path, scan_file, noise, kept):
        scan = scan_file(tmp_path / "s.nii.gz", noise((8, 8, 2, 64)))
        whole = scan.read_bytes()
        scan.write_bytes(whole[: int(kept * len(whole))])
        refused(r"s\.nii\.gz: truncated or damaged", scan)

    def test_missing_crc(self, tmp_path, scan):
        scan.write_bytes(scan.read_bytes()[:-4])
        refused("truncated or damaged", scan)

    def test_wrong_crc(self, scan):
        raw = bytearray(scan.read_bytes())
        raw[-6] ^= 1
        scan.write_bytes(raw)
        refused("truncated or damaged.*CRC", scan)

    def test_truncated_nii(self, tmp_path, scan_file, data):
        scan = scan_file(tmp_path / "s.nii", data)
        scan.write_bytes(scan.read_bytes()[:-1])
        refused(r"truncated or damaged: .* bytes can hold", scan)

    def test_fewer_points_wanted_do_not_hide_a_truncation(self, tmp_path, scan):
        whole = gzip.decompress(scan.read_bytes())
        scan.write_bytes(gzip.compress(whole[:-8]))
        refused("ends before the last time point", scan, points=4)


class TestOutput:
    def test_existing_store_needs_overwrite(self, tmp_path, scan, mask):
        first = import_scan(scan, tmp_path / "out", mask=mask)
        with pytest.raises(InputError, match="exists already; replace it with --overwrite"):
            import_scan(scan, tmp_path / "out")
        assert ScanStore.open(tmp_path / "out").voxels == first.voxels
        assert import_scan(scan, tmp_path / "out", overwrite=True).voxels == 24
        assert sorted(os.listdir(tmp_path)) == ["mask.nii.gz", "out", "scan.nii.gz"]

    def test_a_failed_overwrite_keeps_the_old_store(self, tmp_path, scan, mask):
        import_scan(scan, tmp_path / "out", mask=mask)
        scan.write_bytes(scan.read_bytes()[:-4])
        with pytest.raises(InputError, match="truncated"):
            import_scan(scan, tmp_path / "out", overwrite=True)
        assert ScanStore.open(tmp_path / "out").voxels == 8

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_something_else_is_never_overwritten(self, tmp_path, scan, overwrite):
        zarr.create_group(tmp_path / "out", attributes={"schema": "mrsi_engine.result"})
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "thesis.txt").write_text("years of work")
        before = sorted(tmp_path.rglob("*"))
        for taken in (tmp_path / "out", tmp_path / "notes", scan):
            with pytest.raises(InputError, match="never overwritten"):
                import_scan(scan, taken, overwrite=overwrite)
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_empty_folder_is_taken(self, tmp_path, scan):
        (tmp_path / "out").mkdir()
        assert import_scan(scan, tmp_path / "out").voxels == 24

    def test_a_store_of_another_version_is_refused_and_replaced(self, tmp_path, scan):
        store = import_scan(scan, tmp_path / "out")
        zarr.open_group(store.path, mode="r+").attrs["schema_version"] = SCHEMA_VERSION - 1
        with pytest.raises(InputError, match="import the scan again"):
            ScanStore.open(store.path)
        assert import_scan(scan, tmp_path / "out", overwrite=True).voxels == 24

    @pytest.fixture
    def nobody(self):
        """The rights of an ordinary user, for a test that root runs."""
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        yield
        os.seteuid(0)

    @pytest.fixture
    def open_folder(self, scan):
        """A folder every user reaches, with the scan in it."""
        with tempfile.TemporaryDirectory(dir="/tmp") as name:
            folder = Path(name)
            folder.chmod(0o755)
            (folder / "scan.nii.gz").write_bytes(scan.read_bytes())
            (folder / "closed").mkdir(mode=0o555)
            yield folder

    def test_no_permission_to_write(self, open_folder, nobody):
        with pytest.raises(InputError, match="no permission to write"):
            import_scan(open_folder / "scan.nii.gz", open_folder / "closed" / "out")

    def test_no_permission_to_read(self, open_folder, request):
        (open_folder / "scan.nii.gz").chmod(0)
        request.getfixturevalue("nobody")
        with pytest.raises(InputError, match="no permission to read"):
            import_scan(open_folder / "scan.nii.gz", open_folder / "out")

    @pytest.fixture
    def small_disk(self, tmp_path):
        """A disk of 256 kB."""
        folder = tmp_path / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a small tmpfs needs root")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    @pytest.mark.parametrize("memory_budget", [1, 1 << 30])
    def test_full_disk(self, tmp_path, scan_file, noise, small_disk, memory_budget, monkeypatch):
        scan = scan_file(tmp_path / "big.nii", noise((8, 8, 8, 128)))
        with pytest.raises(InputError, match=r"8 x 8 x 8 x 128 samples.*kB are free"):
            import_scan(scan, small_disk / "out", memory_budget=memory_budget)
        # Someone else may fill it meanwhile.
        monkeypatch.setattr(importing, "check_room", lambda *_: None)
        with pytest.raises(RunError, match=r"the disk is full.*Free space"):
            import_scan(scan, small_disk / "out", memory_budget=memory_budget)
        assert os.listdir(small_disk) == []

    def test_full_disk_without_root(self, tmp_path, scan, monkeypatch):
        def full(self, plane):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(streaming.Transposer, "append", full)
        with pytest.raises(RunError, match="the disk is full"):
            import_scan(scan, tmp_path / "out")
        assert os.listdir(tmp_path) == ["scan.nii.gz"]


KILLED_IMPORT = """
import os, signal, sys
from mrsi_engine.io.importing import import_scan
kill = lambda done, total: done == total and os.kill(os.getpid(), signal.SIGKILL)
import_scan(sys.argv[1], sys.argv[2], memory_budget=1, progress=kill)
"""


def test_a_killed_import_leaves_nothing_that_looks_done(tmp_path, scan):
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED_IMPORT, scan, out])
    assert killed.returncode == -9
    assert not out.exists()
    assert import_scan(scan, out).voxels == 24


IMPORT_IN_A_PROCESS = """
import resource, sys
from mrsi_engine.io.importing import import_scan
small, big, out = sys.argv[1:4]
import_scan(small, out + "-small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import_scan(big, out, memory_budget=int(sys.argv[4]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_bounded_by_the_budget_and_not_by_the_volume(tmp_path, scan_file, noise):
    budget = 16 << 20
    volume = np.broadcast_to(np.complex64(1 + 1j), (48, 48, 8, 640))
    assert volume.nbytes > 5 * budget
    small = scan_file(tmp_path / "small.nii.gz", noise((4, 4, 4, 64)))
    big = scan_file(tmp_path / "big.nii.gz", volume)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_IN_A_PROCESS, small, big, tmp_path / "out", str(budget)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) * 1024 < 2.5 * budget


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """The real slice with its mask and tissue."""
    return import_scan(
        BRAIN / "mrsi.nii.gz",
        tmp_path_factory.mktemp("brain") / "brain.zarr",
        mask=BRAIN / "mask.nii.gz",
        tissue=BRAIN / "tissue_background_csf_gm_wm.nii.gz",
        tissue_classes=("background", "csf", "gm", "wm"),
    )


@pytest.mark.skipif(not BRAIN.exists(), reason=f"{BRAIN} is missing")
class TestRealBrain:
    def test_naa_stands_at_its_place(self, brain):
        spectra = np.abs(brain.acquisition.spectrum(brain.read_fids(0, brain.voxels))).mean(axis=0)
        ppm = brain.acquisition.ppm
        window = (ppm > 1.7) & (ppm < 2.4)
        assert ppm[window][spectra[window].argmax()] == pytest.approx(2.01, abs=0.05)
        mirrored = (ppm > 2 * 4.65 - 2.4) & (ppm < 2 * 4.65 - 1.7)
        assert spectra[window].max() > 2 * spectra[mirrored].max()

    def test_tissue_fractions_sum_to_one(self, brain):
        np.testing.assert_allclose(brain.read("tissue", 0, brain.voxels).sum(axis=1), 1, atol=1e-6)

    def test_signal_energy_finds_the_excited_box(self, brain, tmp_path):
        found = import_scan(BRAIN / "mrsi.nii.gz", tmp_path / "out").coordinates()
        given = {tuple(place) for place in brain.coordinates()}
        common = sum(tuple(place) in given for place in found)
        assert 2 * common / (len(given) + len(found)) > 0.85


@pytest.mark.skipif(not SINGLE_VOXELS.exists(), reason=f"{SINGLE_VOXELS} is missing")
def test_real_voxels_without_a_position(tmp_path):
    store = import_scan(
        SINGLE_VOXELS / "mrsi.nii.gz",
        tmp_path / "out",
        mask=SINGLE_VOXELS / "mask.nii.gz",
        water=SINGLE_VOXELS / "wref.nii.gz",
    )
    assert store.voxels == 96
    assert any("no position" in note for note in store.notes)
