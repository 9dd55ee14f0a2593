"""What the noise of a scan is like, found as it is imported, and brought back to what it was.

Later stages and bounds take noise to be white and alike in every sample. A tail of zeros is cut
off, a decay is undone; what cannot be undone is written down, and no bound is made of it.
Smoothing or interpolation in space leaves each voxel's own noise white in time: nothing is done.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition, ScanNoise
from mrsi_engine.kernels.noise_course import Envelope, NoiseCourse, noise_course

#: FIDs that tell of a scan.
SAMPLE = 512

# What processing is called in ``ProcessingApplied``.
_WORDS = {
    "zero-filled": r"zero[ -]?(fill|pad)",
    "apodised": r"apodi[sz]|line[ -]?broaden|exponential filter|gaussian filter",
    "denoised": r"denois|low[ -]?rank|noise reduction",
}
_IN_SPACE = r"k[ -]?space|spatial|in space"


@dataclass(frozen=True)
class NoiseAtImport:
    """What to do to FIDs as they are read, and what to write down.

    ``points`` are kept of each FID; ``envelope`` is divided by; ``notes`` are sentences for the
    report.
    """

    points: int
    envelope: Envelope
    noise: ScanNoise
    notes: tuple[str, ...]

    def whitened(
        self, fids: NDArray[np.complex64], acquisition: Acquisition
    ) -> NDArray[np.complex64]:
        """FIDs ``(..., time)`` cut, their noise alike at all times."""
        kept = fids[..., : self.points]
        if not self.envelope:
            return kept
        # Filters count from the first sample, wherever time zero is.
        time = torch.from_numpy(acquisition.time[: self.points] - acquisition.start_time)
        return np.asarray(kept * (-self.envelope.log(time)).exp().numpy(), np.complex64)


def noise_of_scan(
    fids: NDArray[np.complex64],
    acquisition: Acquisition,
    processing: Sequence[Mapping[str, Any]],
    lines_ppm: tuple[float, float],
    *,
    coils: bool = False,
) -> NoiseAtImport:
    """What a sample of a scan's FIDs says of its noise.

    Parameters
    ----------
    fids
        ``(signal, time)``; those with NaN, Inf or only zeros are left out.
    acquisition
        Their axis.
    processing
        ``ProcessingApplied`` of the header.
    lines_ppm
        Where strong lines may lie.
    coils
        Whether FIDs are of single coils, which share their noise.
    """
    said = {name for name, words in _WORDS.items() if _is_said(processing, words)}
    usable = fids[np.isfinite(fids).all(axis=1) & fids.any(axis=1)]
    if len(usable) == 0:
        return NoiseAtImport(acquisition.points, Envelope(), ScanNoise(), ())
    low, high = sorted(float(f) for f in acquisition.frequency_of(lines_ppm))
    course = noise_course(
        torch.from_numpy(usable),
        acquisition.dwell_time,
        (low, high),
        apodised="apodised" in said,
        distinct=not coils,
    )
    unknown = course.unknown
    if "denoised" in said and not unknown:
        unknown = "the header says denoised"
    noise = ScanNoise(unknown, course.flat_hz)
    notes = (*_done(course, acquisition, unknown), *_contradictions(course, acquisition, said))
    return NoiseAtImport(course.points, course.envelope, noise, notes)


def processing_of(header: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """``ProcessingApplied`` of a header extension, as far as it is what the standard says."""
    steps = header.get("ProcessingApplied", [])
    return [s for s in steps if isinstance(s, Mapping)] if isinstance(steps, list) else []


def _is_said(processing: Sequence[Mapping[str, Any]], words: str) -> bool:
    texts = [f"{step.get('Method', '')} {step.get('Details', '')}" for step in processing]
    return any(re.search(words, t, re.I) and not re.search(_IN_SPACE, t, re.I) for t in texts)


def _done(course: NoiseCourse, acquisition: Acquisition, unknown: str) -> list[str]:
    notes = []
    whole, kept = acquisition.points, course.points
    if course.acquired < whole:
        notes.append(
            f"FIDs are zero-filled from {course.acquired} to {whole} points: only the "
            f"{course.acquired} that were acquired are used"
        )
    if course.envelope:
        cut = (
            f" in their first {kept} points, the others are lost" if kept < course.acquired else ""
        )
        notes.append(
            f"FIDs are apodised (their noise decays) by {course.envelope.description}: that was "
            f"undone{cut}"
        )
    if course.flat_hz is not None:
        high, low = (float(p) for p in acquisition.ppm_of(course.flat_hz))
        notes.append(
            f"the noise is weaker beyond {low:.1f} to {high:.1f} ppm (a filter, perhaps the "
            "receiver's): it is measured between, where there are no signals"
        )
    if unknown:
        notes.append(
            f"the noise cannot be measured ({unknown}): there are no error bars but those of the "
            'residual, where the pipeline asks for them (errors = "residual"); every voxel is '
            "flagged unknown_noise"
        )
    return notes


def _contradictions(course: NoiseCourse, acquisition: Acquisition, said: set[str]) -> list[str]:
    found = {
        "zero-filled": course.acquired < acquisition.points,
        "apodised": bool(course.envelope),
    }
    notes = []
    for name, is_so in found.items():
        if name in said and not is_so and not course.unknown:
            notes.append(
                f"ProcessingApplied says {name}, but the FIDs do not look it: taken as they are"
            )
        if is_so and name not in said:
            notes.append(f"FIDs are {name}, though ProcessingApplied does not say so")
    return notes
