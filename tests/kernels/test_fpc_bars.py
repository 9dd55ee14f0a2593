"""What frequency and phase correction must reach on the published simulation, 4000 signals."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from mrsi_engine.kernels.registration import Solver
from mrsi_engine.spectra.fpc_simulation import FpcSettings

_PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_fpc.py"
_SPEC = importlib.util.spec_from_file_location("bench_fpc", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
bench = importlib.util.module_from_spec(_SPEC)
sys.modules["bench_fpc"] = bench
_SPEC.loader.exec_module(bench)

BARS = {"baseline": (0.47, 3.8), "nuisance": (0.30, 2.5)}


def subspace(kind: str):
    return bench.baseline() if kind == "baseline" else bench.nuisance_free()


@pytest.fixture(scope="module")
def far():
    """The hardest set: shifts of +-60 Hz and any phase."""
    settings = FpcSettings(signals=4000, shift_hz=60.0, phase_rad=math.pi)
    return bench.Signals.make(settings, bench.published_template())


@pytest.mark.parametrize("kind", list(BARS))
def test_precision_and_bias(far, kind):
    row = bench.robust(far, subspace(kind), Solver(limit_hz=130.0), repeats=1)
    hertz, degrees = BARS[kind]
    assert row["lost"] == 0
    for name in ("all", "clean", "nuisance"):
        assert row["sd"][name][0] <= hertz
        assert row["sd"][name][1] <= degrees
    for bias in (row["bias"], row["bias_nuisance"]):
        assert abs(bias[0]) <= 0.05
        assert abs(bias[1]) <= 0.5
    # With and without nuisance peaks alike: two SDs of about 2000 signals each.
    for first, second in zip(row["sd"]["clean"], row["sd"]["nuisance"], strict=True):
        assert first / second == pytest.approx(1, abs=4 * math.sqrt(2 / (2 * 1500)))
