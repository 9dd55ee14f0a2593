"""Tissue fractions: names, what is refused, and files on another grid."""

from __future__ import annotations

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.tissue import read_tissue
from mrsi_engine.io.volumes import Grid
from tests.io.conftest import AFFINE

GRID = Grid((4, 3, 2), AFFINE)


def test_four_dimensions_are_named_by_option(tmp_path, plain_file):
    values = np.random.default_rng(0).dirichlet([2, 2, 1], (4, 3, 2)).astype(np.float32)
    path = plain_file(tmp_path / "t.nii", values)
    found = read_tissue(path, ("csf", "gm", "wm"), GRID)
    assert (found.classes, found.notes) == (("csf", "gm", "wm"), ())
    np.testing.assert_array_equal(found.values, values)


def test_separate_files(tmp_path, plain_file):
    files = {
        name: plain_file(tmp_path / f"{name}.nii", np.full((4, 3, 2), value, np.float32))
        for name, value in (("gm", 0.25), ("wm", 0.75))
    }
    found = read_tissue(files, (), GRID)
    assert found.classes == ("gm", "wm")
    assert found.values.shape == (4, 3, 2, 2)
    assert found.values[0, 0, 0].tolist() == [0.25, 0.75]


@pytest.mark.parametrize("names", [(), ("gm", "wm")])
def test_names_that_do_not_match(tmp_path, plain_file, names):
    path = plain_file(tmp_path / "t.nii", np.zeros((4, 3, 2, 3), np.float32))
    with pytest.raises(InputError, match=rf"3 tissue classes but {len(names)} names"):
        read_tissue(path, names, GRID)


@pytest.mark.parametrize("value", [50.0, -1.0])
def test_percent_are_no_fractions(tmp_path, plain_file, value):
    path = plain_file(tmp_path / "t.nii", np.full((4, 3, 2), value, np.float32))
    with pytest.raises(InputError, match="expected fractions of 0 to 1"):
        read_tissue({"gm": path}, (), GRID)


def finer(factor: int) -> np.ndarray:
    """Affine of a grid that cuts each voxel of :data:`GRID` into ``factor**3``."""
    cut = np.eye(4)
    cut[:3, :3] /= factor
    cut[:3, 3] = 0.5 / factor - 0.5
    return AFFINE @ cut


def test_finer_fractions_are_averaged_over_each_voxel(tmp_path, plain_file):
    values = np.random.default_rng(0).random((20, 15, 10)).astype(np.float32)
    found = read_tissue({"gm": plain_file(tmp_path / "t.nii", values, finer(5))}, (), GRID)
    means = values.reshape(4, 5, 3, 5, 2, 5).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(found.values[..., 0], means, rtol=1e-5)
    assert found.notes[0] == (
        "tissue fractions averaged over each voxel's box from 20 x 15 x 10 to 4 x 3 x 2 voxels by "
        "the affines"
    )


def test_voxels_that_the_file_does_not_reach_or_know_are_nan(tmp_path, plain_file):
    values = np.full((5, 15, 10), 0.5, np.float32)
    values[:, :5, :5] = np.nan
    path = plain_file(tmp_path / "t.nii", values, finer(5))
    found = read_tissue({"gm": path}, (), GRID, voxels=np.arange(20)).values[..., 0]
    expected = np.full((4, 3, 2), np.nan, np.float32)
    expected[0] = 0.5
    expected[0, 0, 0] = np.nan
    expected[0, 2, 1] = np.nan
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_fractions_of_another_head(tmp_path, plain_file):
    elsewhere = finer(5)
    elsewhere[0, 3] += 1000
    path = plain_file(tmp_path / "t.nii", np.zeros((20, 15, 10), np.float32), elsewhere)
    with pytest.raises(InputError, match=r"reaches none of the scan's voxels; check that it was"):
        read_tissue({"gm": path}, (), GRID)


def test_fractions_that_overlap_are_refused(tmp_path, plain_file):
    values = np.zeros((4, 3, 2, 3), np.float32)
    values[..., 0], values[..., 2] = 0.7, 1.0
    path = plain_file(tmp_path / "t.nii", values)
    with pytest.raises(InputError, match=r"sum to up to 1.7, to more than 1 in 24 of 24 voxels"):
        read_tissue(path, ("gm", "wm", "csf"), GRID)
    # What is not wanted does not count.
    values[1:, ..., 2] = 0.3
    path = plain_file(tmp_path / "rest.nii", values)
    wanted = np.flatnonzero(np.arange(24) % 4)
    assert read_tissue(path, ("gm", "wm", "csf"), GRID, wanted).notes == ()


def test_fractions_that_lack_a_class_are_told(tmp_path, plain_file):
    values = np.full((4, 3, 2), 0.4, np.float32)
    values[0, 0, 0] = np.nan
    files = {n: plain_file(tmp_path / f"{n}.nii", values) for n in ("gm", "wm")}
    short, unknown = read_tissue(files, (), GRID).notes
    assert short.startswith("tissue fractions sum to less than 0.9 in 23 of 23 voxels")
    assert unknown == "tissue fractions are not known in 1 of 24 voxels"


def test_a_class_stands_once(tmp_path, plain_file):
    path = plain_file(tmp_path / "t.nii", np.full((4, 3, 2, 2), 0.5, np.float32))
    with pytest.raises(InputError, match="a name stands twice"):
        read_tissue(path, ("gm", "gm"), GRID)
