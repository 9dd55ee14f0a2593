"""What a scan costs in seconds and bytes, from what was measured: estimates, for a preflight."""

from __future__ import annotations

import math

from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader
from mrsi_engine.pipeline.pipeline import Pipeline

#: What a scan costs beside its voxels, CPU s: import, maps, tables and report in a warm process.
FIXED_SECONDS = 2.0

#: ms a FID of 1024 points takes on one core of a server of 2023 by stage, in blocks of some hundred
#: voxels (``make bench``), and what other stages take.
_STAGES, _OTHERS = {"quantify": 1.1, "fpc": 0.4, "water_removal": 0.25}, 0.02
_POINTS = 1024

#: Stages that make one FID of several.
_JOINING = {"coil_combination": "coil", "averaging": "dynamic"}

#: Bytes of maps, tables and results a voxel, of a report, and of a sample that is stored.
_RESULTS, _REPORT, _SAMPLE = 3_000, 2_000_000, 8

#: How estimates are worded.
BASED_ON = (
    f"{_STAGES['quantify']:g} ms a voxel of {_POINTS} points for the fit, "
    f"{sum(_STAGES.values()):.3g} ms with frequency, phase and water; {FIXED_SECONDS:g} s a scan"
)


def cpu_seconds(header: NIfTIMRSHeader, pipeline: Pipeline, voxels: int) -> float:
    """CPU seconds that a scan of so many voxels takes in all."""
    lengths, milliseconds = dict(header.dimensions), 0.0
    for stage in pipeline.stages:
        lengths.pop(_JOINING.get(stage.stage, ""), None)
        milliseconds += math.prod(lengths.values()) * _STAGES.get(stage.stage, _OTHERS)
    points = header.acquisition.points / _POINTS
    return FIXED_SECONDS + 1e-3 * voxels * milliseconds * points


def disk_bytes(header: NIfTIMRSHeader, signals: int, voxels: int) -> int:
    """Bytes of what a scan leaves; ``signals`` is how many came with it, water references."""
    samples = header.acquisition.points * header.signals * (1 + signals)
    return voxels * (samples * _SAMPLE + _RESULTS) + _REPORT
