"""Where voxels are: k-space, positions that are not stated, affines that are not orthogonal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.cases.engine import Engine
from tests.cases.scan import Scan


def corner(scan: Scan) -> np.ndarray:
    return scan.data[4:7, 4:7, 1:2]


def first_map(folder: Path) -> Any:
    return nib.load(next((folder / "maps").glob("*_met-NAANAAG_desc-signal_mrsi.nii.gz")))


@pytest.mark.case("14", "kSpace true in any dimension", "refused")
@pytest.mark.parametrize(
    "k_space", [[True, True, False], [False, False, True], [True, True, True], True]
)
def test_k_space(engine: Engine, scan: Scan, k_space: object) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan), kSpace=k_space)
    engine.assert_refused(engine("import", path, "--out", engine.folder / "s"), "kSpace")


@pytest.mark.case("14", "kSpace false", "imported")
def test_no_k_space(engine: Engine, scan: Scan) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan), kSpace=[False] * 3)
    assert engine("import", path, "--out", engine.folder / "s").code == 0


@pytest.mark.case("20", "no sform, no qform", "maps with codes 0")
def test_no_position(engine: Engine, scan: Scan) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan), sform=0, qform=0)
    outcome = engine.run(path)
    header = first_map(outcome.folder).header
    codes = int(header["sform_code"]), int(header["qform_code"])
    engine.found(f"sform and qform codes {codes}")
    assert codes == (0, 0)


@pytest.mark.case("20", "a sheared affine", "sform kept; a qform that cannot hold it has code 0")
def test_sheared(engine: Engine, scan: Scan) -> None:
    affine = scan.affine.copy()
    affine[:3, 1] += 0.3 * affine[:3, 0]
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan), affine=affine, qform=0)
    image = first_map(engine.run(path).folder)
    engine.found(f"sform kept, qform code {int(image.header['qform_code'])}")
    np.testing.assert_allclose(image.get_sform(), affine, atol=1e-3)
    assert int(image.header["qform_code"]) == 0


@pytest.mark.case("20", "a left-handed affine", "comes out as it went in")
def test_left_handed(engine: Engine, scan: Scan) -> None:
    affine = scan.affine @ np.diag([-1.0, 1, 1, 1])
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan), affine=affine)
    image = first_map(engine.run(path).folder)
    np.testing.assert_allclose(image.affine, affine, atol=1e-3)
    np.testing.assert_allclose(image.get_sform(), affine, atol=1e-3)


@pytest.mark.case("20", "sform and qform disagree", "said which was used")
def test_two_positions(engine: Engine, scan: Scan) -> None:
    path = scan.save(engine.folder / "scan.nii", corner(scan))
    image = nib.load(path)
    moved = scan.affine.copy()
    moved[0, 3] += 7.0
    image.set_qform(moved, code=1)
    nib.save(image, engine.folder / "two.nii")
    outcome = engine.run(engine.folder / "two.nii")
    np.testing.assert_allclose(first_map(outcome.folder).affine, scan.affine, atol=1e-3)
    assert "qform" in outcome.written
