"""Templates from the data: better than one transient, the same for any blocks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fpc_signals import AXIS, angle_between, hertz, placed, spectrum_3t, white

from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.projection import Projection
from mrsi_engine.kernels.registration import Registration, Solver, register
from mrsi_engine.kernels.template import (
    TemplateSums,
    averaged_template,
    combine_picks,
    finish_template,
    first_pass,
    summarise_aligned,
    summarise_pick,
)

SIGNALS, SD = 400, 1.0
TEMPLATE = spectrum_3t()
SEEN = Projection.build(AXIS.points, AXIS.dwell_time, hertz(1.8, 4.2), 2)
BAND = Band.between(AXIS.points, AXIS.dwell_time, *hertz(1.8, 4.2))
NOISE = torch.full((SIGNALS,), SD, dtype=torch.float64)


@pytest.fixture(scope="module")
def signals():
    rng = np.random.default_rng(8)
    shift, phase = rng.uniform(-40, 40, SIGNALS), rng.uniform(-3, 3, SIGNALS)
    clean = placed(TEMPLATE, shift, phase, np.ones(SIGNALS), np.zeros(SIGNALS))
    return (clean + white(SIGNALS, SD, 9)).to(torch.complex64), shift, phase


def spread(found, shift, phase):
    hertz_error = found.shift - torch.from_numpy(shift)
    turn = angle_between(found.phase, phase)
    return float(hertz_error.std()), float(angle_between(turn, turn[0]).std())


def test_average_beats_one_transient(signals):
    fids, shift, phase = signals
    pick = summarise_pick(fids, NOISE, BAND)
    one = register(Registration.build(pick.fid, SEEN), fids, NOISE, Solver(fit_damping=False))
    template, _ = averaged_template(fids, NOISE, SEEN, BAND)
    many = register(Registration.build(template, SEEN), fids, NOISE)
    true = register(Registration.build(TEMPLATE, SEEN), fids, NOISE)
    assert spread(many, shift, phase)[0] < 0.9 * spread(one, shift, phase)[0]
    # What is left to the true template is the noise of 400 averages.
    assert spread(many, shift, phase)[0] < 1.05 * spread(true, shift, phase)[0]
    assert spread(many, shift, phase)[1] < 1.05 * spread(true, shift, phase)[1]


@pytest.mark.parametrize("size", [7, 100, 399])
def test_blocks_do_not_matter(signals, size):
    fids, _, _ = signals
    picks = [
        summarise_pick(f, n, BAND) for f, n in zip(fids.split(size), NOISE.split(size), strict=True)
    ]
    pick = picks[0]
    for other in picks[1:]:
        pick = combine_picks(pick, other)
    assert torch.equal(pick.fid, summarise_pick(fids, NOISE, BAND).fid)
    ready = Registration.build(pick.fid, SEEN)
    parts = []
    for f, n in zip(fids.split(size), NOISE.split(size), strict=True):
        part = summarise_aligned(f, register(ready, f, n, first_pass(Solver())), n, AXIS.dwell_time)
        parts.append(part)
    sums = TemplateSums(sum(p.fid for p in parts), sum(p.weight for p in parts))
    whole = register(ready, fids, NOISE, first_pass(Solver()))
    expected = finish_template(summarise_aligned(fids, whole, NOISE, AXIS.dwell_time), pick.fid)
    torch.testing.assert_close(finish_template(sums, pick.fid), expected, rtol=1e-3, atol=1e-3)


def test_bad_signals_are_neither_picked_nor_averaged(signals):
    fids, _, _ = signals
    fids = fids[:50].clone()
    clean, _ = averaged_template(fids, NOISE[:50], SEEN, BAND)
    bad = torch.full((3, AXIS.points), complex("nan"), dtype=torch.complex64)
    bad[0] = 0
    noise = torch.cat([NOISE[:50], torch.tensor([0.0, float("nan"), 1.0])])
    template, pick = averaged_template(torch.cat([fids, bad]), noise, SEEN, BAND)
    assert bool(torch.isfinite(pick.fid.abs()).all())
    torch.testing.assert_close(template, clean, rtol=1e-4, atol=1e-4)


def test_quieter_signals_count_more(signals):
    fids, _, _ = signals
    quiet = fids[:2]
    found = register(Registration.build(TEMPLATE, SEEN), quiet, NOISE[:2])
    noise = torch.tensor([0.1, 10.0], dtype=torch.float64)
    only = summarise_aligned(
        quiet[:1], type(found)(*(v[:1] for v in vars(found).values())), noise[:1], AXIS.dwell_time
    )
    both = summarise_aligned(quiet, found, noise, AXIS.dwell_time)
    torch.testing.assert_close(
        finish_template(both, fids[0]), finish_template(only, fids[0]), rtol=1e-2, atol=1e-2
    )


def test_nothing_to_average_keeps_the_fallback():
    zeros = torch.zeros((3, AXIS.points), dtype=torch.complex64)
    found = register(Registration.build(TEMPLATE, SEEN), zeros, NOISE[:3])
    fallback = TEMPLATE.to(torch.complex64)
    sums = summarise_aligned(zeros, found, NOISE[:3], AXIS.dwell_time)
    assert torch.equal(finish_template(sums, fallback), fallback)
