"""Projections for registration: orthogonal, blind to what they project out, refused when empty."""

from __future__ import annotations

import pytest
import torch

from mrsi_engine.kernels.projection import LineRange, Projection

POINTS, DWELL = 400, 1e-3
LINES = LineRange(-20.0, 20.0, 30.0, 120.0, 8)
KINDS = {
    "whole": Projection.build(POINTS, DWELL),
    "window": Projection.build(POINTS, DWELL, (50.0, 250.0)),
    "baseline": Projection.build(POINTS, DWELL, (-100.0, 150.0), 3),
    "nuisance": Projection.build(POINTS, DWELL, nuisances=(LINES,)),
    "both": Projection.build(POINTS, DWELL, (10.0, 250.0), 2, (LINES,)),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))


def draw(signals: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn((signals, POINTS), dtype=torch.complex128, generator=generator)


@kinds
def test_twice_is_once(kind):
    once = KINDS[kind].apply(draw())
    torch.testing.assert_close(KINDS[kind].apply(once), once)


@kinds
def test_is_its_own_adjoint(kind):
    a, b = draw(2)
    left = (KINDS[kind].apply(a[None])[0].conj() * b).sum()
    right = (a.conj() * KINDS[kind].apply(b[None])[0]).sum()
    torch.testing.assert_close(left, right)


@kinds
def test_rank_counts_what_is_left(kind):
    eye = torch.eye(POINTS, dtype=torch.complex128)
    trace = KINDS[kind].apply(eye).diagonal().sum().real
    assert float(trace) == pytest.approx(KINDS[kind].rank)


def test_the_whole_spectrum_changes_nothing():
    torch.testing.assert_close(KINDS["whole"].apply(draw()), draw())


def test_lines_in_the_range_vanish():
    t = torch.arange(POINTS) * DWELL
    for hertz, damping in ((0.0, 50.0), (-13.0, 90.0), (7.7, 60.0)):
        line = torch.polar(torch.exp(-damping * t), 2 * torch.pi * hertz * t).to(torch.complex128)
        left = KINDS["nuisance"].apply(line[None])[0]
        assert float(left.norm() / line.norm()) < 0.02


def test_lines_outside_stay():
    t = torch.arange(POINTS) * DWELL
    line = torch.polar(torch.exp(-10 * t), 2 * torch.pi * 150 * t).to(torch.complex128)
    assert float(KINDS["nuisance"].apply(line[None]).norm() / line.norm()) > 0.98


@pytest.mark.parametrize(
    ("window", "order", "message"),
    [
        ((100.0, 900.0), None, "leaves the spectral width"),
        ((100.0, 110.0), None, "8 are needed"),
        ((100.0, 125.0), 7, "4 must be left"),
    ],
)
def test_empty_windows_are_refused(window, order, message):
    with pytest.raises(ValueError, match=message):
        Projection.build(POINTS, DWELL, window, order)
