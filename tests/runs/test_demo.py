"""Estimates of simulated scans against their truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm

from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.report.truth import TruthRow, result_truth_table
from mrsi_engine.runs.demo import demo, simulate_scan
from mrsi_engine.runs.one_scan import Options, process
from mrsi_engine.spectra.phantom import PhantomSettings
from tests.runs.phantom_run import BASIS, inputs_of


def bounds_of_ratio(
    row: TruthRow, result: xr.Dataset, low: float, high: float
) -> tuple[float, float]:
    """Range of RMSE/CRLB at 99.99 % for a true SD of ``low`` to ``high`` CRLBs.

    The mean of squared errors of voxels with unequal variances v has a relative variance of
    2 sum(v^2) / sum(v)^2, its root a quarter of that.
    """
    variance = np.square(result["sd"].sel(parameter=row.label).values.astype(float))
    spread = np.sqrt(0.5 * np.sum(variance**2)) / np.sum(variance)
    margin = norm.ppf(1 - 0.5e-4) * spread
    return low * (1 - margin), high * (1 + margin)


@pytest.mark.usefixtures("quick_report")
class TestTruth:
    def test_errors_are_those_the_bounds_say(self, tmp_path: Path) -> None:
        """The bar of the issue: an SD of 0.95 to 1.10 CRLBs where the CRLB is below 20 %."""
        settings = PhantomSettings(shape=(12, 12, 3), seed=2, snr=40.0, nuisance="none")
        phantom = simulate_scan(tmp_path / "phantom", settings)
        pipeline = Pipeline.load("minimal")
        inputs = inputs_of(tmp_path / "phantom")
        done = process(inputs, BASIS, pipeline, tmp_path / "out", Options(workers=0))
        result = done.result.load()
        rows = result_truth_table(result, phantom.truth, min_snr=0.0)
        certain = [row for row in rows if row.crlb < 0.2 * row.truth]
        assert len(certain) >= 8
        for row in certain:
            assert row.voxels == int(phantom.mask.sum())
            low, high = bounds_of_ratio(row, result, 0.95, 1.10)
            assert low < row.ratio < high, row
            assert abs(row.bias) < 4 * row.bias_error, row

    def test_demo(self, tmp_path: Path) -> None:
        """Default pipeline, residual water, spline baseline. Measured 0.84 to 1.02."""
        settings = PhantomSettings(shape=(12, 12, 3), seed=1, snr=40.0, nuisance="water")
        done, rows = demo(tmp_path, settings, Options(workers=0))
        result = done.result.load()
        assert done.summary.finished
        assert (tmp_path / "scan" / "truth" / "NAA.nii.gz").exists()
        assert {"tNAA", "tCr", "tCho", "Glx", "Ins"} <= {row.title for row in rows}
        certain = [row for row in rows if row.crlb < 0.2 * row.truth]
        assert len(certain) >= 8
        for row in certain:
            low, high = bounds_of_ratio(row, result, 0.8, 1.10)
            assert low < row.ratio < high, row
            assert abs(row.bias) < 4 * row.bias_error, row
