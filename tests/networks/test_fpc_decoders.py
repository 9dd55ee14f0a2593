"""Decoders of frequency and phase correction against the same in plain numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.networks.fpc_decoders import (
    FpcDecoded,
    FpcDecoderSettings,
    FpcKind,
    make_fpc_decoder,
)

AXIS = Acquisition(400, 0.5e-3, 123.2)
POINTS = 256
TIME = AXIS.time[:POINTS]
KINDS: tuple[FpcKind, ...] = ("dCrR", "dCrRF", "dSR", "dSRF", "projected")


def line(ppm: float, damping: float = 15.0) -> np.ndarray:
    return np.exp((2j * np.pi * float(AXIS.frequency_of(ppm)) - damping) * AXIS.time)


TEMPLATE = line(2.01) + 0.8 * line(3.03) + 0.5 * line(3.21)


def drawn(count: int = 12, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    turn = np.exp(1j * rng.uniform(-3, 3, (count, 1)) + 20j * rng.normal(size=(count, 1)))
    noise = rng.standard_normal((count, AXIS.points, 2)).view(complex)[..., 0]
    return torch.from_numpy((TEMPLATE * turn + 0.1 * noise).astype(np.complex64))


def decoder_of(kind: FpcKind, **settings: object):
    window = (1.9, 4.1) if kind == "projected" else (2.5, 3.5)
    given = {"kind": kind, "points": POINTS, "window_ppm": window, **settings}
    return make_fpc_decoder(
        FpcDecoderSettings.model_validate(given), AXIS, torch.from_numpy(TEMPLATE)
    )


def outputs_of(kind: FpcKind, signals: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    chance = torch.Generator().manual_seed(4)
    count = decoder_of(kind).settings.outputs
    return scale * torch.randn(len(signals), count, generator=chance)


def mean_square(signals: np.ndarray, kind: str) -> float:
    if kind.endswith("F"):
        spectra = np.fft.fft(signals, norm="ortho")
        ppm = AXIS.ppm_of(np.fft.fftfreq(POINTS, AXIS.dwell_time))
        signals = spectra[:, (ppm >= 2.5) & (ppm <= 3.5)]
    return float((np.abs(signals) ** 2).mean())


@pytest.mark.parametrize("kind", ["dCrR", "dCrRF"])
def test_creatine_decoders_are_a_line_and_what_decays_fast(kind: FpcKind) -> None:
    decoder, signals = decoder_of(kind), drawn()
    found = decoder.decode(outputs_of(kind, signals), signals)
    phase, shift, height, damping = (
        value.numpy()[:, None].astype(float)
        for value in (found.phase, found.shift, found.amplitude, found.damping)
    )
    hertz = shift + float(AXIS.frequency_of(3.027))
    expected = height * np.exp(1j * phase + (2j * np.pi * hertz - damping) * TIME)
    expected = expected + signals.numpy()[:, :POINTS] * np.exp(-500 * TIME)
    np.testing.assert_allclose(decoder.fit(found, signals).numpy(), expected, atol=2e-4)
    rest = signals.numpy()[:, :POINTS] - expected
    assert decoder.loss(found, signals).item() == pytest.approx(mean_square(rest, kind), rel=1e-3)


@pytest.mark.parametrize("kind", ["dSR", "dSRF"])
def test_template_decoders_move_and_turn_the_template(kind: FpcKind) -> None:
    decoder, signals = decoder_of(kind), drawn()
    found = decoder.decode(outputs_of(kind, signals), signals)
    phase, shift = (v.numpy()[:, None].astype(float) for v in (found.phase, found.shift))
    template = TEMPLATE[:POINTS] / np.sqrt((np.abs(TEMPLATE[:POINTS]) ** 2).mean())
    expected = template * np.exp(1j * phase + 2j * np.pi * shift * TIME)
    np.testing.assert_allclose(decoder.fit(found, signals).numpy(), expected, atol=2e-4)
    rest = signals.numpy()[:, :POINTS] - expected
    assert decoder.loss(found, signals).item() == pytest.approx(mean_square(rest, kind), rel=1e-3)


@pytest.mark.parametrize("kind", ["dSR", "dSRF"])
def test_what_does_not_count_does_not(kind: FpcKind) -> None:
    """Lines in the ranges given change no loss."""
    nuisances = [(4.3, 5.0, 20.0, 40.0, 24)]
    decoder, signals = decoder_of(kind, nuisances=nuisances, baseline_order=1), drawn()
    found = decoder.decode(outputs_of(kind, signals), signals)
    before = decoder.loss(found, signals)
    water = torch.from_numpy(5 * line(4.6, 30.0).astype(np.complex64))
    assert decoder.loss(found, signals + water).item() == pytest.approx(before.item(), rel=1e-3)
    plain = decoder_of(kind)
    assert plain.loss(found, signals + water) > 1.02 * plain.loss(found, signals)


def test_projected_is_least_squares_with_a_free_baseline() -> None:
    decoder = decoder_of("projected", dampings=(0.0, 8.0), baseline_order=2)
    signals = drawn()
    found = decoder.decode(outputs_of("projected", signals), signals)
    ppm = AXIS.ppm_of(np.fft.fftfreq(POINTS, AXIS.dwell_time))
    inside = np.flatnonzero((ppm >= 1.9) & (ppm <= 4.1))
    inside = inside[np.argsort(-ppm[inside])]
    baseline = np.polynomial.legendre.legvander(np.linspace(-1, 1, len(inside)), 2).astype(complex)
    left = []
    for i, fid in enumerate(signals.numpy()[:, :POINTS].astype(complex)):
        shift = float(found.shift[i])
        seen = np.fft.fft(fid * np.exp(-2j * np.pi * shift * TIME), norm="ortho")[inside]
        rest = seen - baseline @ np.linalg.lstsq(baseline, seen, rcond=None)[0]
        tried = {}
        for damping in (0.0, 8.0):
            column = np.fft.fft(TEMPLATE[:POINTS] * np.exp(-damping * TIME), norm="ortho")[inside]
            model = np.column_stack([baseline, column])
            scale, *_ = np.linalg.lstsq(model, seen, rcond=None)
            tried[damping] = (np.linalg.norm(seen - model @ scale) ** 2, scale[-1])
        damping = min(tried, key=lambda d, t=tried: t[d][0])
        energy, scale = tried[damping]
        left.append(energy / np.linalg.norm(rest) ** 2)
        assert found.damping[i] == damping
        assert found.amplitude[i].item() == pytest.approx(abs(scale), rel=2e-3)
        apart = np.exp(1j * (float(found.phase[i]) - np.angle(scale)))
        assert abs(np.angle(apart)) < 5e-3
    assert decoder.loss(found, signals).item() == pytest.approx(np.mean(left), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_and_bounds_hold(kind: FpcKind) -> None:
    decoder, signals = decoder_of(kind), drawn()
    for scale in (0.1, 1.0, 30.0):
        outputs = outputs_of(kind, signals, scale).requires_grad_()
        found = decoder.decode(outputs, signals)
        decoder.loss(found, signals).backward()
        assert outputs.grad is not None
        assert torch.isfinite(outputs.grad).all()
        assert scale > 1 or (outputs.grad.abs().sum(0) > 0).all()
        assert (found.shift.abs() <= 30).all()
        assert (found.phase.abs() <= math.pi + 1e-6).all()
        assert (found.amplitude >= 0).all()
        assert kind == "projected" or (found.damping >= 0).all()


@pytest.mark.parametrize("kind", ["dSR", "dSRF", "projected"])
def test_the_truth_is_where_the_loss_is_smallest(kind: FpcKind) -> None:
    turn = 0.7 + 2 * math.pi * 4.0 * torch.from_numpy(AXIS.time)
    moved = torch.from_numpy(TEMPLATE) * torch.polar(torch.ones_like(turn), turn)
    signal = (moved / moved[:POINTS].abs().square().mean().sqrt()).to(torch.complex64)[None]
    decoder = decoder_of(kind)

    def loss(shift: float, phase: float) -> float:
        one = torch.ones(1)
        return decoder.loss(FpcDecoded(shift * one, phase * one, one, 0 * one), signal).item()

    assert loss(4.0, 0.7) < 1e-5
    assert all(loss(4.0 + d, 0.7) > 1e-3 for d in (-1, 1))
    assert kind == "projected" or all(loss(4.0, 0.7 + d) > 1e-3 for d in (-0.2, 0.2))


def test_what_does_not_fit_the_axis_is_refused() -> None:
    with pytest.raises(InputError, match="points is 512, the signals have 400"):
        decoder_of("dSR", points=512)
    with pytest.raises(InputError, match="window_ppm"):
        decoder_of("dSRF", window_ppm=(-20.0, 3.0))
    with pytest.raises(InputError, match="window_ppm"):
        decoder_of("projected", window_ppm=(3.0, 3.4))
