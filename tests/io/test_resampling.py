"""Resampling by the affines: exact where it has to be, and nothing out of nowhere."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mrsi_engine.io.resampling import Resampling, resampled
from mrsi_engine.io.volumes import Grid

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)


def placed(shape, edges, angles, centre, flip=False) -> Grid:
    """A grid about ``centre`` with any orientation and handedness."""
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * edges
    axes[:, 0] *= -1 if flip else 1
    middle = (np.array(shape) - 1) / 2
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, centre - axes @ middle
    return Grid(shape, affine)


def positions(grid: Grid) -> np.ndarray:
    """Centres of the voxels in file order, mm."""
    index = np.stack(np.unravel_index(np.arange(np.prod(grid.shape)), grid.shape, order="F"), 1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def brought(resampling: Resampling, values: np.ndarray, missing: complex = 0) -> np.ndarray:
    every = np.arange(np.prod(resampling.target.shape))
    known = np.ones(len(values), bool)
    return resampled(resampling.weights(every), values, known, missing)


@given(
    angles=ANGLES,
    other=ANGLES,
    flip=st.booleans(),
    shift=st.tuples(*[st.floats(-5, 5)] * 3),
    edge=st.floats(7, 30),
)
@settings(max_examples=30, deadline=None)
def test_a_linear_field_is_itself_whatever_the_orientation(angles, other, flip, shift, edge):
    """What trilinear interpolation reproduces exactly away from the rim."""
    source = placed((9, 8, 7), (edge, 1.1 * edge, 1.2 * edge), angles, np.zeros(3), flip)
    target = placed((5, 4, 3), (7, 6, 8), other, np.array(shift))
    slope = np.array([0.3, -0.2, 0.1])
    resampling = Resampling(source, target)
    assert not resampling.averages
    field = (positions(source) @ slope + 10) * (1 + 2j)
    found = brought(resampling, field.astype(np.complex64))
    expected = (positions(target) @ slope + 10) * (1 + 2j)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@given(edge=st.floats(4, 40), angles=ANGLES, shift=st.tuples(*[st.floats(-60, 60)] * 3))
@settings(max_examples=30, deadline=None)
def test_a_constant_stays_one_inside_and_nothing_comes_from_outside(edge, angles, shift):
    source = placed((6, 5, 4), (edge,) * 3, angles, np.zeros(3))
    target = placed((5, 5, 5), (10, 10, 10), (0, 0, 0), np.array(shift))
    found = brought(Resampling(source, target), np.full(120, 7, np.float32), np.nan)
    at = np.linalg.solve(source.affine, np.c_[positions(target), np.ones(125)].T).T[:, :3]
    beyond = (np.maximum(-0.5 - at, at - source.shape + 0.5)).max(1) * edge
    reach = 5 * np.sqrt(3)
    np.testing.assert_allclose(found[beyond < -reach], 7, rtol=1e-5)
    assert np.isnan(found[beyond > reach]).all()
    np.testing.assert_allclose(found[np.isfinite(found)], 7, rtol=1e-5)


def test_half_the_edge_length_is_the_usual_case():
    """44 x 44 voxels from 22 x 22 of the same field of view, rim and all."""
    source = placed((2, 1, 1), (10, 10, 10), (0, 0, 0), np.zeros(3))
    target = placed((4, 1, 1), (5, 10, 10), (0, 0, 0), np.zeros(3))
    found = brought(Resampling(source, target), np.array([4.0, 8.0], np.float32))
    np.testing.assert_allclose(found, [4, 5, 7, 8])


def test_needed_is_what_has_a_share():
    source = placed((6, 6, 6), (20, 20, 20), (5, 10, 15), np.zeros(3))
    target = placed((12, 12, 12), (10, 10, 10), (0, 0, 0), np.zeros(3))
    resampling, few = Resampling(source, target), np.array([3, 700, 900])
    with_a_share = np.unique(resampling.weights(few).indices)
    np.testing.assert_array_equal(resampling.needed(few), with_a_share)
    assert 8 <= len(with_a_share) <= 24


def test_unknown_voxels_leave_their_share_to_their_neighbours():
    source = placed((3, 1, 1), (10, 10, 10), (0, 0, 0), np.zeros(3))
    target = placed((6, 1, 1), (5, 10, 10), (0, 0, 0), np.zeros(3))
    weights = Resampling(source, target).weights(np.arange(6))
    values = np.array([np.nan, 6.0, 6.0], np.float32)
    found = resampled(weights, values, np.array([False, True, True]), -1)
    np.testing.assert_allclose(found, [-1, -1, 6, 6, 6, 6])
