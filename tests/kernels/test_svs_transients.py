"""Raw 7T single-voxel transients to one spectrum: every step must gain SNR or linewidth."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.kernels import averaging, coils, eddy

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "svs_7t_transients"
AXIS = Acquisition(4096, 83.3e-6, 297.219948)
TAIL = 1024

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not here")


def read(name):
    """``(coil, transient, time)``."""
    values = np.asarray(nib.load(DATA / name).dataobj)[0, 0, 0]
    return torch.from_numpy(np.moveaxis(values, 0, -1).astype(np.complex64))[None]


def measured(fids):
    """(SNR, FWHM in Hz) of NAA in the magnitude spectrum of the mean transient."""
    fid = np.asarray(fids).reshape(-1, AXIS.points).mean(0)
    axis = AXIS.with_points(8 * AXIS.points)
    spectrum = np.abs(axis.spectrum(np.pad(fid, (0, 7 * AXIS.points))))
    naa = spectrum[(axis.ppm > 1.9) & (axis.ppm < 2.1)]
    noise = fid[-TAIL:].view(fid.real.dtype).std() * np.sqrt(AXIS.points)
    return naa.max() / noise, (naa > naa.max() / 2).sum() * axis.spectral_width / axis.points


def aligned(fids, passes=3):
    """Transients turned to their mean by the peak of their cross-correlation over 1.9-4.2 ppm."""
    window = np.fft.ifftshift((AXIS.ppm > 1.9) & (AXIS.ppm < 4.2))
    hertz = np.fft.fftfreq(16 * AXIS.points, AXIS.dwell_time)
    for _ in range(passes):
        narrow = np.fft.ifft(np.fft.fft(fids, axis=-1) * window, axis=-1)
        product = np.fft.fft(narrow * narrow.mean(0).conj(), 16 * AXIS.points, axis=-1)
        product = np.where(np.abs(hertz) < 10, product, 0)
        best = np.abs(product).argmax(1)
        phase = np.angle(product[np.arange(len(fids)), best])
        fids = fids * np.exp(-2j * np.pi * hertz[best, None] * AXIS.time - 1j * phase[:, None])
    return torch.from_numpy(fids)


@pytest.fixture(scope="module")
def steps():
    """(SNR, FWHM) after each step."""
    raw, water = read("metab_raw.nii.gz"), read("wref_raw.nii.gz").mean(2)
    white = coils.whitening(torch.cov(raw[0, :, :, -TAIL:].flatten(1).to(torch.complex128)))
    weights = coils.coil_weights(water, white)
    combined = coils.combine(raw, weights)[0]
    reference = coils.combine(water, weights).expand(16, -1)
    eddied = eddy.correct(combined, reference).fids
    straight = aligned(eddied.numpy())
    best = max((measured(coil) for coil in raw[0]), key=lambda pair: pair[0])
    return {
        "best coil": best,
        "combined": measured(combined),
        "eddy": measured(eddied),
        "aligned": measured(straight),
        "averaged": measured(averaging.average(straight[None]).fids),
        "one transient": measured(straight[:1]),
    }


def test_combination_beats_the_best_coil(steps):
    assert steps["combined"][0] > 1.3 * steps["best coil"][0]


def test_eddy_correction_narrows_the_line(steps):
    assert steps["eddy"][1] < 0.95 * steps["combined"][1]
    assert steps["eddy"][0] > 0.98 * steps["combined"][0]


def test_alignment_narrows_it_again(steps):
    assert steps["aligned"][1] < steps["eddy"][1]
    assert steps["aligned"][0] > steps["eddy"][0]


def test_averaging_sixteen_gains_about_four(steps):
    """Each rejected transient would cost 3 %, and one transient's SNR is known to 10 %."""
    assert 3.3 < steps["averaged"][0] / steps["one transient"][0] < 4.7
