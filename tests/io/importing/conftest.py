"""A small scan with its mask, and what should arrive of it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.io.conftest import write_plain

SHAPE = (4, 3, 2)
POINTS = 16


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


def every_voxel(folder):
    """A mask of every voxel."""
    return write_plain(folder / "every.nii", np.ones(SHAPE, bool))
