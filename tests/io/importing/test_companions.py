"""Coils, transients, water and scalp: what is more than one FID a voxel."""

from __future__ import annotations

import numpy as np
import pytest

from mrsi_engine.io.importing import changed_since, import_scan
from tests.io.conftest import AFFINE, EXTENSION
from tests.io.importing.conftest import POINTS, SHAPE, every_voxel, rows


class TestCompanions:
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
        with_mask = every_voxel(tmp_path)
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
        store = import_scan(scan, tmp_path / "out", mask=every_voxel(tmp_path), water=water)
        expected = rows(data, np.ones((4, 3, 1), bool))[0].transpose(0, 2, 3, 1)
        found = store.read("water", 0, 24)
        np.testing.assert_allclose(found[:12], expected, rtol=1e-6)
        assert not found[12:].any()
