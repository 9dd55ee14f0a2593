"""Registration: known shifts and phases come back, with the errors their bounds promise."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from fpc_signals import AXIS, TIME, angle_between, hertz, placed, spectrum_3t, white

from mrsi_engine.kernels.alignment import corrected, turned, wrapped
from mrsi_engine.kernels.projection import LineRange, Projection
from mrsi_engine.kernels.registration import Registration, Solver, correlate, hold, register
from mrsi_engine.kernels.varpro import Code

TEMPLATE = spectrum_3t()
WATER = LineRange(-12.0, 12.0, 20.0, 80.0, 6)
PROJECTIONS = {
    "time domain": Projection.build(AXIS.points, AXIS.dwell_time),
    "window": Projection.build(AXIS.points, AXIS.dwell_time, hertz(1.8, 4.2)),
    "baseline": Projection.build(AXIS.points, AXIS.dwell_time, hertz(1.8, 4.2), 2),
    "nuisance": Projection.build(AXIS.points, AXIS.dwell_time, nuisances=(WATER,)),
}
REGISTRATIONS = {
    name: Registration.build(
        TEMPLATE, p, start=PROJECTIONS["baseline"] if name == "nuisance" else None
    )
    for name, p in PROJECTIONS.items()
}
names = pytest.mark.parametrize("name", list(REGISTRATIONS))


def noise_sd(signals: int, sd: float) -> torch.Tensor:
    return torch.full((signals,), sd, dtype=torch.float64)


def random_signals(signals: int, sd: float, seed: int, limit: float = 60.0):
    rng = np.random.default_rng(seed)
    truth = {
        "shift": rng.uniform(-limit, limit, signals),
        "phase": rng.uniform(-np.pi, np.pi, signals),
        "amplitude": rng.uniform(0.7, 1.5, signals),
        "damping": rng.uniform(-3.0, 12.0, signals),
    }
    clean = placed(TEMPLATE, *truth.values())
    return (clean + white(signals, sd, seed + 1)).to(torch.complex64), truth


class TestRecovery:
    @names
    @given(
        shift=st.floats(-60, 60),
        phase=st.floats(-3.14, 3.14),
        amplitude=st.floats(1e-3, 1e4),
        damping=st.floats(-5, 30),
    )
    @settings(max_examples=25, deadline=None)
    def test_exact_without_noise(self, name, shift, phase, amplitude, damping):
        fids = placed(TEMPLATE, [shift], [phase], [amplitude], [damping]).to(torch.complex64)
        found = register(REGISTRATIONS[name], fids, noise_sd(1, 0.0))
        assert found.code[0] == Code.CONVERGED
        assert abs(found.shift[0] - shift) < 2e-3
        assert abs(angle_between(found.phase, phase)[0]) < 1e-3
        assert found.amplitude[0] == pytest.approx(amplitude, rel=1e-3)
        assert found.damping[0] == pytest.approx(damping, abs=2e-2)

    @names
    def test_errors_reach_their_bounds(self, name):
        signals = 1500
        fids, truth = random_signals(signals, 0.5, 7)
        found = register(REGISTRATIONS[name], fids, noise_sd(signals, 0.5))
        assert bool((found.code == Code.CONVERGED).all())
        for error, sd in (
            (found.shift - torch.from_numpy(truth["shift"]), found.shift_sd),
            (angle_between(found.phase, truth["phase"]), found.phase_sd),
        ):
            z = error / sd
            # The SD of 1500 normal numbers is known to 1.8 %: 4 of these and 2 % of curvature.
            assert 0.92 < float(z.std()) < 1.09
            assert abs(float(z.mean())) < 4 / signals**0.5

    def test_bounds_without_damping_are_smaller_and_true(self):
        signals = 1500
        rng = np.random.default_rng(3)
        shift, phase = rng.uniform(-20, 20, signals), rng.uniform(-3, 3, signals)
        clean = placed(TEMPLATE, shift, phase, np.ones(signals), np.zeros(signals))
        fids = (clean + white(signals, 0.5, 4)).to(torch.complex64)
        held = register(
            REGISTRATIONS["window"], fids, noise_sd(signals, 0.5), Solver(fit_damping=False)
        )
        free = register(REGISTRATIONS["window"], fids, noise_sd(signals, 0.5))
        assert bool((held.damping == 0).all())
        assert float(held.phase_sd.mean()) <= float(free.phase_sd.mean()) * (1 + 1e-4)
        z = angle_between(held.phase, phase) / held.phase_sd
        assert 0.92 < float(z.std()) < 1.09

    def test_correction_brings_the_template_back(self):
        shift, phase = torch.tensor([33.0, -48.5]), torch.tensor([2.5, -1.0])
        fids = placed(TEMPLATE, shift, phase, [1.0, 1.0], [0.0, 0.0])
        found = register(REGISTRATIONS["baseline"], fids.to(torch.complex64), noise_sd(2, 0.01))
        back = corrected(fids, AXIS.dwell_time, found.shift, found.phase)
        assert float((back - TEMPLATE).abs().max()) < 2e-3 * float(TEMPLATE.abs().max())


class TestNuisance:
    def test_a_smooth_baseline_does_not_bias(self):
        shift = np.linspace(-60, 60, 41)
        clean = placed(TEMPLATE, shift, np.full(41, 0.4), np.ones(41), np.zeros(41))
        # One millisecond of decay is 2.6 ppm wide at this field.
        broad = placed(
            torch.exp(-1000 * TIME).to(torch.complex128), shift, [1.0] * 41, [8.0] * 41, [0.0] * 41
        )
        fids = (clean + broad).to(torch.complex64)
        with_baseline = register(REGISTRATIONS["baseline"], fids, noise_sd(41, 0.5))
        without = register(REGISTRATIONS["window"], fids, noise_sd(41, 0.5))
        error = angle_between(with_baseline.phase, 0.4).abs().max()
        assert float(error) < 0.02
        assert float(angle_between(without.phase, 0.4).abs().min()) > 4 * float(error)

    def test_water_in_the_subspace_does_not_bias(self):
        shift = np.linspace(-60, 60, 41)
        clean = placed(TEMPLATE, shift, np.full(41, 0.4), np.ones(41), np.zeros(41))
        line = torch.polar(torch.exp(-40 * TIME), 2 * torch.pi * 5 * TIME)
        water = placed(line, shift, np.linspace(-3, 3, 41), np.full(41, 100.0), np.zeros(41))
        fids = (clean + water).to(torch.complex64)
        found = register(REGISTRATIONS["nuisance"], fids, noise_sd(41, 0.5))
        plain = register(REGISTRATIONS["time domain"], fids, noise_sd(41, 0.5))
        assert float((found.shift - torch.from_numpy(shift)).abs().max()) < 0.1
        assert float(angle_between(found.phase, 0.4).abs().max()) < 0.03
        assert float((plain.shift - torch.from_numpy(shift)).abs().max()) > 1.0


class TestBatch:
    def test_signals_do_not_touch_each_other(self):
        fids, _ = random_signals(64, 0.5, 11)
        noise = noise_sd(64, 0.5)
        whole = register(REGISTRATIONS["baseline"], fids, noise)
        alone = register(REGISTRATIONS["baseline"], fids[17:18], noise[17:18])
        assert float(whole.shift[17]) == pytest.approx(float(alone.shift[0]), abs=1e-4)
        assert float(whole.phase[17]) == pytest.approx(float(alone.phase[0]), abs=1e-4)

    def test_signals_that_say_nothing_get_a_code(self):
        fids, _ = random_signals(6, 0.1, 12)
        fids[1] = 0
        fids[3, 100] = complex("nan")
        fids[4, 5] = complex("inf")
        found = register(REGISTRATIONS["baseline"], fids, noise_sd(6, 0.1))
        assert found.code.tolist() == [1, 4, 1, 4, 4, 1]
        for values in (found.shift, found.phase, found.shift_sd, found.phase_sd, found.amplitude):
            assert torch.isnan(values).tolist() == [False, True, False, True, True, False]

    def test_no_signals(self):
        found = register(
            REGISTRATIONS["baseline"], torch.zeros((0, 512), dtype=torch.complex64), noise_sd(0, 1)
        )
        assert found.shift.shape == (0,)

    def test_noise_alone_ends(self):
        fids = white(200, 1.0, 5).to(torch.complex64)
        found = register(REGISTRATIONS["baseline"], fids, noise_sd(200, 1.0))
        assert set(found.code.tolist()) <= {1, 3, 4}
        # A bound beyond the range searched says that the estimate means nothing.
        assert float(found.shift_sd.nanmedian()) > 1.0


class TestLimits:
    def test_a_shift_beyond_the_limit_is_not_found(self):
        fids = placed(TEMPLATE, [50.0], [0.0], [1.0], [0.0]).to(torch.complex64)
        near = register(REGISTRATIONS["time domain"], fids, noise_sd(1, 0.1), Solver(limit_hz=10))
        far = register(REGISTRATIONS["time domain"], fids, noise_sd(1, 0.1), Solver(limit_hz=60))
        assert abs(float(near.shift[0])) < 40
        assert float(far.shift[0]) == pytest.approx(50, abs=0.01)

    def test_a_given_start_is_used(self):
        fids = placed(TEMPLATE, [50.0], [0.0], [1.0], [0.0]).to(torch.complex64)
        start = torch.tensor([49.0], dtype=torch.float64)
        found = register(
            REGISTRATIONS["baseline"], fids, noise_sd(1, 0.1), Solver(limit_hz=5), start
        )
        assert float(found.shift[0]) == pytest.approx(50, abs=0.01)

    def test_damping_stays_in_its_range(self):
        narrow = Registration.build(TEMPLATE, PROJECTIONS["window"], damping=(-1.0, 2.0))
        fids = placed(TEMPLATE, [5.0], [0.0], [1.0], [10.0]).to(torch.complex64)
        assert float(register(narrow, fids, noise_sd(1, 0.1)).damping[0]) == 2.0

    def test_samples_left_out_keep_the_phase_at_zero_time(self):
        late = Projection.build(AXIS.points - 20, AXIS.dwell_time)
        ready = Registration.build(TEMPLATE, late, first=20)
        fids = placed(TEMPLATE, [25.0], [1.2], [1.0], [3.0])
        fids[:, :20] = 50
        found = register(ready, fids.to(torch.complex64), noise_sd(1, 0.01))
        assert float(found.phase[0]) == pytest.approx(1.2, abs=1e-3)
        assert float(found.shift[0]) == pytest.approx(25, abs=1e-3)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"template": TEMPLATE[:100]}, "the template has 100 points, 512 are needed"),
            ({"damping": (1.0, 5.0)}, "does not hold the start"),
            ({"damping": (0.0, 0.0)}, "does not hold the start"),
        ],
    )
    def test_what_cannot_be_prepared_is_refused(self, change, message):
        given_ = {"template": TEMPLATE, "projection": PROJECTIONS["window"]} | change
        with pytest.raises(ValueError, match=message):
            Registration.build(**given_)


class TestTrust:
    @names
    def test_chance_is_that_of_noise(self, name):
        """Damping and the search between the shifts counted as tried make it a few times more."""
        noise = white(4000, 1.0, seed=11).to(torch.complex64)
        found = register(REGISTRATIONS[name], noise, noise_sd(4000, 1.0), Solver(20.0))
        share = float((found.chance < 0.01).double().mean())
        assert 0.002 < share < 0.05
        assert found.trusted.sum() <= 30

    def test_signals_are_trusted(self):
        signals, _ = random_signals(50, 2.0, seed=3)
        found = register(REGISTRATIONS["baseline"], signals, noise_sd(50, 2.0), Solver(70.0))
        assert found.trusted.all()

    def test_a_known_shift_gives_the_phase(self):
        signals, truth = random_signals(400, 4.0, seed=5)
        noise, ready = noise_sd(400, 4.0), REGISTRATIONS["baseline"]
        shift, damping = (torch.from_numpy(truth[name]) for name in ("shift", "damping"))
        own = register(ready, signals, noise, Solver(70.0))
        known = hold(ready, signals, noise, shift, torch.zeros(400).double(), damping)
        error = angle_between(known.phase, truth["phase"])
        assert torch.equal(known.shift, shift)
        # 400 draws know an SD to 3.5 %.
        assert float((error / known.phase_sd).std()) == pytest.approx(1, abs=0.15)
        same = hold(ready, signals, noise, own.shift, own.shift_sd, own.damping)
        torch.testing.assert_close(same.phase_sd, own.phase_sd)
        assert (known.phase_sd < same.phase_sd).all()


class TestCorrelation:
    def test_within_a_step_of_the_truth(self):
        fids, truth = random_signals(200, 0.5, 21)
        found = correlate(REGISTRATIONS["baseline"], fids, noise_sd(200, 0.5))
        error = found.shift - torch.from_numpy(truth["shift"])
        # Half a step of the zero-filled transform is 1 Hz here.
        assert float(error.abs().max()) < 1.0
        assert found.code.unique().tolist() == [Code.CONVERGED]

    def test_registration_improves_on_it(self):
        fids, truth = random_signals(400, 0.3, 22)
        noise = noise_sd(400, 0.3)
        shift = torch.from_numpy(truth["shift"])
        corr = (correlate(REGISTRATIONS["baseline"], fids, noise).shift - shift).std()
        full = (register(REGISTRATIONS["baseline"], fids, noise).shift - shift).std()
        assert float(full) < 0.8 * float(corr)


class TestTurned:
    @given(st.floats(-500, 500), st.floats(-7, 7), st.integers(0, 40))
    @settings(max_examples=30, deadline=None)
    def test_is_the_carrier(self, shift, phase, first):
        ones = torch.ones((1, 301), dtype=torch.complex64)
        found = turned(
            ones, 1e-3, torch.tensor([shift]).double(), torch.tensor([phase]).double(), first
        )
        t = (torch.arange(301, dtype=torch.float64) + first) * 1e-3
        shift64, phase64 = float(torch.tensor(shift)), float(torch.tensor(phase))
        expected = torch.polar(torch.ones_like(t), phase64 + 2 * torch.pi * shift64 * t)
        assert float((found[0] - expected).abs().max()) < 1e-5

    def test_unknown_shifts_leave_the_signal(self):
        fids = white(2, 1.0, 1)
        nan = torch.tensor([float("nan"), 0.0], dtype=torch.float64)
        assert torch.equal(corrected(fids, 1e-3, nan, nan), fids)

    def test_wrapped(self):
        assert wrapped(torch.tensor([4.0, -4.0, 1.0])).tolist() == pytest.approx(
            [4.0 - 2 * np.pi, 2 * np.pi - 4.0, 1.0], abs=1e-6
        )
