from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.networks.simulation import SimulationSettings, Simulator
from mrsi_engine.spectra.basis import Basis


def _without_noise(settings: SimulationSettings, **changes: object) -> SimulationSettings:
    return settings.model_copy(update={"noise_sd": (0.0, 0.0), **changes})


def test_signals_are_the_model_of_their_truth(basis: Basis, settings: SimulationSettings) -> None:
    batch = Simulator(_without_noise(settings), basis).draw(50, seed=1)
    phase, shift, damping, _ = batch.theta.double().numpy().T
    turn = 1j * phase[:, None] + np.outer(2j * np.pi * shift - damping, basis.acquisition.time)
    expected = (batch.amplitudes.double().numpy() @ basis.fids) * np.exp(turn)
    np.testing.assert_allclose(batch.fids.numpy(), expected, atol=1e-4 * np.abs(expected).max())
    for values, (low, high) in zip(
        (np.degrees(phase), shift, damping),
        (settings.phase_deg, settings.shift_hz, settings.damping),
        strict=True,
    ):
        # 50 uniform draws leave a fifth of the range empty at one end once in 70 000 times.
        width = high - low
        assert low <= values.min() < low + 0.2 * width
        assert high - 0.2 * width < values.max() <= high


def test_a_seed_repeats_and_another_does_not(basis: Basis, settings: SimulationSettings) -> None:
    simulator = Simulator(settings, basis)
    first, again, other = (simulator.draw(3, seed).fids for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("damped", [False, True])
def test_noise_is_white_unless_it_is_damped(
    damped: bool, basis: Basis, settings: SimulationSettings
) -> None:
    plain = settings.model_copy(
        update={"noise_sd": (0.5, 0.5), "damping": (20.0, 20.0), "damped_noise": damped}
    )
    noisy, clean = (Simulator(s, basis).draw(400, 2).fids for s in (plain, _without_noise(plain)))
    sd = torch.view_as_real(noisy - clean).square().mean((0, 2)).sqrt().numpy()
    expected = 0.5 * (np.exp(-20 * basis.acquisition.time) if damped else 1.0)
    # 800 numbers a sample: relative SE of an SD 2.5 %; five of them for 256 samples.
    np.testing.assert_allclose(sd / expected, 1, atol=0.125)


def test_a_baseline_is_broad(basis: Basis, settings: SimulationSettings) -> None:
    flat = _without_noise(settings)
    bumpy = _without_noise(settings, baseline=3.0)
    plain, rough = (Simulator(s, basis).draw(100, seed=3).fids for s in (flat, bumpy))
    size = torch.view_as_real(rough - plain).square().mean((0, 2)).sqrt()
    # Six humps of SD 3; at least 60 Hz wide, so gone after 30 ms; 100 signals: SE 7 %.
    assert size[0].item() == pytest.approx(3 * 6**0.5, rel=0.25)
    assert size[30:].max() < 0.01 * size[0]


def test_a_column_without_a_range_is_named(basis: Basis, settings: SimulationSettings) -> None:
    amplitudes = {**settings.amplitudes, "Glu": (1.0, 2.0)}
    del amplitudes["Tau"]
    with pytest.raises(InputError, match=r"no range for \['Tau'\].*for \['Glu'\]"):
        settings.model_copy(update={"amplitudes": amplitudes}).check(basis)
