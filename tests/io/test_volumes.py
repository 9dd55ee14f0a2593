"""Masks and tissue fractions, and when two volumes share a grid."""

from __future__ import annotations

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.volumes import GRID_TOLERANCE, Grid, read_mask

AFFINE = np.array([[-9.8, 0.1, 0, 70], [0.1, 9.7, 1.6, -60], [0, -1.1, 14.9, 52], [0, 0, 0, 1]])
GRID = Grid((4, 3, 2), AFFINE)


def moved(millimetres, axis=0):
    affine = AFFINE.copy()
    affine[axis, 3] += millimetres
    return affine


class TestGrid:
    def test_tolerance_is_a_share_of_the_smallest_voxel_edge(self):
        allowed = GRID_TOLERANCE * np.linalg.norm(AFFINE[:3, :3], axis=0).min()
        assert GRID.difference(Grid(GRID.shape, moved(0.99 * allowed))) is None
        assert "affine" in GRID.difference(Grid(GRID.shape, moved(1.01 * allowed)))

    def test_a_small_rotation_counts_at_the_far_corner(self):
        turned = AFFINE.copy()
        turned[:3, 0] *= 1.2
        assert "mm" in GRID.difference(Grid(GRID.shape, turned))

    def test_an_affine_of_nan_is_never_the_same(self):
        assert GRID.difference(Grid(GRID.shape, np.full((4, 4), np.nan))) is not None

    def test_another_shape(self):
        assert "(4, 3, 1)" in GRID.difference(Grid((4, 3, 1), AFFINE))

    def test_a_scan_that_states_no_position_is_compared_by_shape(self):
        nowhere = Grid((4, 3, 2), np.diag([1e4, 1e4, 1e4, 1]))
        assert nowhere.difference(Grid((4, 3, 2), np.eye(4))) is None
        assert nowhere.difference(Grid((4, 2, 3), np.eye(4))) is not None


class TestMask:
    @pytest.mark.parametrize("label", [1, 2, 255])
    def test_whole_numbers_above_zero_count(self, tmp_path, plain_file, label):
        values = np.zeros((4, 3, 2), np.float32)
        values[0, 1, 1], values[3, 2, 0], values[1, 0, 0] = 1, label, np.nan
        mask, notes = read_mask(plain_file(tmp_path / "m.nii.gz", values), GRID)
        assert np.argwhere(mask).tolist() == [[0, 1, 1], [3, 2, 0]]
        assert notes == []

    @pytest.mark.parametrize(("scale", "threshold"), [(1, "0.5"), (100, "50"), (255, "127.5")])
    def test_fractions_count_from_a_half_on(self, tmp_path, plain_file, scale, threshold):
        values = np.zeros((4, 3, 2), np.float32)
        values[0, 1, 1], values[3, 2, 0], values[1, 0, 0], values[2, 0, 0] = 0.5, 1, 0.3, 0.495
        mask, (note,) = read_mask(plain_file(tmp_path / "m.nii.gz", scale * values), GRID)
        assert np.argwhere(mask).tolist() == [[0, 1, 1], [3, 2, 0]]
        assert f"2 voxels of {threshold} and more count, 2 below do not" in note

    def test_resampled_labels_are_no_percents(self, tmp_path, plain_file):
        values = np.zeros((4, 3, 2), np.float32)
        values[0, 1, 1], values[3, 2, 0], values[1, 0, 0] = 1, 3, 1.7
        assert read_mask(plain_file(tmp_path / "m.nii.gz", values), GRID)[0].sum() == 3

    def test_a_mask_of_small_fractions_says_what_it_is(self, tmp_path, plain_file):
        path = plain_file(tmp_path / "m.nii", np.full((4, 3, 2), 0.3, np.float32))
        with pytest.raises(InputError, match=r"none reaches 0\.5 \(the largest is 0\.3\)"):
            read_mask(path, GRID)

    def test_a_trailing_dimension_of_one(self, tmp_path, plain_file):
        path = plain_file(tmp_path / "m.nii", np.ones((4, 3, 2, 1), np.uint8))
        assert read_mask(path, GRID)[0].shape == (4, 3, 2)

    @pytest.mark.parametrize("values", [0, np.nan])
    def test_empty(self, tmp_path, plain_file, values):
        path = plain_file(tmp_path / "m.nii", np.full((4, 3, 2), values, np.float32))
        with pytest.raises(InputError, match=r"m\.nii: the mask selects no voxel"):
            read_mask(path, GRID)

    @pytest.mark.parametrize(
        ("shape", "affine"), [((4, 3, 1), AFFINE), ((3, 4, 2), AFFINE), ((4, 3, 2), moved(5))]
    )
    def test_another_grid(self, tmp_path, plain_file, shape, affine):
        path = plain_file(tmp_path / "m.nii", np.ones(shape, np.uint8), affine)
        with pytest.raises(InputError, match=r"m\.nii: not on the scan's grid"):
            read_mask(path, GRID)

    def test_complex_data(self, tmp_path, plain_file, noise):
        path = plain_file(tmp_path / "m.nii", noise((4, 3, 2)))
        with pytest.raises(InputError, match="expected real numbers"):
            read_mask(path, Grid((20, 20, 20), AFFINE))

    def test_truncated(self, tmp_path, plain_file, noise):
        path = plain_file(tmp_path / "m.nii.gz", noise((20, 20, 20)).real)
        path.write_bytes(path.read_bytes()[:-12])
        with pytest.raises(InputError, match=r"m\.nii\.gz: truncated or damaged"):
            read_mask(path, Grid((20, 20, 20), AFFINE))
