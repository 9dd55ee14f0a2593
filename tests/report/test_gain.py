"""SNR and linewidth measured without a fit, against signals whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.pipeline.pipeline import Pipeline, prepare_pipeline
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.pipeline.trace import trace_pipeline
from mrsi_engine.report.gain import gain_table, measure_line
from mrsi_engine.runs import finishing, one_scan
from mrsi_engine.runs.opened import open_run
from mrsi_engine.runs.reporting import traced_examples
from mrsi_engine.stages.averaging import Averaging
from mrsi_engine.stages.first_order_phase import FirstOrderPhase

RAW = Path(__file__).resolve().parents[3] / "shared" / "data" / "svs_7t_transients"

AXIS = Acquisition(4096, 2.5e-4, 123.25)
DAMPING = 12.0


def line(amplitude: float = 1.0, ppm: float = 2.01, damping: float = DAMPING) -> np.ndarray:
    return amplitude * np.exp((2j * np.pi * AXIS.frequency_of(ppm) - damping) * AXIS.time)


def noise(*shape: int, sd: float = 0.02, seed: int = 3) -> np.ndarray:
    return (
        sd
        * np.random.default_rng(seed)
        .standard_normal((*shape, AXIS.points, 2))
        .view(complex)[..., 0]
    )


def test_width_and_snr_of_a_lorentzian() -> None:
    """FWHM damping / pi, height 1 / (damping dwell) of an unnormalised spectrum; feet take 1 %."""
    found = measure_line(line() + noise(), AXIS, 2.01)
    assert found.fwhm == pytest.approx(DAMPING / np.pi, rel=0.03)
    height = 1 / (1 - math.exp(-DAMPING * AXIS.dwell_time)) / math.sqrt(AXIS.points)
    # The SD of the noise is read from 2 x 1700 numbers: 3 % is two SDs of its MAD.
    assert found.snr == pytest.approx(height / 0.02, rel=0.04)


def test_neither_phase_nor_shift_nor_water_matters() -> None:
    clean, rest = line(), noise()
    alone = measure_line(clean + rest, AXIS, 2.01)
    turned = measure_line(1j * clean + rest, AXIS, 2.01)
    shifted = measure_line(line(ppm=2.11) + rest, AXIS, 2.01)
    wet = measure_line(clean + line(40, 4.65, 20.0) + rest, AXIS, 2.01)
    for other in (turned, shifted, wet):
        assert other.fwhm == pytest.approx(alone.fwhm, rel=0.04)
        assert other.snr == pytest.approx(alone.snr, rel=0.05)


def traced(stages, fids: np.ndarray, dimensions: tuple[str, ...]):
    block = Block(torch.from_numpy(fids.astype(np.complex64)))
    pipeline = Pipeline(name="gain", stages=stages)
    return trace_pipeline(prepare_pipeline(pipeline, Context(AXIS, dimensions=dimensions)), block)


def test_sixteen_transients_gain_four() -> None:
    fids = line() + noise(1, 16, sd=0.1)
    found = gain_table(traced([Averaging(reject=False)], fids, ("dynamic",)))
    assert found is not None
    first, last = found.rows
    assert (first.step, last.step) == ("as acquired", "1. averaging")
    assert found.ppm == pytest.approx(2.01, abs=0.01)
    assert first.single is not None
    assert last.single is None
    # The plain mean is what averaging without rejection gives.
    assert last.mean.snr == pytest.approx(first.mean.snr, rel=1e-3)
    assert last.gain == pytest.approx(1.0, rel=1e-3)
    assert found.over_single == pytest.approx(4.0, rel=0.15)


def test_the_best_coil_stands_for_all() -> None:
    coils = np.array([0.3, 1.0, 0.6])[:, None] * line() + noise(1, 3)
    found = gain_table(traced([FirstOrderPhase(delay=1e-4)], coils, ("coil",)))
    assert found is not None
    assert found.rows[0].step == "as acquired, best coil"
    best = measure_line(coils[0, 1].astype(np.complex64), AXIS, found.ppm)
    assert found.rows[0].mean.snr == pytest.approx(best.snr, rel=1e-4)


def test_no_table_without_change_or_without_noise_to_measure() -> None:
    fids = line() + noise(1)
    assert gain_table(traced([Averaging(optional=True)], fids, ())) is None
    narrow = Acquisition(512, 1.2e-3, 123.25)
    block = Block(torch.from_numpy(fids[:, :512].astype(np.complex64)))
    pipeline = Pipeline(name="gain", stages=[FirstOrderPhase(delay=1e-4)])
    assert gain_table(trace_pipeline(prepare_pipeline(pipeline, Context(narrow)), block)) is None


@pytest.mark.skipif(not RAW.exists(), reason=f"the raw 7 T transients are not at {RAW}")
def test_raw_transients_gain_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 coils of 16 transients at 7 T. Measured: SNR 14.4 of one transient of the best coil, 51.7
    of their mean, 70 combined, 69 cleaned (1 % uncertain); width 12.5 to 11.8 Hz by eddy currents.
    """
    monkeypatch.setattr(finishing, "report_on", lambda folder, **content: folder)
    svs = Pipeline.load("svs")
    left_out = ("water_removal", "quantify", "quality_control")
    cleaning = [stage for stage in svs.stages if stage.stage not in left_out]
    inputs = one_scan.Inputs.of(RAW / "metab_raw.nii.gz", water=RAW / "wref_raw.nii.gz")
    one_scan.process(
        inputs,
        None,
        Pipeline(name="clean", stages=cleaning),
        tmp_path / "o",
        one_scan.Options(workers=0),
    )
    found = gain_table(traced_examples(open_run(tmp_path / "o")))
    assert found is not None
    rows = {row.step: row for row in found.rows}
    combined, eddy, aligned = (rows[f"{n}. {name}"] for n, name in _STEPS)
    assert found.ppm == pytest.approx(2.007, abs=0.01)
    assert combined.gain > 1.25
    assert eddy.mean.fwhm < 0.98 * combined.mean.fwhm
    assert aligned.mean.snr > 0.98 * eddy.mean.snr
    assert aligned.single is not None
    assert 3.3 < rows["5. averaging"].mean.snr / aligned.single.snr < 4.4
    assert found.over_single > 4.4


_STEPS = ((1, "coil_combination"), (2, "eddy_current"), (4, "fpc"))
