"""Noise that is not white: error bars stay true, or there are none."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases.engine import Engine, Outcome
from tests.cases.scan import Scan

ZERO_FILLED = [{"Method": "Zero-filling", "Program": "x", "Version": "1", "Details": ""}]

#: SD of z that the issue asks for.
TRUE = (0.9, 1.15)


def zero_filled(scan: Scan, factor: float) -> np.ndarray:
    more = round((factor - 1) * scan.data.shape[3])
    return np.pad(scan.data, ((0, 0), (0, 0), (0, 0), (0, more)))


def assert_honest(engine: Engine, outcome: Outcome, scan: Scan) -> None:
    """True error bars, or none and a flag."""
    if np.isfinite(outcome.map("sd", "NAANAAG")[scan.brain]).any():
        engine.assert_right(outcome, scan, z=TRUE)
    else:
        engine.assert_no_bound(outcome, scan)


@pytest.mark.case("01", "FIDs zero-filled before export", "SD of z 0.9 to 1.15, or none and a flag")
@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("factor", [1.5, 2, 4])
def test_zero_filled(engine: Engine, scan: Scan, factor: float, said: bool) -> None:
    fields = {"ProcessingApplied": ZERO_FILLED} if said else {}
    path = scan.save(engine.folder / "scan.nii.gz", zero_filled(scan, factor), **fields)
    assert_honest(engine, engine.run(path, "--mask", scan.mask), scan)


@pytest.mark.case("01", "apodised with 5 Hz, not said", "SD of z 0.9 to 1.15, or none and a flag")
def test_apodised(engine: Engine, scan: Scan) -> None:
    damped = scan.data * np.exp(-np.pi * 5 * scan.time)
    path = scan.save(engine.folder / "scan.nii.gz", damped.astype("c8"))
    assert_honest(engine, engine.run(path, "--mask", scan.mask), scan)


@pytest.mark.case("01", "filtered to 0 to 4.6 ppm", "SD of z 0.9 to 1.15, or none and a flag")
def test_band_limited(engine: Engine, scan: Scan) -> None:
    spectra = np.fft.fft(scan.data, axis=3)
    ppm = 4.65 - np.fft.fftfreq(scan.data.shape[3], scan.dwell_time) / scan.megahertz
    spectra[..., (ppm < 0.0) | (ppm > 4.6)] = 0
    path = scan.save(engine.folder / "scan.nii.gz", np.fft.ifft(spectra, axis=3).astype("c8"))
    outcome = engine.run(path, "--mask", scan.mask, "--pipeline", "minimal")
    assert_honest(engine, outcome, scan)
