"""Ranges of the spectrum that alignment goes by."""

from __future__ import annotations

from mrsi_engine.conventions import Acquisition
from mrsi_engine.fpc.settings import FpcSettings
from mrsi_engine.kernels.band import Band
from mrsi_engine.nuclei import nucleus
from mrsi_engine.nuclei.nuclei import AlignmentLines
from mrsi_engine.pipeline.ranges import hertz_between


def lines_of(acquisition: Acquisition) -> AlignmentLines:
    """What spectra of the nucleus are aligned by."""
    return nucleus(acquisition.nucleus).alignment_for("stage 'fpc'")


def similarity_band(acquisition: Acquisition) -> Band:
    """Where signals are compared with the template."""
    return band_of(acquisition, lines_of(acquisition).similarity)


def band_of(acquisition: Acquisition, ppm: tuple[float, float]) -> Band:
    """The bins of a range in ppm."""
    low, high = hertz_between(acquisition, ppm, "stage 'fpc': the range")
    return Band.between(acquisition.points, acquisition.dwell_time, low, high)


def hertz_of(settings: FpcSettings, acquisition: Acquisition, key: str) -> tuple[float, float]:
    """(low, high) in Hz of the setting ``key``."""
    return hertz_between(acquisition, settings.own(key, acquisition), f"stage 'fpc': {key}")
