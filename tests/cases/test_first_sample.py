"""The first sample is not at time zero: modelled, or refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.spectra.phantom import PhantomSettings
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


@pytest.mark.case("03", "8 points late, said", "linewidth and SNR of the lines, not of their phase")
def test_linewidth_of_late_fids(engine: Engine, scan: Scan) -> None:
    late = np.ascontiguousarray(scan.data[..., 8:])
    path = scan.save(engine.folder / "scan.nii.gz", late, AcquisitionStartTime=8 * scan.dwell_time)
    assert_linewidths(engine, engine.run(path, "--mask", scan.mask), scan)


@pytest.mark.case("03", "FIDs without echo, and a basis alike", "linewidth and SNR of the lines")
def test_linewidth_of_fids_without_echo(engine: Engine, tmp_path: Path) -> None:
    basis = "fid-3t-te1"
    settings = PhantomSettings(shape=(8, 8, 1), seed=1, snr=40.0)
    simulate_scan(tmp_path / "fid", settings, BasisChoice(basis))
    scan = Scan.of(tmp_path / "fid")
    path = scan.folder / "scan.nii.gz"
    assert_linewidths(engine, engine.run(path, "--mask", scan.mask, basis=basis), scan)


def assert_linewidths(engine: Engine, outcome: Outcome, scan: Scan) -> None:
    """1 Hz of the basis, and about 10 / pi Hz of the phantom's median damping."""
    engine.assert_right(outcome, scan, z=None)
    width, snr = (np.median(outcome.map(q)[scan.brain]) for q in ("fwhm", "snr"))
    engine.found(f"FWHM {width:.3f} ppm, SNR {snr:.0f}")
    assert 3.0 < width * scan.megahertz < 6.0
    assert snr > 35


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


@pytest.mark.case("23", "the first 4 points blanked", "refused: nobody can tell from padding")
def test_blanked(engine: Engine, scan: Scan) -> None:
    data = scan.data.copy()
    data[..., :4] = 0
    path = scan.save(engine.folder / "scan.nii.gz", data)
    engine.assert_refused(
        engine("import", path, "--out", engine.folder / "s"), "first 4 points.*AcquisitionStartTime"
    )


@pytest.mark.case("03", "late or early by 1 to 3 points, not said", "said by how much")
@pytest.mark.parametrize(("points", "code"), [(1, 0), (2, 3), (3, 3), (-1, 0), (-3, 3)])
def test_unsaid(engine: Engine, scan: Scan, points: int, code: int) -> None:
    data = scan.data[..., max(points, 0) :]
    if points < 0:
        # The echo is as symmetric as it is.
        before = scan.data[..., 1 : 1 - points][..., ::-1].conj()
        data = np.concatenate([before, scan.data[..., :points]], axis=3)
    path = scan.save(engine.folder / "scan.nii.gz", np.ascontiguousarray(data))
    outcome = engine.run(path, "--mask", scan.mask)
    said = re.search(r"begin ([\d.]+) ms (later|earlier) than", outcome.text)
    assert said is not None, outcome.text
    engine.found(f"exit {outcome.code}, {said[0]} is said")
    found = float(said[1]) * (1 if said[2] == "later" else -1)
    assert abs(found - 1e3 * points * scan.dwell_time) < 0.05
    assert outcome.code == code
    accepted = engine.run(path, "--mask", scan.mask, "--min-usable", 0)
    assert accepted.code == 0
