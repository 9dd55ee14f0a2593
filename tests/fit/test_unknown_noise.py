"""Errors of fits whose noise was brought back to white, and of fits whose noise is not known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import WHITE, Flag, ScanNoise, Status
from mrsi_engine.io.noise_at_import import noise_of_scan
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.stages.quality_control import QualityControl
from mrsi_engine.stages.quantify import Quantify
from tests.scenes import GREY_MATTER, Lineshape, clean_fid, noise, press_basis, sd_for_snr

BASIS = press_basis(1024, 0.4e-3)
AXIS = BASIS.acquisition
FID = clean_fid(BASIS, GREY_MATTER, Lineshape())
SD = sd_for_snr(BASIS, FID, 60.0)
SUMS = {
    "NAANAAG": ("NAA", "NAAG"), "CrPCr": ("Cr", "PCr"), "GPCPCh": ("GPC", "PCh"),
    "Ins": ("Ins",), "GluGln": ("Glu", "Gln"),
}  # fmt: skip
UNKNOWN = ScanNoise("filtered")


def noisy(draws: int, seed: int = 0) -> np.ndarray:
    return FID + noise(np.random.default_rng(seed), draws, AXIS.points, SD)


def fitted(fids: np.ndarray, scan_noise: ScanNoise = WHITE, **settings: Any) -> Block:
    axis = AXIS.with_points(fids.shape[1])
    stage = Quantify(method="least-squares", **settings)
    block = Block(torch.from_numpy(fids.astype(np.complex64)))
    stage.build(Context(axis, BASIS.matched_to(axis), noise=scan_noise))(block)
    return block


def scores(block: Block) -> dict[str, np.ndarray]:
    """(estimate - truth) / SD of each draw."""
    return {
        name: (
            (block.estimate[name] - sum(GREY_MATTER[m] for m in members)) / block.sd[name]
        ).numpy()
        for name, members in SUMS.items()
    }


def processed(kind: str, fids: np.ndarray) -> np.ndarray:
    time = AXIS.time
    gaussian = np.exp(-((np.pi * 5 * time) ** 2) / (4 * np.log(2)))
    whole = {"x1.5": 1536, "x2": 2048, "x4": 4096}
    for part in kind.split():
        if part in whole:
            fids = np.pad(fids, [(0, 0), (0, whole[part] - fids.shape[1])])
        else:
            envelope = gaussian if part == "gaussian" else np.exp(-np.pi * float(part) * time)
            fids = fids * envelope
    return fids.astype(np.complex64)


@pytest.mark.parametrize(
    "kind", ["x1.5", "x2", "x4", "2", "5", "10", "gaussian", "5 x2", "gaussian x4"]
)
def test_errors_are_true_whatever_was_done_before(kind: str) -> None:
    """The SD of 300 scores is known to 1 / sqrt(600) = 0.041; measured 0.97 to 1.01.

    Untreated, 1.2 to 1.5 and 2.7 to 3.5 zero-filled twice and four times, 5.0 to 5.7 with 5 Hz and
    3.6 to 4.3 with a Gaussian of 5 Hz.
    """
    draws = 300
    done = processed(kind, noisy(draws))
    found = noise_of_scan(done, AXIS.with_points(done.shape[1]), [], (-0.5, 6.0))
    block = fitted(found.whitened(done, AXIS), found.noise)
    assert (block.flags == 0).all()
    for name, score in scores(block).items():
        assert abs(score.std() - 1) < 3.3 / np.sqrt(2 * draws), name
        assert abs(score.mean()) < 3.5 / np.sqrt(draws) + 0.1, name


class TestUnknown:
    def test_there_is_no_bound(self) -> None:
        block = fitted(noisy(5), UNKNOWN)
        assert (block.flags == Flag.UNKNOWN_NOISE).all()
        assert (block.status == Status.LEAST_SQUARES).all()
        for name in SUMS:
            assert block.estimate[name].isfinite().all()
            assert block.sd[name].isnan().all()
        for name in ("snr", "noise_sd", "fit_quality"):
            assert block.measures[name].isnan().all()
        assert block.measures["fwhm"].isfinite().all()

    def test_estimates_are_those_of_known_noise(self) -> None:
        fids = noisy(5)
        known, unknown = fitted(fids), fitted(fids, UNKNOWN)
        for name, values in known.estimate.items():
            assert torch.equal(values, unknown.estimate[name])

    def test_errors_of_the_residual(self) -> None:
        """Right where a filter is flat in the window: here it lets 0 to 5 ppm through.

        300 scores, as above.
        """
        passed = np.fft.ifftshift((AXIS.ppm > 0) & (AXIS.ppm < 5))
        fids = np.fft.ifft(np.fft.fft(noisy(300)) * passed)
        found = noise_of_scan(fids.astype(np.complex64), AXIS, [], (-0.5, 6.0))
        assert found.noise.unknown
        window = {"window_ppm": (1.0, 4.0), "leave_out": ("Lac", "Ala"), "errors": "residual"}
        truth = FID - sum(
            clean_fid(BASIS, {name: GREY_MATTER[name]}, Lineshape()) for name in ("Lac", "Ala")
        )
        block = fitted(fids - np.fft.ifft(np.fft.fft(FID - truth) * passed), found.noise, **window)
        assert (block.flags == Flag.UNKNOWN_NOISE).all()
        for name, score in scores(block).items():
            assert abs(score.std() - 1) < 3.3 / np.sqrt(600), name

    def test_a_stated_noise_is_known(self) -> None:
        block = fitted(noisy(3), UNKNOWN, noise_sd=SD)
        assert (block.flags == 0).all()
        assert block.sd["CrPCr"].isfinite().all()

    def test_too_few_quiet_bins_are_left(self) -> None:
        narrow = ScanNoise(flat_hz=(-450.0, 650.0))
        assert (fitted(noisy(3), narrow).flags == Flag.UNKNOWN_NOISE).all()

    def test_noise_is_measured_where_it_is_flat(self) -> None:
        """A receiver that halves the noise beyond 1 kHz halves that of the median elsewhere."""
        hertz = np.fft.fftfreq(AXIS.points, AXIS.dwell_time)
        fids = np.fft.ifft(np.fft.fft(noisy(40)) * np.where(np.abs(hertz) < 800, 1.0, 0.5))
        level = [
            float(fitted(fids, known).measures["noise_sd"].mean()) / SD
            for known in (WHITE, ScanNoise(flat_hz=(-800.0, 800.0)))
        ]
        assert level[0] < 0.8
        assert abs(level[1] - 1) < 0.05

    def test_it_is_written_down(self) -> None:
        context = Context(AXIS, BASIS, noise=UNKNOWN)
        said = Quantify(method="least-squares").assumptions(context)
        assert said == {"noise": "cannot be measured: filtered", "errors": "none"}
        assert Quantify(method="least-squares").assumptions(Context(AXIS, BASIS)) == {}

    def test_low_snr_is_not_the_reason(self) -> None:
        block = fitted(noisy(3), UNKNOWN)
        QualityControl().build(Context(AXIS, BASIS))(block)
        assert (block.flags & int(Flag.LOW_SNR) == 0).all()
