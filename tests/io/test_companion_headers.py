"""What headers say of companions, asked before anything is read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.companions import CompanionFiles
from mrsi_engine.errors import InputError
from mrsi_engine.io.companion_headers import companion_headers
from mrsi_engine.io.nifti_mrs import read_header, write_volume


def test_headers_of_signals_are_returned(phantom: Path) -> None:
    scan = read_header(phantom / "scan.nii.gz")
    tissue = {name: str(phantom / f"{name}.nii.gz") for name in ("gm", "wm", "csf")}
    files = {name: str(phantom / f"{name}.nii.gz") for name in ("mask", "water")}
    found = companion_headers(
        scan, {**files, "tissue": tissue}, stated={"water": {"RepetitionTime": 4}}
    )
    assert list(found) == ["water"]
    assert found["water"].acquisition.repetition_time == 4


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("mask", (6, 6, 1, 2), "mask has 3 dimensions"),
        ("mask", (5, 6, 1), "not on the scan's grid"),
        ("scalp", (5, 6, 1), "not on the scan's grid"),
        ("tissue", (6, 6, 1, 3), "holds 3 tissue classes but 2 names"),
        ("water", (6, 6, 1), "expected complex64"),
    ],
)
def test_what_does_not_fit_is_refused(
    phantom: Path, tmp_path: Path, name: str, shape: tuple[int, ...], said: str
) -> None:
    scan = read_header(phantom / "scan.nii.gz")
    path = write_volume(tmp_path / "x.nii.gz", np.ones(shape, np.float32), scan.grid.affine)
    with pytest.raises(InputError, match=re.escape(said)):
        companion_headers(scan, {name: path}, ("gm", "wm"))


def test_a_file_a_class_is_of_fractions_only(phantom: Path) -> None:
    scan = read_header(phantom / "scan.nii.gz")
    files: dict[str, CompanionFiles] = {"mask": {"a": phantom / "mask.nii.gz"}}
    with pytest.raises(InputError, match="mask: expected one file, 1 were given"):
        companion_headers(scan, files)
