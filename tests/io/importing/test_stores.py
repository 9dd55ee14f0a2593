"""From NIfTI-MRS to the scan store: every sample arrives."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrsi_engine.io.importing import changed_since, import_scan
from mrsi_engine.io.nifti_mrs import read_header
from tests.io.conftest import EXTENSION
from tests.io.importing.conftest import POINTS, SHAPE, rows


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

    def test_knows_its_own_inputs(self, tmp_path, scan, mask, plain_file):
        store = import_scan(scan, tmp_path / "out", mask=mask)
        assert changed_since(store.inputs, scan, mask=mask) == []
        assert changed_since(store.inputs, scan) == ["mask"]
        assert changed_since(store.inputs, scan, mask=mask, points=8) == ["points"]
        plain_file(mask, np.ones(SHAPE, np.uint8))
        assert changed_since(store.inputs, scan, mask=mask) == ["mask"]
