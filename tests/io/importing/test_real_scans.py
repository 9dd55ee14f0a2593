"""Imports of real scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.io.importing import import_scan

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
BRAIN = SHARED / "mrsi_3t_brain"
SINGLE_VOXELS = SHARED / "mrsi_3t_te16"


@pytest.fixture(scope="module")
def brain(tmp_path_factory):
    """The real slice with its mask and tissue."""
    return import_scan(
        BRAIN / "mrsi.nii.gz",
        tmp_path_factory.mktemp("brain") / "brain.zarr",
        mask=BRAIN / "mask.nii.gz",
        tissue=BRAIN / "tissue_background_csf_gm_wm.nii.gz",
        tissue_classes=("background", "csf", "gm", "wm"),
    )


@pytest.mark.skipif(not BRAIN.exists(), reason=f"{BRAIN} is missing")
class TestRealBrain:
    def test_naa_stands_at_its_place(self, brain):
        spectra = np.abs(brain.acquisition.spectrum(brain.read_fids(0, brain.voxels))).mean(axis=0)
        ppm = brain.acquisition.ppm
        window = (ppm > 1.7) & (ppm < 2.4)
        assert ppm[window][spectra[window].argmax()] == pytest.approx(2.01, abs=0.05)
        mirrored = (ppm > 2 * 4.65 - 2.4) & (ppm < 2 * 4.65 - 1.7)
        assert spectra[window].max() > 2 * spectra[mirrored].max()

    def test_tissue_fractions_sum_to_one(self, brain):
        np.testing.assert_allclose(brain.read("tissue", 0, brain.voxels).sum(axis=1), 1, atol=1e-6)

    def test_signal_energy_finds_the_excited_box(self, brain, tmp_path):
        found = import_scan(BRAIN / "mrsi.nii.gz", tmp_path / "out").coordinates()
        given = {tuple(place) for place in brain.coordinates()}
        common = sum(tuple(place) in given for place in found)
        assert 2 * common / (len(given) + len(found)) > 0.85


@pytest.mark.skipif(not SINGLE_VOXELS.exists(), reason=f"{SINGLE_VOXELS} is missing")
def test_real_voxels_without_a_position(tmp_path):
    store = import_scan(
        SINGLE_VOXELS / "mrsi.nii.gz",
        tmp_path / "out",
        mask=SINGLE_VOXELS / "mask.nii.gz",
        water=SINGLE_VOXELS / "wref.nii.gz",
    )
    assert store.voxels == 96
    assert any("no position" in note for note in store.notes)
