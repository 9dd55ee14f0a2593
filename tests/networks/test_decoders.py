from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch

from mrsi_engine.networks.decoders import (
    Decoded,
    DecoderKind,
    DecoderSettings,
    decoder_basis,
    make_decoder,
    principal_directions,
)
from mrsi_engine.networks.simulation import SimulationSettings, Simulator
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import macromolecule_pattern

KINDS = get_args(DecoderKind)


def _model(basis: Basis, outputs: np.ndarray, settings: DecoderSettings) -> np.ndarray:
    """Signals of outputs, written as one reads the thesis, in double precision."""
    time = basis.acquisition.time
    phase = math.radians(settings.phase_deg) * np.tanh(outputs[:, 0])
    shift = settings.shift_hz * np.tanh(outputs[:, 1])
    damping = settings.damping * np.log1p(np.exp(outputs[:, 2])) / np.log(2)
    amplitudes = np.log1p(np.exp(outputs[:, 3 : 3 + len(basis.names)])) / np.log(2)
    turn = 1j * phase[:, None] + np.outer(2j * np.pi * shift - damping, time)
    return (amplitudes @ basis.fids) * np.exp(turn)


@pytest.mark.parametrize("kind", ["nMM", "pMM", "rpMM"])
def test_an_amplitude_decoder_equals_the_numpy_model(kind: DecoderKind, basis: Basis) -> None:
    settings = DecoderSettings(kind=kind)
    decoder = make_decoder(settings, basis)
    outputs = np.random.default_rng(1).normal(size=(6, decoder.outputs))
    signals = torch.zeros(6, basis.acquisition.points, dtype=torch.complex64)
    fit = decoder.fit(decoder.decode(torch.as_tensor(outputs, dtype=torch.float32), signals))
    expected = _model(decoder_basis(settings, basis), outputs, settings)
    np.testing.assert_allclose(fit.numpy(), expected, atol=1e-4 * np.abs(expected).max())


def test_a_shift_moves_macromolecules_as_it_moves_metabolites(basis: Basis) -> None:
    decoder = make_decoder(DecoderSettings(kind="pMM", shift_hz=12), basis)
    mm = torch.tensor([[float(n.startswith("MM")) for n in decoder.names]])
    theta = torch.tensor([[0.0, 10.0, 0.0, 0.0]])
    moved = decoder.fit(Decoded(mm, theta)).numpy()[0]
    axis = basis.acquisition
    expected = macromolecule_pattern(axis) * np.exp(2j * np.pi * 10 * axis.time)
    np.testing.assert_allclose(moved, expected, atol=1e-4 * np.abs(expected).max())


def test_projected_amplitudes_are_the_least_squares_ones(
    basis: Basis, settings: SimulationSettings
) -> None:
    batch = Simulator(settings, basis).draw(5, seed=3)
    found = make_decoder(DecoderSettings(), basis).project(batch.fids, batch.theta).numpy()
    for fid, theta, amplitudes in zip(batch.fids, batch.theta, found, strict=True):
        phase, shift, damping, _ = theta.tolist()
        turn = 1j * phase + (2j * np.pi * shift - damping) * basis.acquisition.time
        columns = (basis.fids * np.exp(turn)).T
        stacked = np.concatenate([columns.real, columns.imag])
        expected = np.linalg.lstsq(stacked, np.concatenate([fid.real, fid.imag]))[0]
        # The ridge of the normal equations moves overlapping columns by up to 1 in 1000.
        np.testing.assert_allclose(amplitudes, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("kind", "directions"), [*((kind, False) for kind in KINDS), ("nMM", True), ("rpMM", True)]
)
def test_gradients_exist_are_finite_and_are_right(
    kind: DecoderKind, directions: bool, basis: Basis, settings: SimulationSettings
) -> None:
    chosen = DecoderSettings(kind=kind, directions=directions)
    decoder = make_decoder(chosen, basis)
    if directions:
        ones = torch.ones(len(decoder.names))
        mixing = principal_directions(decoder.model.columns, ones, 0.2 * ones)
        decoder = make_decoder(chosen, basis, ones, mixing=mixing)
    signals = Simulator(settings, basis).draw(2, seed=4).fids / 50
    generator = torch.Generator().manual_seed(5)
    outputs = torch.randn(2, decoder.outputs, generator=generator).requires_grad_()

    def loss(at: torch.Tensor) -> torch.Tensor:
        return decoder.loss(decoder.decode(at, signals), signals)

    loss(outputs).backward()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    assert (outputs.grad != 0).all()
    step = 0.02 * torch.randn(outputs.shape, generator=generator)
    with torch.no_grad():
        difference = loss(outputs + step) - loss(outputs - step)
    slope = 2 * (outputs.grad * step).sum()
    assert difference.item() == pytest.approx(slope.item(), rel=0.01)


def test_damping_never_becomes_negative_and_angles_keep_their_bounds(basis: Basis) -> None:
    settings = DecoderSettings(kind="nMM", phase_deg=60, shift_hz=15)
    decoder = make_decoder(settings, basis)
    outputs = torch.full((2, decoder.outputs), 50.0)
    outputs[1] = -50
    decoded = decoder.decode(outputs, torch.zeros(2, basis.acquisition.points))
    phase, shift, damping, _ = decoded.theta.T
    assert (damping >= 0).all()
    assert (decoded.amplitudes >= 0).all()
    torch.testing.assert_close(shift, torch.tensor([15.0, -15.0]))
    torch.testing.assert_close(phase, torch.tensor([1.0, -1.0]) * math.pi / 3)


def test_a_late_macromolecule_costs_the_regularised_decoder_more(basis: Basis) -> None:
    decoder = make_decoder(DecoderSettings(kind="rpMM"), basis)
    amplitudes = torch.ones(1, len(decoder.names))
    short = Decoded(amplitudes, torch.zeros(1, 4), torch.tensor([0.010]))
    long = Decoded(amplitudes, torch.zeros(1, 4), torch.tensor([0.060]))
    signals = decoder.fit(short)
    cost = 0.5 * decoder.settings.cutoff_weight
    # The fit is perfect: what is left is the MM signal after the cut-off, and the cut-off's cost.
    assert decoder.loss(short, signals) - cost * 0.010 > 10 * decoder.loss(long, signals) - cost
    assert decoder.loss(long, signals) > cost * 0.060


def test_principal_directions_change_the_signal_independently(basis: Basis) -> None:
    columns = torch.as_tensor(basis.fids)
    typical, spread = torch.linspace(2, 3, 5), torch.linspace(0.2, 1, 5)
    mixing = principal_directions(columns, typical, spread)
    # What each output changes of the signal.
    changes = (mixing * typical[:, None]).T.to(columns.dtype) @ columns
    gram = (changes @ changes.conj().T).real
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-3 * gram.max(), rtol=0)
    # All of them together vary the amplitudes as they do.
    covariance = typical[:, None] * (mixing @ mixing.T) * typical
    ratio = covariance / covariance[0, 0] * spread[0] ** 2
    torch.testing.assert_close(ratio, torch.diag(spread**2), atol=1e-4, rtol=1e-4)


def test_amplitudes_along_directions_begin_typical_and_stay_positive(basis: Basis) -> None:
    typical = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    columns = torch.as_tensor(basis.fids)
    mixing = principal_directions(columns, typical, 0.3 * typical)
    decoder = make_decoder(
        DecoderSettings(kind="nMM", directions=True), basis, typical, mixing=mixing
    )
    outputs = torch.zeros(3, decoder.outputs)
    outputs[1:, 3:] = torch.tensor([[0.01], [-30.0]])
    found = decoder.decode(outputs, torch.zeros(3, basis.acquisition.points)).amplitudes
    torch.testing.assert_close(found[0], typical, rtol=0.01, atol=0)
    moved = typical * (1 + 0.01 * mixing.sum(1))
    torch.testing.assert_close(found[1] - found[0], moved - typical, rtol=0.05, atol=1e-3)
    assert (found[2] >= 0).all()


def test_skipped_samples_do_not_count(basis: Basis) -> None:
    decoder = make_decoder(DecoderSettings(kind="nMM", skip=2), basis)
    decoded = Decoded(torch.ones(1, 5), torch.zeros(1, 4))
    signals = decoder.fit(decoded)
    signals[:, :2] += 100
    assert decoder.loss(decoded, signals) < 1e-6
    signals[:, 2] += 100
    assert decoder.loss(decoded, signals) > 1
    with pytest.raises(ValueError, match="not for projected"):
        DecoderSettings(kind="projected", skip=1)
