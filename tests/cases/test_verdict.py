"""Scans that nobody should use say so."""

from __future__ import annotations

import numpy as np
import pytest

from mrsi_engine.conventions import Flag
from tests.cases.engine import Engine
from tests.cases.scan import Scan


@pytest.mark.case("18", "all zeros with a valid header", "exit not 0, flagged NO_SIGNAL")
@pytest.mark.parametrize("with_mask", [True, False])
def test_empty(engine: Engine, scan: Scan, with_mask: bool) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", 0 * scan.data)
    outcome = engine.run(path, *(("--mask", scan.mask) if with_mask else ()))
    assert outcome.code != 0
    if with_mask:
        assert np.all(outcome.flags(scan.brain) & Flag.NO_SIGNAL)


@pytest.mark.case("18", "half of the voxels zero or NaN", "those flagged, the rest right")
def test_half_empty(engine: Engine, scan: Scan) -> None:
    data = scan.data.copy()
    voxels = np.argwhere(scan.brain)
    for x, y, z in voxels[:30]:
        data[x, y, z] = 0
    for x, y, z in voxels[30:50]:
        data[x, y, z, 5] = np.nan
    outcome = engine.run(scan.save(engine.folder / "scan.nii.gz", data), "--mask", scan.mask)
    assert outcome.code == 0, outcome.text
    flags = outcome.flags(scan.brain)
    engine.found(f"exit 0, flags of zeros {set(flags[:30])}, of NaN {set(flags[30:50])}")
    assert np.all(flags[:30] & Flag.NO_SIGNAL)
    assert np.all(flags[:50] & (Flag.NO_SIGNAL | Flag.NO_FIT))
    assert np.mean(flags[50:] == 0) > 0.9
    assert not np.isfinite(outcome.map("signal", "NAANAAG")[scan.brain][:50]).any()


@pytest.mark.case("18", "noise without a spectrum", "exit 3 and a verdict; --min-usable 0 accepts")
def test_noise_alone(engine: Engine, scan: Scan) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", scan.noise(*scan.data.shape).astype("c8"))
    outcome = engine.run(path, "--mask", scan.mask, out="first")
    assert outcome.code == 3
    assert "usable" in outcome.text
    accepted = engine.run(path, "--mask", scan.mask, "--min-usable", 0, out="second")
    assert accepted.code == 0


@pytest.mark.case("16", "the second of three scans has a broken header", "the rest goes on, exit 1")
def test_one_bad_scan(engine: Engine, scan: Scan) -> None:
    corner = scan.data[4:6, 4:6, 1:2]
    paths = [
        scan.save(engine.folder / f"{name}.nii.gz", corner, **({"EchoTime": 30} if bad else {}))
        for name, bad in (("a", False), ("b", True), ("c", False))
    ]
    folder = engine.folder / "three"
    outcome = engine("run", *paths, "--basis", "press-3t-te30", "--workers", 0, "--out", folder)
    assert outcome.code == 1
    assert (folder / "a" / "maps").is_dir()
    assert (folder / "c" / "maps").is_dir()
    assert "b.nii.gz" in outcome.text


@pytest.mark.case("16", "two scans of one file name", "refused")
def test_one_name(engine: Engine, scan: Scan) -> None:
    for folder in ("sub-1", "sub-2"):
        (engine.folder / folder).mkdir()
        scan.save(engine.folder / folder / "mrsi.nii.gz", scan.data[4:6, 4:6, 1:2])
    paths = [engine.folder / f / "mrsi.nii.gz" for f in ("sub-1", "sub-2")]
    outcome = engine("run", *paths, "--basis", "press-3t-te30", "--out", engine.folder / "o")
    engine.assert_refused(outcome, "the same output folder")
