from __future__ import annotations

import numpy as np
import pytest

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.creatine import CREATINE_CH2, with_creatine_ch2

ACQUISITION = Acquisition(points=1024, dwell_time=5e-4, spectrometer_frequency=123.2)


def singlet(ppm: float, protons: float) -> np.ndarray:
    turn = 2j * np.pi * ACQUISITION.frequency_of(ppm)
    return protons * np.exp((turn - 8) * ACQUISITION.time)


def basis(*names: str) -> Basis:
    fids = [singlet(3.03, 3) + singlet(3.92, 2) for _ in names]
    return Basis(names, np.stack(fids), ACQUISITION, source="test")


def test_together_with_creatine_it_leaves_the_ch3() -> None:
    extended = with_creatine_ch2(basis("Cr", "PCr"))
    left = extended["Cr"] + extended[CREATINE_CH2]
    axis = ACQUISITION
    near = (axis.ppm > 3.8) & (axis.ppm < 4.05)
    other = (axis.ppm > 2.8) & (axis.ppm < 3.3)
    whole, rest = (np.abs(axis.spectrum(f)) for f in (extended["Cr"], left))
    assert rest[near].max() < 0.05 * whole[near].max()
    assert rest[other].max() == pytest.approx(whole[other].max(), rel=0.05)


@pytest.mark.parametrize("names", [("NAA",), ("Cr", CREATINE_CH2)])
def test_it_needs_creatine_and_is_added_once(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="creatine_ch2"):
        with_creatine_ch2(basis(*names))
