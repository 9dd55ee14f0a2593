"""Left must stay left, whatever way the scan lies in memory."""

from __future__ import annotations

import io

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread

from mrsi_engine.errors import InputError
from mrsi_engine.report.mosaic import PIXELS_ACROSS, robust_range, view_of
from mrsi_engine.report.png import BACKGROUND, COLOUR_MAPS, indexed_png, palette_of, png, shades

SHAPE = (6, 8, 4)


def scan(
    shape: tuple[int, ...], affine: np.ndarray, inside: np.ndarray | None = None
) -> xr.Dataset:
    kept = np.argwhere(np.ones(shape, bool) if inside is None else inside).astype(np.int32)
    axes = {axis: ("voxel", kept[:, i]) for i, axis in enumerate("xyz")}
    return xr.Dataset(axes, attrs={"shape": list(shape), "affine": affine.tolist()})


def world(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Scanner coordinates ``(x, y, z, 3)`` of every voxel."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


ORIENTATIONS = {
    "RAS": np.diag([8.0, 8, 10, 1]),
    "LPS": np.diag([-8.0, -8, 10, 1]),
    "LAI": np.diag([-8.0, 8, -10, 1]),
    "PSR": np.array([[0, 0, 9.0, 0], [-8, 0, 0, 0], [0, 7, 0, 0], [0, 0, 0, 1]]),
    "oblique": np.array([[-8.0, 1, 0, 0], [1, 7.5, 2, 0], [0.5, -2, 9, 0], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_axial_tiles_are_radiological(name: str) -> None:
    affine, shape = ORIENTATIONS[name], (10, 12, 9)
    place, view = world(shape, affine), view_of(scan(shape, affine))
    rightward, forward, upward = (view.tiles(place[..., i]) for i in range(3))
    assert view.plane == "axial"
    assert view.letters == ("R", "L", "A", "P")
    for right, front in zip(rightward, forward, strict=True):
        assert (np.diff(right, axis=1) < 0).all(), "the patient's right stands on the left"
        assert (np.diff(front, axis=0) < 0).all(), "anterior stands at the top"
    assert (np.diff([tile.mean() for tile in upward]) > 0).all(), "from inferior to superior"


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_slices_are_asked_for_as_they_are_stored(name: str) -> None:
    affine, shape = ORIENTATIONS[name], (6, 8, 4)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    whole = view_of(scan(shape, affine))
    view = whole.showing([3, 1])
    along = index[..., "xyz".index(view.axis)].astype(float)
    assert [set(tile.ravel()) for tile in view.tiles(along)] == [{3.0}, {1.0}]
    for wrong in ([], [-1], [len(whole.numbers)]):
        with pytest.raises(InputError, match=f"slices 0 to {len(whole.numbers) - 1}"):
            whole.showing(wrong)


def test_slabs_are_shown_in_their_plane() -> None:
    affine = ORIENTATIONS["RAS"]
    coronal, sagittal = view_of(scan((9, 1, 9), affine)), view_of(scan((1, 9, 9), affine))
    assert (coronal.plane, coronal.letters) == ("coronal", ("R", "L", "S", "I"))
    assert (sagittal.plane, sagittal.letters) == ("sagittal", ("A", "P", "S", "I"))
    up = coronal.tiles(world((9, 1, 9), affine)[..., 2])[0]
    assert up.shape == (9, 9)
    assert (np.diff(up, axis=0) < 0).all()
    front = sagittal.tiles(world((1, 9, 9), affine)[..., 1])[0]
    assert (np.diff(front, axis=1) < 0).all()
    assert view_of(scan((16, 16, 1), affine)).plane == "axial"
    assert view_of(scan((100, 1, 1), affine)).plane == "axial"


def test_crop_keeps_the_brain_and_a_margin() -> None:
    inside = np.zeros((20, 20, 6), bool)
    inside[5:9, 10:17, 2:4] = True
    view = view_of(scan(inside.shape, ORIENTATIONS["RAS"], inside))
    tiles = view.tiles(inside.astype(float))
    assert len(tiles) == view.slice_count == 2
    assert all(tile.shape == (9, 6) for tile in tiles)
    assert sum(tile.sum() for tile in tiles) == inside.sum()


def test_many_slices_are_thinned_evenly_with_both_ends() -> None:
    view = view_of(scan((30, 30, 50), ORIENTATIONS["RAS"]))
    assert len(view.slices) == 8
    assert (view.slices[0], view.slices[-1]) == (0, 49)
    assert np.ptp(np.diff(view.slices)) <= 1
    assert "8 of 50 slices" in view.caption


def test_caption_states_the_orientation() -> None:
    caption = view_of(scan(SHAPE, ORIENTATIONS["LPS"])).caption
    assert "the patient's right on the left of each image" in caption
    assert "Axial view, all 4 slices" in caption


def test_caption_of_a_single_slice() -> None:
    caption = view_of(scan((6, 8, 1), ORIENTATIONS["LPS"])).caption
    assert "the only slice with data. One square" in caption


def test_pixels_keep_the_proportions_of_the_voxel() -> None:
    affine = np.diag([5.0, 10.0, 10.0, 1])
    view = view_of(scan((8, 8, 1), affine))
    height, width = view.mosaic(np.ones((8, 8, 1), np.uint8)).shape
    assert height / width == pytest.approx(2.0, abs=0.05)
    assert height < 0.8 * PIXELS_ACROSS, "tall maps are made narrower"
    flat = view_of(scan((8, 4, 1), affine))
    height, width = flat.mosaic(np.ones((8, 4, 1), np.uint8)).shape
    assert height / width == pytest.approx(1.0, abs=0.02)
    assert width <= PIXELS_ACROSS


def test_a_row_of_voxels_is_still_visible() -> None:
    view = view_of(scan((100, 1, 1), ORIENTATIONS["RAS"]))
    canvas = view.mosaic(np.ones((100, 1, 1), np.uint8))
    assert (canvas > 0).any(axis=1).sum() >= 24


def test_no_number_shows_the_ground_and_limits_clip() -> None:
    canvas = np.array([[np.nan, -5.0, 0.0, 1.0, 99.0]])
    image = png(shades(canvas, (0.0, 1.0)), "amplitude")
    pixels = imread(io.BytesIO(image), format="png")[0, :, :3]
    ground = [int(BACKGROUND[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    np.testing.assert_allclose(pixels[0], ground, atol=1e-6)
    np.testing.assert_allclose(pixels[1], pixels[2])
    np.testing.assert_allclose(pixels[3], pixels[4])
    assert not np.allclose(pixels[2], pixels[3])


def test_every_row_of_an_image_comes_back() -> None:
    index = np.random.default_rng(1).integers(0, 3, (5, 7)).astype(np.uint8)
    colours = ["#ff0000", "#00ff00"]
    pixels = imread(io.BytesIO(indexed_png(index, palette_of(colours))), format="png")
    assert (pixels[..., 0] == 1).tolist() == (index == 1).tolist()
    assert (pixels[..., 1] == 1).tolist() == (index == 2).tolist()


@pytest.mark.parametrize("kind", COLOUR_MAPS)
def test_no_colour_is_mistaken_for_the_ground(kind: str) -> None:
    ground = np.array([int(BACKGROUND[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    colours = COLOUR_MAPS[kind](np.linspace(0, 1, 256))[:, :3]
    assert np.linalg.norm(colours - ground, axis=1).min() > 0.2


@pytest.mark.parametrize("kind", ["amplitude", "uncertainty", "quality"])
def test_lightness_rises_evenly(kind: str) -> None:
    """Perceptual uniformity, roughly: lightness (Rec. 709 luma of the display) never falls."""
    colours = COLOUR_MAPS[kind](np.linspace(0, 1, 64))[:, :3]
    luma = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(luma) > 0).all()


def test_ranges_resist_outliers() -> None:
    values = np.concatenate([np.linspace(2, 10, 1000), [1e6, np.nan]])
    assert robust_range(values, "quality") == pytest.approx((2.08, 9.93), abs=0.02)
    assert robust_range(values, "amplitude")[0] == 0
    low, high = robust_range(values - 3, "signed")
    assert low == -high
    assert robust_range(np.array([-3.0, 2.0, 5.0]), "amplitude")[0] == 0


def test_a_signed_quantity_that_is_zero_everywhere() -> None:
    assert robust_range(np.zeros(5), "signed") == (-1.0, 1.0)


def test_ranges_of_nothing_and_of_one_value() -> None:
    for values in (np.array([np.nan]), np.array([0.0, 0.0]), np.array([4.0])):
        low, high = robust_range(values, "quality")
        assert high > low


def test_a_scan_without_position_has_no_sides() -> None:
    result = scan((10, 12, 3), ORIENTATIONS["LPS"])
    result.attrs["position_code"] = 0
    view = view_of(result)
    assert not view.placed
    assert view.letters == ("", "", "", "")
    assert "states no position" in view.caption
    assert "patient" not in view.caption
