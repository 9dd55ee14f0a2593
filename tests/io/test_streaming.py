"""Samples of compressed files: members, padding, and what is cut short or altered."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.nifti_mrs import read_header, write_nifti_mrs
from mrsi_engine.io.streaming import SampleStream
from tests.small_scans import small_basis

SHAPE = (5, 4, 3)


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, np.ndarray]:
    rng, axis = np.random.default_rng(1), small_basis().acquisition
    fids = rng.normal(size=(*SHAPE, axis.points, 2)).astype(np.float32).view(np.complex64)[..., 0]
    return write_nifti_mrs(tmp_path / "scan.nii.gz", fids, axis, np.eye(4)), fids


def samples_of(path: Path) -> np.ndarray:
    with SampleStream(read_header(path)) as stream:
        return np.concatenate(list(stream))


def test_members_one_after_the_other_and_zeros_behind_them(
    scan: tuple[Path, np.ndarray],
) -> None:
    path, fids = scan
    content = gzip.decompress(path.read_bytes())
    third = len(content) // 3
    parts = [content[:third], content[third : 2 * third], content[2 * third :]]
    path.write_bytes(b"".join(map(gzip.compress, parts)) + bytes(1000))
    expected = fids.reshape(-1, fids.shape[-1], order="F").T
    np.testing.assert_array_equal(samples_of(path), expected)


@pytest.mark.parametrize("place", [-4, -8, -1000])
def test_a_byte_that_changed_is_found(scan: tuple[Path, np.ndarray], place: int) -> None:
    path, _ = scan
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="truncated or damaged"):
        samples_of(path)


@pytest.mark.parametrize("left", [-1, -8, -5000])
def test_what_is_cut_short_is_refused(scan: tuple[Path, np.ndarray], left: int) -> None:
    path, _ = scan
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match="truncated or damaged"):
        samples_of(path)


def test_something_else_behind_the_samples_is_refused(scan: tuple[Path, np.ndarray]) -> None:
    path, _ = scan
    path.write_bytes(path.read_bytes() + b"no gzip")
    with pytest.raises(InputError, match="truncated or damaged"):
        samples_of(path)
