"""Registration from guesses, good and bad ones."""

from __future__ import annotations

import math

import pytest
import torch

from mrsi_engine.kernels.projection import Projection
from mrsi_engine.kernels.refinement import Refinement, rival_match
from mrsi_engine.kernels.registration import Registration, Solver, register
from tests.kernels.fpc_signals import AXIS, hertz, placed, spectrum_3t, white

NOISE, COUNT = 3.0, 300
SOLVER = Solver(limit_hz=60.0)
TEMPLATE = spectrum_3t()
SEEN = Projection.build(AXIS.points, AXIS.dwell_time, hertz(1.9, 4.1), 2)
READY = Registration.build(TEMPLATE, SEEN)
REFINEMENT = Refinement.build(READY, TEMPLATE, SOLVER)


@pytest.fixture(scope="module")
def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Signals, their noise and their true shifts."""
    chance = torch.Generator().manual_seed(3)
    shift = 80 * torch.rand(COUNT, generator=chance, dtype=torch.float64) - 40
    phase = 2 * math.pi * torch.rand(COUNT, generator=chance, dtype=torch.float64)
    fids = placed(TEMPLATE, shift, phase, torch.ones(COUNT), torch.zeros(COUNT))
    fids = (fids + white(COUNT, NOISE, 7)).to(torch.complex64)
    return fids, torch.full((COUNT,), NOISE), shift


def test_a_guess_a_hertz_off_is_as_good_as_a_search(drawn) -> None:
    fids, noise, shift = drawn
    guess = shift + torch.randn(COUNT, generator=torch.Generator().manual_seed(1))
    one = register(READY, fids, noise, Solver(60.0, max_iterations=1), guess)
    found, searched = REFINEMENT.align(fids, noise, guess), register(READY, fids, noise, SOLVER)
    assert not found.searched.any()
    assert searched.searched.all()
    # A step of up to a tenth is left, and what lies beyond it.
    assert ((found.shift - searched.shift) / searched.shift_sd).abs().max() < 0.15
    for aligned in (one, found):
        error = (aligned.shift - shift) / aligned.shift_sd
        assert error.std() == pytest.approx(1, abs=4 / math.sqrt(2 * COUNT))


def test_wrong_guesses_are_searched_for(drawn) -> None:
    """Choline upon creatine, far out, and none at all."""
    fids, noise, shift = drawn
    for guess in (shift + 22.5, shift - 22.5, torch.full((COUNT,), 500.0), shift * torch.nan):
        found = REFINEMENT.align(fids, noise, guess)
        assert found.searched.all()
        torch.testing.assert_close(found.shift, register(READY, fids, noise, SOLVER).shift)


def test_noise_is_no_match(drawn) -> None:
    fids = white(COUNT, NOISE, 9).to(torch.complex64)
    found = REFINEMENT.align(fids, torch.full((COUNT,), NOISE), torch.zeros(COUNT))
    assert found.searched.all()
    # One in a thousand looks like the template.
    assert found.trusted.sum() <= 3


def test_no_signal_at_all() -> None:
    none = torch.zeros(0, AXIS.points, dtype=torch.complex64)
    assert len(REFINEMENT.align(none, torch.zeros(0), torch.zeros(0)).shift) == 0


def test_rival_is_the_best_wrong_place() -> None:
    """One of two equal lines upon the other is half of the amplitude, a quarter of the energy."""
    time = torch.from_numpy(AXIS.time)
    lines = [torch.polar(torch.exp(-20 * time), 2 * math.pi * hz * time) for hz in (150.0, 250.0)]
    whole = Projection.build(AXIS.points, AXIS.dwell_time)
    two = lines[0] + lines[1]
    assert rival_match(Registration.build(two, whole), two, 120.0) == pytest.approx(0.25, abs=0.03)
    one = Registration.build(lines[0], whole)
    assert rival_match(one, lines[0], 120.0) < 0.02


def test_match_is_the_share_beyond_noise(drawn) -> None:
    fids, noise, _ = drawn
    found = register(READY, fids, noise, SOLVER)
    # Three SDs of the noise's energy on the safe side.
    assert (found.match < 1).double().mean() > 0.9
    blind = register(READY, fids, 1e-6 * noise, SOLVER)
    assert (blind.match < found.match).all()
