"""The water removal step: settings, checks, what it writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.stages.water_removal import WaterRemoval

ACQUISITION = Acquisition(points=512, dwell_time=1e-3, spectrometer_frequency=123.23)
CONTEXT = Context(ACQUISITION)


def peak(ppm: float, damping: float) -> np.ndarray:
    hertz = ACQUISITION.frequency_of(ppm)
    return np.exp((2j * np.pi * hertz - damping) * ACQUISITION.time)


def block(water: float) -> tuple[Block, np.ndarray]:
    """Five voxels of water and NAA with a little noise, and the NAA alone."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((5, 512)) + 1j * rng.standard_normal((5, 512))
    naa = 10 * peak(2.01, 12) + 0.02 * noise
    fids = naa + water * (peak(4.68, 15) + 0.2j * peak(4.55, 30))
    return Block(torch.from_numpy(fids.astype(np.complex64))), naa


def test_removes_water_and_keeps_naa():
    cleaned, naa = block(water=500.0)
    WaterRemoval().build(CONTEXT)(cleaned)
    assert cleaned.fids.dtype == torch.complex64
    assert np.abs(cleaned.fids.numpy() - naa).max() < 0.1


def test_residual_is_energy_after_over_before():
    cleaned, _ = block(water=500.0)
    before = cleaned.fids.numpy().copy()
    WaterRemoval().build(CONTEXT)(cleaned)
    inside = (ACQUISITION.ppm >= 4.2) & (ACQUISITION.ppm <= 5.1)

    def energy(fids):
        return (np.abs(ACQUISITION.spectrum(fids)[:, inside]) ** 2).sum(1)

    expected = energy(cleaned.fids.numpy()) / energy(before)
    measured = cleaned.measures["water_residual"]
    assert measured.shape == (5,)
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-3)
    assert (measured < 1e-4).all()


def test_declares_what_it_writes():
    cleaned, _ = block(water=10.0)
    WaterRemoval().build(CONTEXT)(cleaned)
    declared = WaterRemoval().declare(CONTEXT)
    assert {m.name for m in declared.measures} == set(cleaned.measures)
    assert set(cleaned.measures) == {"water_residual", "metabolite_change"}
    assert not declared.parameters
    assert not declared.signals


@pytest.mark.parametrize("band", [(0.5, 5.0), (4.0, 12.0), (-1.0, 5.0)])
def test_band_outside_the_spectrum_is_refused(band):
    acquisition = Acquisition(points=512, dwell_time=1e-3, spectrometer_frequency=123.23)
    with pytest.raises(InputError, match="outside the spectrum"):
        WaterRemoval(band_ppm=band).check(Context(acquisition))


def test_fids_too_short_are_refused():
    with pytest.raises(InputError, match="longer FIDs"):
        WaterRemoval().check(Context(ACQUISITION.with_points(64)))


def test_water_shared_by_very_long_fids_is_refused():
    stage, long = WaterRemoval(method="casorati"), Context(ACQUISITION.with_points(4096))
    with pytest.raises(InputError, match=r'4096 x 4096 would take 268 MB .* use method = "hsvd"'):
        stage.check(long)


def test_check_gives_the_stage_back():
    stage = WaterRemoval()
    assert stage.check(CONTEXT) is stage


@pytest.mark.parametrize(
    "settings",
    [{"band_ppm": (5.0, 4.0)}, {"method": "magic"}, {"components": 0}, {"rank": 0}],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        WaterRemoval(**settings)


def test_pipeline_finds_it_by_name_and_reads_its_settings_back():
    tables = [{"stage": "water_removal", "band_ppm": [4.3, 5.0], "components": 8}]
    pipeline = Pipeline.from_settings({"name": "test", "stages": tables})
    assert pipeline.stages[0] == WaterRemoval(band_ppm=(4.3, 5.0), components=8)
    assert Pipeline.from_settings(pipeline.settings()) == pipeline
