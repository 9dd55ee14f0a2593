"""Scans of other nuclei than protons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.conventions import Acquisition
from mrsi_engine.spectra.basis import Basis
from tests.cases.bases import phantom_basis, write_json
from tests.cases.engine import Engine, Outcome
from tests.cases.scan import Scan

#: Chemical shift (ppm) and amplitude.
PHOSPHORUS = {
    "PCr": (0.0, 10.0),
    "gATP": (-2.5, 6.0),
    "aATP": (-7.5, 6.0),
    "bATP": (-16.1, 5.0),
    "Pi": (4.85, 3.0),
}
MEGAHERTZ = 51.7

PIPELINE = ("--pipeline", "brain-31p-7t")


def phosphorus(scan: Scan, folder: Path) -> tuple[Path, Basis]:
    """A scan of 4 x 4 voxels at 3 T, and the basis of its lines."""
    time = scan.time
    draw = np.random.default_rng(0)
    shape = (4, 4, 1, len(time))
    data = 0.3 * (draw.normal(size=shape) + 1j * draw.normal(size=shape))
    fids = []
    for ppm, amplitude in PHOSPHORUS.values():
        turn = np.exp(-2j * np.pi * ppm * MEGAHERTZ * time)
        data = data + amplitude * turn * np.exp(-8 * np.pi * time)
        fids.append(turn * np.exp(-2 * np.pi * time))
    path = scan.save(
        folder / "scan.nii.gz",
        data.astype("c8"),
        without=["EchoTime"],
        ResonantNucleus=["31P"],
        SpectrometerFrequency=[MEGAHERTZ],
        SpecFreqChemShift=0.0,
    )
    axis = Acquisition(len(time), scan.dwell_time, MEGAHERTZ, 0.0, "31P")
    return path, Basis(tuple(PHOSPHORUS), np.stack(fids), axis)


def worst(outcome: Outcome) -> float:
    ratios = [
        float(np.nanmedian(outcome.map("signal", name))) / amplitude
        for name, (_, amplitude) in PHOSPHORUS.items()
    ]
    return max(ratios, key=lambda ratio: abs(ratio - 1))


@pytest.mark.case("19", "31P scan and basis, 31P pipeline", "right, SNR and FWHM of its own peak")
def test_phosphorus(engine: Engine, scan: Scan) -> None:
    path, basis = phosphorus(scan, engine.folder)
    written = write_json(
        engine.folder / "b", basis, basis_nucleus="31P", meta={"reference_ppm": 0.0}
    )
    outcome = engine.run(path, *PIPELINE, basis=written)
    assert outcome.code == 0, outcome.text
    flags = set(outcome.map("flags").flat)
    engine.found(f"worst ratio to truth {worst(outcome):.3f}, flags {flags}")
    assert abs(worst(outcome) - 1) < 0.05
    assert np.nanmedian(outcome.map("snr")) > 10
    assert abs(np.nanmedian(outcome.map("fwhm")) * MEGAHERTZ - 8) < 1  # Hz
    assert np.mean(outcome.map("flags") == 0) > 0.9


@pytest.mark.case("19", "31P scan, proton pipeline", "refused with the right one")
def test_proton_pipeline(engine: Engine, scan: Scan) -> None:
    path, basis = phosphorus(scan, engine.folder)
    written = write_json(
        engine.folder / "b", basis, basis_nucleus="31P", meta={"reference_ppm": 0.0}
    )
    outcome = engine.run(path, basis=written)
    engine.assert_refused(outcome, "--pipeline brain-31p-7t")


@pytest.mark.case("19", "31P basis that does not state its reference", "refused")
def test_no_reference(engine: Engine, scan: Scan) -> None:
    path, basis = phosphorus(scan, engine.folder)
    written = write_json(engine.folder / "b", basis, basis_nucleus="31P")
    outcome = engine.run(path, *PIPELINE, basis=written)
    engine.assert_refused(outcome, "31P that does not state its reference")


@pytest.mark.case("19", "31P scan, basis of protons", "refused")
def test_basis_of_protons(engine: Engine, scan: Scan) -> None:
    path, _ = phosphorus(scan, engine.folder)
    written = write_json(engine.folder / "b", phantom_basis())
    outcome = engine.run(path, *PIPELINE, basis=written)
    engine.assert_refused(outcome, "basis is of 1H, the scan of 31P")
