from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mrsi_engine.errors import InputError
from mrsi_engine.networks.simulation import (
    AugmentationSettings,
    SimulationSettings,
    Simulator,
)
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
    # Six humps of up to SD 3, so a mean square of a third; at least 60 Hz wide, so gone after
    # 30 ms; 100 signals, whose squares vary by 110 %: SE of the root 6 %.
    assert size[0].item() == pytest.approx(3 * 2**0.5, rel=0.25)
    assert size[30:].max() < 0.01 * size[0]


@pytest.mark.parametrize(
    ("nuisance", "ppm", "elsewhere"),
    [("residual_water", (4.2, 5.1), (2.0, 3.0)), ("lipids", (0.8, 2.1), (3.2, 4.2))],
)
def test_nuisance_lines_stand_where_they_are_said_to(
    nuisance: str,
    ppm: tuple[float, float],
    elsewhere: tuple[float, float],
    basis: Basis,
    settings: SimulationSettings,
) -> None:
    plain, disturbed = (
        Simulator(_without_noise(settings, **{nuisance: size}), basis).draw(100, seed=3)
        for size in (0.0, 2.0)
    )
    added = (disturbed.fids - plain.fids).numpy()
    # Three complex lines of up to SD 2 a channel, as above.
    assert np.sqrt((np.abs(added[:, 0]) ** 2).mean()) == pytest.approx(8**0.5, rel=0.3)
    axis = basis.acquisition
    height = np.abs(axis.spectrum(added)).mean(0)
    near, far = ((axis.ppm > low) & (axis.ppm < high) for low, high in (ppm, elsewhere))
    assert height[near].mean() > 5 * height[far].mean()
    # What is to be learned has neither noise nor nuisances.
    torch.testing.assert_close(disturbed.clean, plain.fids)


def test_an_snr_is_the_height_of_naa_over_the_noise(
    basis: Basis, settings: SimulationSettings
) -> None:
    ranged = settings.model_copy(
        update={
            "noise_sd": None,
            "snr": (30.0, 30.0),
            "damping": (10.0, 10.0),
            "shift_hz": (0.0, 0.0),
            "phase_deg": (0.0, 0.0),
            "amplitudes": dict.fromkeys(basis.names, (0.0, 0.0)) | {"NAA": (6.0, 6.0)},
        }
    )
    batch = Simulator(ranged, basis).draw(200, seed=5)
    axis = basis.acquisition
    near = (axis.ppm > 1.8) & (axis.ppm < 2.2)
    height = axis.spectrum(batch.clean.numpy())[:, near].real.max(1)
    noise = axis.spectrum((batch.fids - batch.clean).numpy()).real
    # 51 200 numbers: relative SE of an SD 0.3 %.
    assert height.mean() / noise.std() == pytest.approx(30, rel=0.015)


def test_noise_is_told_in_one_way(settings: SimulationSettings) -> None:
    told = settings.model_dump()
    with pytest.raises(ValidationError, match="one of noise_sd and snr"):
        SimulationSettings.model_validate({**told, "snr": (10, 20)})
    with pytest.raises(ValidationError, match="one of noise_sd and snr"):
        SimulationSettings.model_validate({**told, "noise_sd": None})
    with pytest.raises(ValidationError, match="an SNR is above 0"):
        SimulationSettings.model_validate({**told, "noise_sd": None, "snr": (0, 20)})


def test_real_signals_are_varied_as_the_model_varies(
    basis: Basis, settings: SimulationSettings
) -> None:
    plain = Simulator(_without_noise(settings, shift_hz=(0, 0), phase_deg=(0, 0)), basis)
    fids = plain.draw(40, seed=6).fids
    augmentation = AugmentationSettings(
        shift_hz=(3, 3), phase_deg=(20, 20), damping=(4, 4), amplitude=(0.5, 0.5), noise=(0.1, 0.1)
    )
    time = torch.as_tensor(basis.acquisition.time, dtype=torch.float32)
    seen, clean = augmentation.vary(fids, time, seed=7)
    turn = np.exp(1j * np.pi / 9 + (2j * np.pi * 3 - 4) * basis.acquisition.time)
    np.testing.assert_allclose(clean, 0.5 * fids.numpy() * turn, rtol=1e-3, atol=1e-3)
    size = fids.abs().square().mean(1).sqrt()
    noise = torch.view_as_real(seen - clean).square().mean((1, 2)).sqrt()
    # 512 numbers a signal: relative SE of an SD 3 %.
    torch.testing.assert_close(noise / size, torch.full_like(size, 0.1), rtol=0.15, atol=0)
    assert torch.equal(augmentation.vary(fids, time, seed=7)[0], seen)
    assert not torch.equal(augmentation.vary(fids, time, seed=8)[0], seen)


def test_a_column_without_a_range_is_named(basis: Basis, settings: SimulationSettings) -> None:
    amplitudes = {**settings.amplitudes, "Glu": (1.0, 2.0)}
    del amplitudes["Tau"]
    with pytest.raises(InputError, match=r"no range for \['Tau'\].*for \['Glu'\]"):
        settings.model_copy(update={"amplitudes": amplitudes}).check(basis)
