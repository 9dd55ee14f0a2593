"""What a header announces against what there is, before anything is written."""

from __future__ import annotations

import gzip
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.import_inputs import Request, find_inputs
from mrsi_engine.io.importing import import_scan
from mrsi_engine.io.room import check_room
from tests.io.conftest import random_fids, write_plain, write_scan

Usage = namedtuple("Usage", "total used free")


def inputs_of(scan: Path, mask: Path | None = None, points: int | None = None):
    files = {} if mask is None else {"mask": mask}
    return find_inputs(Request(scan, files, (), 1024, points))


def with_shape(path: Path, shape: tuple[int, ...]) -> Path:
    """A file whose header announces another shape; NIfTI-2 keeps it from byte 16 on."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    dims = np.array([len(shape), *shape, *[1] * (7 - len(shape))], "<i8")
    content[16:80] = dims.tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    return path


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "s.nii.gz", random_fids((4, 4, 2, 64)))


@pytest.fixture
def free(monkeypatch):
    """Pretends that so many bytes are free."""

    def pretend(size):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10 * size, 9 * size, size))

    return pretend


SAMPLES = 4 * 4 * 2 * 64 * 8


def test_room_for_scratch_and_store(tmp_path, scan, free):
    free(2.5 * SAMPLES)
    check_room(inputs_of(scan), tmp_path / "not" / "there", 0)
    free(2.1 * SAMPLES)
    with pytest.raises(InputError, match=r"announces 4 x 4 x 2 x 64 samples.*give a mask"):
        check_room(inputs_of(scan), tmp_path, 0)
    check_room(inputs_of(scan), tmp_path, 1 << 20)
    check_room(inputs_of(scan, points=32), tmp_path, 0)


def test_a_mask_makes_room(tmp_path, scan, free):
    values = np.zeros((4, 4, 2), bool)
    values[0, 0] = True
    free(SAMPLES / 4)
    check_room(inputs_of(scan, write_plain(tmp_path / "m.nii", values)), tmp_path, 0)


def test_more_than_gzip_can_hold(tmp_path, scan):
    with_shape(scan, (500, 500, 50, 64))
    with pytest.raises(InputError, match=r"truncated or damaged.*500 x 500 x 50 x 64"):
        check_room(inputs_of(scan), tmp_path, 0)


def test_gigabytes_of_zeros(tmp_path, scan, monkeypatch):
    monkeypatch.setattr("mrsi_engine.io.bounds._SUSPECT_SIZE", 1 << 20)
    zeros = write_scan(tmp_path / "z.nii.gz", np.zeros((16, 16, 16, 256), np.complex64))
    with pytest.raises(InputError, match="next to nothing but zeros"):
        check_room(inputs_of(zeros), tmp_path, 0)
    check_room(inputs_of(write_scan(tmp_path / "z.nii", np.zeros((16, 16, 16, 256), "c8"))),
               tmp_path, 0)  # fmt: skip


def test_a_time_point_larger_than_memory(tmp_path, scan, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 1024 if name == "SC_PAGE_SIZE" else 0.5)
    with pytest.raises(InputError, match="one time point takes 256 bytes"):
        check_room(inputs_of(scan), tmp_path, 0)


def test_nothing_is_written_where_there_is_no_room(tmp_path, scan, free):
    free(100)
    with pytest.raises(InputError, match="are free"):
        import_scan(scan, tmp_path / "out" / "scan.zarr")
    assert not (tmp_path / "out").exists()
