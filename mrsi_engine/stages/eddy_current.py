"""Pipeline step: correct eddy currents with the phase of the water reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.kernels import eddy
from mrsi_engine.kernels.landmarks import Landmarks
from mrsi_engine.kernels.registration import Registration
from mrsi_engine.kernels.water_phase import water_registration, water_shift
from mrsi_engine.pipeline.ranges import (
    OptionalStage,
    landmark_lines,
    mean_reference,
    refuse_coils,
)
from mrsi_engine.pipeline.stage import Apply, Block, Context
from mrsi_engine.quantities import Declaration, lineshape, quality

EDDY_TRUSTED = quality(
    "eddy_trusted",
    "1",
    "Share of the FID over which the phase of the water reference stood out of its noise; 0 where "
    "nothing was corrected",
    "Eddy currents trusted",
)
EDDY_GAIN = quality(
    "eddy_gain",
    "1",
    "How much better (log likelihood) the landmark lines of the spectrum are seen with the "
    "correction than without; no number where the water reference left no doubt",
    "Eddy current gain",
)
WATER_OFFSET = quality(
    "water_offset",
    "Hz",
    "mean frequency of the water reference as acquired; positive is towards lower ppm",
    "Water reference offset",
)

SHIFT = lineshape(
    "eddy_shift",
    "Hz",
    "frequency of the water reference, which was corrected; positive is towards lower ppm",
    "Eddy current shift",
    adds_to="b0shift",
    signed=True,
)
PHASE = lineshape(
    "eddy_phase",
    "rad",
    "phase of the water reference, which was corrected",
    "Eddy current phase",
    adds_to="phase",
    signed=True,
)

#: From the start of the water reference, where its frequency is read.
_WATER_SECONDS = 0.2

#: A reference leaves no doubt if its mean frequency (Hz) and the SD about that stay below these,
#: and its phase is known for so long (s): what such a phase can do wrong is a shift.
_CALM_HZ, _CALM_SECONDS = 25.0, 0.03

#: How far (ppm) landmark lines are looked for, and from where on B0 does not bring a reference any
#: more, so that it has to show that it helps.
_REACH_PPM, _FAR_PPM = 0.6, 1.0

#: Log likelihood by which a correction does harm, and by which it helps beyond chance.
_HARM, _HELP = 3.0, 8.0


@dataclass(frozen=True)
class _Judge:
    """Whether a correction helps: water at its place, and what landmark lines there are."""

    line: Registration
    landmarks: Landmarks | None
    dwell_time: float
    far_hz: float

    @classmethod
    def build(cls, context: Context) -> _Judge:
        acquisition, device = context.acquisition, context.device
        frequency = acquisition.spectrometer_frequency
        lines = landmark_lines(acquisition.nucleus)
        found = Landmarks.build(acquisition, lines, _REACH_PPM * frequency) if lines else None
        landmarks = None if found is None else found.to(device)
        line = _line(acquisition).to(device)
        return cls(line, landmarks, acquisition.dwell_time, _FAR_PPM * frequency)

    def gain(self, fids: Tensor, turn: Tensor, trusted: Tensor, course: eddy.PhaseCourse) -> Tensor:
        """What the landmark lines say of the correction where it is in doubt; elsewhere NaN."""
        found = torch.full_like(course.frequency, torch.nan)
        calm = (course.frequency.abs() / self.dwell_time <= _CALM_HZ) & (
            course.unrest / self.dwell_time <= _CALM_HZ
        )
        doubtful = (trusted > 0) & ~(calm & (trusted * self.dwell_time >= _CALM_SECONDS))
        if self.landmarks is None or not doubtful.any():
            return found
        before = fids[doubtful]
        found[doubtful] = self._seen(_times(before, turn[doubtful])) - self._seen(before)
        return found

    def helps(self, gain: Tensor, course: eddy.PhaseCourse) -> Tensor:
        """Whether to correct, ``(voxel,)`` bool: unless it does harm, or is far off for nothing."""
        far = course.frequency.abs() / self.dwell_time > self.far_hz
        return ~(gain < -_HARM) & ~(far & ~(gain > _HELP))

    def _seen(self, fids: Tensor) -> Tensor:
        """How well the landmark lines of voxels are seen at their best shift, ``(voxel,)``."""
        assert self.landmarks is not None
        votes = self.landmarks.votes(fids.flatten(0, -2))
        return votes.view(len(fids), -1, votes.shape[1]).sum(1).amax(1)


class EddyCurrent(OptionalStage):
    """Subtract the phase course of each voxel's water reference (Klose 1990).

    The water's frequency and phase go with it: its line is at 0 Hz with phase 0 afterwards. Every
    transient is corrected with the mean reference of its voxel. With ``optional`` scans without
    a water reference are passed over.

    A reference that is far from its place, restless or short is tried: voxels in which the landmark
    lines of the nucleus are seen worse after the correction stay as they are, and so do those
    whose reference is farther off than B0 can bring it, unless it helps, or is cut off by the
    receiver. ``eddy_trusted`` is 0 there.
    """

    stage: ClassVar[str] = "eddy_current"
    revision: ClassVar[int | None] = 1
    processing_method: ClassVar[str] = "Eddy current correction"
    remedy: ClassVar[str] = "give --water FILE"

    def lacks(self, context: Context) -> str:
        """The water reference."""
        return "" if context.has_water else "the scan has no water reference"

    def declare(self, context: Context) -> Declaration:
        """Shift and phase of the water, which were corrected, and how far it is to be trusted."""
        if self.skipped(context):
            return Declaration()
        return Declaration(
            parameters=(SHIFT, PHASE), measures=(EDDY_TRUSTED, EDDY_GAIN, WATER_OFFSET)
        )

    def check(self, context: Context) -> Self:
        """This stage, once the scan is known to have a water reference and one coil.

        Raises
        ------
        InputError
            If it has not.
        """
        self.refuse_lacking(context)
        refuse_coils(context, self.stage)
        return self

    def build(self, context: Context) -> Apply:
        """The correction of a block."""
        if self.skipped(context):
            return lambda block: None
        judge = _Judge.build(context)
        return lambda block: _correct(block, judge)


def _line(acquisition: Acquisition) -> Registration:
    """Water at 0 Hz, where the correction puts it."""
    points = min(acquisition.points, round(_WATER_SECONDS / acquisition.dwell_time))
    return water_registration(acquisition.with_points(points), acquisition.reference_ppm)


def _correct(block: Block, judge: _Judge) -> None:
    assert block.water is not None
    points = block.fids.shape[-1]
    reference = mean_reference(block.water, points)
    turn, trusted = eddy.undoing(reference)
    course = eddy.phase_course(reference, trusted)
    gain = judge.gain(block.fids, turn, trusted, course)
    saturated = eddy.saturated(reference)
    helps = (trusted > 0) & judge.helps(gain, course) & ~saturated
    block.fids = _times(block.fids, torch.where(helps[:, None], turn, 1))
    # One that is cut off stays as it is, so that later stages see that it is.
    block.water = _times(block.water, torch.where(saturated[:, None], 1, turn))
    block.measures[EDDY_TRUSTED.name] = (trusted * helps).to(torch.float32) / points
    block.measures[EDDY_GAIN.name] = gain
    block.measures[WATER_OFFSET.name] = course.frequency / judge.dwell_time
    water = water_shift(judge.line, reference, eddy.noise_sd(reference))
    for name in ("estimate", "sd"):
        suffix = "_sd" if name == "sd" else ""
        for quantity, value in ((SHIFT, "shift"), (PHASE, "phase")):
            values = getattr(water, value + suffix)
            getattr(block, name)[quantity.name] = values.masked_fill(~helps, torch.nan)


def _times(fids: Tensor, turn: Tensor) -> Tensor:
    """FIDs ``(voxel, [dynamic,] time)`` times one turn ``(voxel, time)`` for each voxel."""
    return fids * (turn[:, None] if fids.ndim > 2 else turn)
