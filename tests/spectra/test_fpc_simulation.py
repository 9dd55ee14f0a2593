"""The simulation of transients: its truth holds, its statistics are the published ones."""

from __future__ import annotations

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.spectra.fpc_simulation import (
    LIPID_PPM,
    RAT_BRAIN,
    FpcSettings,
    rat_brain_template,
    simulate_transients,
)

QUIET = FpcSettings(signals=40, noise_sd=0.0, water_share=0.0, lipid_share=0.0, shift_hz=60.0)


def test_without_noise_it_is_the_model():
    sim = simulate_transients(QUIET)
    rates = 2j * np.pi * sim.shift - sim.damping
    scale = sim.amplitude * np.exp(1j * sim.phase)
    model = scale[:, None] * np.exp(np.outer(rates, RAT_BRAIN.time)) * sim.template
    np.testing.assert_allclose(sim.fids, model, atol=2e-6)
    np.testing.assert_allclose(np.abs(sim.fids).max(1), 1, rtol=1e-6)


def test_the_same_seed_gives_the_same_signals_and_another_does_not():
    first, again = (simulate_transients(FpcSettings(signals=5, seed=3)) for _ in range(2))
    other = simulate_transients(FpcSettings(signals=5, seed=4))
    assert np.array_equal(first.fids, again.fids)
    assert not np.allclose(first.shift, other.shift)


def test_noise_is_white_and_of_the_stated_level():
    noisy = simulate_transients(FpcSettings(signals=300, water_share=0, lipid_share=0))
    rates = 2j * np.pi * noisy.shift - noisy.damping
    scale = noisy.amplitude * np.exp(1j * noisy.phase)
    clean = scale[:, None] * np.exp(np.outer(rates, RAT_BRAIN.time)) * noisy.template
    noise = (noisy.fids - clean) / noisy.noise_sd[:, None]
    # 1.2 million numbers: their SD is known to 0.07 %.
    assert noise.view(np.complex128).real.std() == pytest.approx(1, abs=3e-3)
    assert noise.imag.std() == pytest.approx(1, abs=3e-3)
    power = np.abs(np.fft.fft(noise, axis=1, norm="ortho")) ** 2
    assert power.mean(0).max() / power.mean() < 1 + 6 / 300**0.5


def test_nuisances_have_their_shares_and_stand_where_they_belong():
    sim = simulate_transients(FpcSettings(signals=2000, noise_sd=0.0, shift_hz=0.0, seed=1))
    share = 1 - np.exp(-0.5)
    bound = 4 * np.sqrt(share * (1 - share) / 2000)
    assert sim.water.mean() == pytest.approx(share, abs=bound)
    assert sim.lipid.mean() == pytest.approx(share, abs=bound)
    assert (sim.water & sim.lipid).mean() == pytest.approx(share**2, abs=bound)
    ppm = RAT_BRAIN.ppm
    power = np.abs(RAT_BRAIN.spectrum(sim.fids / sim.amplitude[:, None])) ** 2
    plain = power[sim.clean].mean(0)
    lipid = power[sim.lipid & ~sim.water].mean(0) - plain
    water = power[sim.water & ~sim.lipid].mean(0) - plain
    assert ppm[lipid.argmax()] == pytest.approx(LIPID_PPM, abs=0.1)
    assert ppm[water.argmax()] == pytest.approx(4.7, abs=0.1)


def test_own_template_has_its_singlets():
    spectrum = np.abs(RAT_BRAIN.spectrum(rat_brain_template()))
    for low, high, peak in ((1.9, 2.1, 2.01), (2.95, 3.1, 3.03)):
        inside = (RAT_BRAIN.ppm > low) & (RAT_BRAIN.ppm < high)
        top = RAT_BRAIN.ppm[inside][spectrum[inside].argmax()]
        assert top == pytest.approx(peak, abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"signals": 0}, "signals: found 0"),
        ({"noise_sd": -1.0}, "noise_sd: found -1.0"),
        ({"shift_hz": float("nan")}, "shift_hz: found nan"),
        ({"water_share": 1.2}, "water_share: found 1.2, expected 0 to 1"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        FpcSettings(**wrong)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (np.ones(10), r"expected \(1980,\)"),
        (np.zeros(1980), "zero or not finite"),
        (np.full(1980, np.nan), "zero or not finite"),
    ],
)
def test_wrong_templates_are_refused(template, message):
    with pytest.raises(InputError, match=message):
        simulate_transients(QUIET, template)
