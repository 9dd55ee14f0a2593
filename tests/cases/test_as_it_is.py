"""The phantom as it is, and what must not change it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from tests.cases.engine import Engine
from tests.cases.scan import Scan


@pytest.mark.case("00", "the phantom as it is", "right, true error bars, no flags")
def test_as_it_is(engine: Engine, scan: Scan) -> None:
    outcome = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask)
    engine.assert_right(outcome, scan, usable=0.98)


@pytest.mark.case("00", "saved by other software, big-endian complex128", "the same numbers")
def test_another_byte_order(engine: Engine, scan: Scan) -> None:
    path = scan.save(engine.folder / "scan.nii", scan.data.astype(">c16"), image=nib.Nifti1Image)
    plain = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, out="plain")
    other = engine.run(path, "--mask", scan.mask, out="other")
    engine.assert_right(other, scan)
    np.testing.assert_array_equal(other.map("signal", "NAANAAG"), plain.map("signal", "NAANAAG"))


@pytest.mark.case("00", "samples in units of their own, 1e-25 and 1e25", "in those units, flag 0")
@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_units(engine: Engine, scan: Scan, unit: float) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", (scan.data * unit).astype("c8"))
    outcome = engine.run(path, "--mask", scan.mask)
    assert abs(outcome.ratio("NAANAAG", unit * scan.truth("NAANAAG"), scan.brain) - 1) < 0.05
    assert np.mean(outcome.flags(scan.brain) == 0) > 0.9
