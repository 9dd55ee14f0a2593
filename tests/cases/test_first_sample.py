"""The first sample is not at time zero: modelled, or refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases.engine import SINGLETS, Engine, Outcome
from tests.cases.scan import Scan


def assert_right_or_refused(engine: Engine, outcome: Outcome, scan: Scan) -> None:
    if outcome.code == 2:
        engine.assert_refused(outcome, "AcquisitionStartTime|first sample|before the FID|delay")
    else:
        engine.assert_right(outcome, scan)


@pytest.mark.case("03", "sampling began after the echo, said", "ratio 0.95 to 1.05, or refused")
@pytest.mark.parametrize("points", [1, 2, 4])
def test_late(engine: Engine, scan: Scan, points: int) -> None:
    path = scan.save(
        engine.folder / "scan.nii.gz",
        np.ascontiguousarray(scan.data[..., points:]),
        AcquisitionStartTime=points * scan.dwell_time,
    )
    assert_right_or_refused(engine, engine.run(path, "--mask", scan.mask), scan)


@pytest.mark.case("03", "late by half a point, said", "ratio 0.95 to 1.05, or refused")
def test_late_by_a_fraction(engine: Engine, scan: Scan) -> None:
    # Every other sample from the second on: late by half the dwell time that is left.
    path = scan.save(
        engine.folder / "scan.nii.gz",
        np.ascontiguousarray(scan.data[..., 1::2]),
        dwell_time=2 * scan.dwell_time,
        AcquisitionStartTime=scan.dwell_time,
    )
    whole = scan.save(
        engine.folder / "whole.nii.gz",
        np.ascontiguousarray(scan.data[..., ::2]),
        dwell_time=2 * scan.dwell_time,
    )
    late = engine.run(path, "--mask", scan.mask)
    if late.code == 2:
        engine.assert_refused(late, "AcquisitionStartTime")
        return
    same = engine.run(whole, "--mask", scan.mask, out="whole")
    # Both fold the same water; what matters is that the delay changes nothing.
    where = scan.brain
    for label in SINGLETS:
        ratio = late.ratio(label, same.map("signal", label), where)
        engine.found(f"{label} over that of the scan without delay {ratio:.3f}")
        assert abs(ratio - 1) < 0.05


@pytest.mark.case("03", "8 points of noise before the echo, said", "ratio 0.95 to 1.05, or refused")
def test_early(engine: Engine, scan: Scan) -> None:
    before = scan.noise(*scan.data.shape[:3], 8)
    path = scan.save(
        engine.folder / "scan.nii.gz",
        np.concatenate([before, scan.data[..., :-8]], axis=3).astype("c8"),
        AcquisitionStartTime=-8 * scan.dwell_time,
    )
    assert_right_or_refused(engine, engine.run(path, "--mask", scan.mask), scan)


@pytest.mark.case("03", "start time that is no time in s", "refused")
@pytest.mark.parametrize("stated", [1.6, "1.6 ms", True, -3.2])
def test_no_time(engine: Engine, scan: Scan, stated: object) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", AcquisitionStartTime=stated)
    engine.assert_refused(engine("import", path, "--out", engine.folder / "s"), "StartTime")


@pytest.mark.case("23", "a digital filter's points before the FID", "found and removed, or refused")
@pytest.mark.parametrize("points", [68, 30])
def test_group_delay(engine: Engine, scan: Scan, points: int) -> None:
    before = 0.01 * scan.noise(*scan.data.shape[:3], points)
    data = np.concatenate([before, scan.data[..., :-points]], axis=3).astype("c8")
    path = scan.save(engine.folder / "scan.nii.gz", data)
    assert_right_or_refused(engine, engine.run(path, "--mask", scan.mask), scan)
