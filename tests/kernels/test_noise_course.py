"""What the noise of simulated and real FIDs is said to be like; the truth is known."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mrsi_engine.kernels.noise_course import NoiseCourse, acquired_points, noise_course

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

needs_data = pytest.mark.skipif(not SHARED.exists(), reason=f"no real scans at {SHARED}")

POINTS, DWELL, FREQUENCY = 1024, 0.4e-3, 123.25
TIME = np.arange(POINTS) * DWELL
LINES_PPM = (-0.5, 6.0)


def course(fids: np.ndarray, dwell: float = DWELL, frequency: float = FREQUENCY) -> NoiseCourse:
    low, high = sorted((4.65 - p) * frequency for p in LINES_PPM)
    return noise_course(torch.from_numpy(fids.astype(np.complex64)), dwell, (low, high))


def scene(
    seed: int,
    signals: int,
    points: int = POINTS,
    dwell: float = DWELL,
    frequency: float = FREQUENCY,
    nuisances: bool = True,
) -> np.ndarray:
    """White noise of SD 1 a channel with metabolites, water, lipids and a baseline."""
    rng = np.random.default_rng([seed, signals, points])
    time = np.arange(points) * dwell
    lines = [(2.01, 5.0, 12.0), (3.03, 4.0, 12.0), (3.2, 2.0, 12.0), (0.9, 3.0, 60.0)]
    if nuisances:
        lines += [(4.7, 500.0, 12.0), (1.3, 250.0, 40.0), (4.0, 50.0, 400.0)]
    fids = rng.standard_normal((signals, points)) + 1j * rng.standard_normal((signals, points))
    for ppm, height, damping in lines:
        hertz = (4.65 - ppm) * frequency + rng.normal(0, 3, (signals, 1))
        amplitude = height * np.exp(0.3 * rng.standard_normal((signals, 1)))
        fids += amplitude * np.exp((2j * np.pi * hertz - damping) * time)
    return fids


def gaussian(width: float) -> np.ndarray:
    """Envelope whose line is ``width`` Hz wide at half height."""
    return np.exp(-((np.pi * width * TIME) ** 2) / (4 * np.log(2)))


class TestWhite:
    """One alarm in a thousand scans is allowed; 10 800 others of these kinds gave 1."""

    @pytest.mark.parametrize(
        ("signals", "points", "dwell", "frequency"),
        [
            *((1, 64, 1e-3, 123.2), (60, 64, 1e-3, 123.2), (8, 128, 0.5e-3, 123.2)),
            *((1, 512, 0.36e-3, 297.2), (40, 512, 0.36e-3, 297.2), (1, 1024, 0.5e-3, 123.2)),
            *((60, 1024, 0.4e-3, 123.2), (1, 2048, 0.25e-3, 123.2), (1, 4096, 83e-6, 297.2)),
        ],
    )
    @pytest.mark.parametrize("nuisances", [False, True])
    def test_is_found_white(
        self, signals: int, points: int, dwell: float, frequency: float, nuisances: bool
    ) -> None:
        for seed in range(3):
            fids = scene(seed, signals, points, dwell, frequency, nuisances)
            assert course(fids, dwell, frequency) == NoiseCourse(points, points)

    def test_smoothing_in_space_is_no_matter(self) -> None:
        """Each voxel's noise stays white in time."""
        fids = scene(0, 144).reshape(12, 12, -1)
        near = sum(np.roll(fids, (dx, dy), (0, 1)) for dx in (0, 1) for dy in (0, 1))
        assert course(near.reshape(144, -1)) == NoiseCourse(POINTS, POINTS)

    @needs_data
    @pytest.mark.parametrize(
        ("name", "dwell", "frequency"),
        [
            ("mrsi_3t_brain/mrsi", 0.5e-3, 123.255),
            ("mrsi_3t_brain/mrsi_artefact", 0.5e-3, 123.255),
            ("svs_7t_transients/metab_raw", 83.3e-6, 297.2),
        ],
    )
    def test_real_scans(self, name: str, dwell: float, frequency: float) -> None:
        """That of the receiver at 7 T falls off towards the edges of the spectrum."""
        found = course(real(name), dwell, frequency)
        assert (found.unknown, bool(found.envelope)) == ("", False)
        assert (found.flat_hz is not None) == name.startswith("svs")


class TestTail:
    @pytest.mark.parametrize("whole", [1025, 1536, 2048, 4096])
    def test_zero_filled(self, whole: int) -> None:
        fids = np.pad(scene(1, 5), [(0, 0), (0, whole - POINTS)])
        assert course(fids) == NoiseCourse(POINTS, POINTS)

    def test_what_rounding_leaves_is_no_signal(self) -> None:
        """A shift by half a bin through the spectrum leaves 1e-7 of the signal in the tail."""
        fids = np.pad(scene(2, 5), [(0, 0), (0, POINTS)]).astype(np.complex64)
        turned = fids * np.exp(2j * np.pi * 1.2 * np.arange(2 * POINTS) * DWELL)
        shifted = np.fft.ifft(np.fft.fft(turned)).astype(np.complex64)
        shifted += 1e-6 * scene(3, 5, 2 * POINTS, nuisances=False)
        assert (shifted[:, POINTS:] != 0).all()
        assert acquired_points(torch.from_numpy(shifted)) == POINTS

    def test_one_signal_that_goes_on_counts(self) -> None:
        fids = np.pad(scene(4, 5), [(0, 0), (0, POINTS)])
        fids[3] = scene(5, 1, 2 * POINTS)[0]
        assert acquired_points(torch.from_numpy(fids)) == 2 * POINTS


class TestDecay:
    """Half of 20 spectra is quiet, 10 000 independent samples over 0.41 s: a rate is known to
    sqrt(12) / (2 * 100 * 0.41) = 0.042/s or 0.013 Hz were each used once; windows and the median
    over signals take it to 0.03 Hz.
    """

    @pytest.mark.parametrize("width", [2.0, 5.0, 10.0])
    def test_exponential(self, width: float) -> None:
        found = course(scene(6, 20) * np.exp(-np.pi * width * TIME))
        assert found.unknown == ""
        assert found.envelope.quadratic == 0
        assert abs(found.envelope.linear / np.pi - width) < 0.1

    @pytest.mark.parametrize("width", [3.0, 5.0, 8.0])
    def test_gaussian(self, width: float) -> None:
        found = course(scene(7, 20) * gaussian(width))
        assert found.envelope.linear == 0
        at_half = np.sqrt(found.envelope.quadratic * 4 * np.log(2)) / np.pi
        assert abs(at_half - width) < 0.1

    def test_lorentz_to_gauss(self) -> None:
        found = course(scene(8, 20) * np.exp(3 * np.pi * TIME) * gaussian(8.0))
        assert found.unknown == ""
        assert found.envelope.linear < 0 < found.envelope.quadratic

    def test_zero_filled_too(self) -> None:
        apodised = scene(9, 20) * np.exp(-np.pi * 5 * TIME)
        found = course(np.pad(apodised, [(0, 0), (0, POINTS)]))
        assert (found.acquired, found.points) == (POINTS, POINTS)
        assert abs(found.envelope.linear / np.pi - 5) < 0.1

    def test_what_is_lost_is_cut(self) -> None:
        """40 Hz for 0.41 s leave e^-51."""
        found = course(scene(10, 20) * np.exp(-np.pi * 40 * TIME))
        assert found.points < found.acquired == POINTS
        assert found.envelope.log(torch.tensor(found.points * DWELL)) > np.log(1e-7)

    def test_no_law(self) -> None:
        found = course(scene(11, 20) * np.cos(np.pi / 2 * TIME / TIME[-1]) ** 2)
        assert "no law" in found.unknown
        assert not found.envelope


class TestUnknown:
    @pytest.mark.parametrize("band", [(1.9, 4.1), (0.0, 5.0)])
    def test_band_limited(self, band: tuple[float, float]) -> None:
        ppm = 4.65 - np.fft.fftfreq(POINTS, DWELL) / FREQUENCY
        inside = (ppm > band[0]) & (ppm < band[1])
        assert course(np.fft.ifft(np.fft.fft(scene(12, 30)) * inside)).unknown

    def test_a_filter_wider_than_the_signals(self) -> None:
        ppm = 4.65 - np.fft.fftfreq(POINTS, DWELL) / FREQUENCY
        inside = (ppm > -2.5) & (ppm < 9.5)
        found = course(np.fft.ifft(np.fft.fft(scene(13, 30, nuisances=False)) * inside))
        assert found.unknown == ""
        assert found.flat_hz is not None
        low, high = found.flat_hz
        assert (4.65 - 9.5) * FREQUENCY < low < (4.65 - 7) * FREQUENCY
        assert (4.65 + 1) * FREQUENCY < high < (4.65 + 2.5) * FREQUENCY

    def test_denoised_together(self) -> None:
        u, s, v = np.linalg.svd(scene(14, 200, nuisances=False), full_matrices=False)
        assert "denoised" in course((u[:, :20] * s[:20]) @ v[:20]).unknown

    def test_without_noise(self) -> None:
        """The same signals over noise that float32 does not hold."""
        fids = scene(15, 10) - scene(15, 10, nuisances=False)
        assert course(fids).unknown

    @needs_data
    def test_filtered_before_export(self) -> None:
        assert course(real("mrsi_3t_te16/mrsi"), 0.8e-3, 123.23).unknown


def real(name: str) -> np.ndarray:
    """FIDs ``(signal, time)`` of a real scan that are not all zero."""
    data = np.asarray(nib.load(SHARED / f"{name}.nii.gz").dataobj)
    fids = np.moveaxis(data, 3, -1).reshape(-1, data.shape[3])
    return fids[fids.any(axis=1)]
