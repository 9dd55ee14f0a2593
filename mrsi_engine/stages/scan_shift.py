"""Pipeline step: find how far a scan lies, as a whole, from where its header says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.kernels.alignment import turned
from mrsi_engine.kernels.landmarks import Landmarks, strongest
from mrsi_engine.pipeline.ranges import landmark_lines
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Block, Context, Stage, State
from mrsi_engine.quantities import Declaration, lineshape

SHIFT = lineshape(
    "scan_shift",
    "Hz",
    "frequency by which the whole scan was found to be off, which was corrected; positive is "
    "towards lower ppm. No number where the scan is where it should be",
    "Scan shift",
    adds_to="b0shift",
    signed=True,
)

#: Sum of log likelihoods by which another place must be better, and in SDs of those of noise: a
#: vote of two windows has a variance of 2.
_SURE, _SURE_SDS = 8.0, 4.0

#: How much farther than about 0 Hz the votes must rise from their median there.
_CLEARER = 1.3


class ScanShift(Stage):
    """Bring a scan that is off as a whole to within reach of the stages after it.

    Drift, a wrong transmitter frequency or a header without a reference shift all voxels alike, by
    more than the tens of Hz that voxels differ by and that other stages search. All voxels vote,
    by how much of their spectra the landmark lines of the nucleus explain at each shift
    (:mod:`mrsi_engine.kernels.landmarks`). Where another place than about 0 Hz is clearly better,
    all FIDs are shifted; else they stay as they are, to the bit. Water and lipids have no vote.
    """

    stage: ClassVar[str] = "scan_shift"
    revision: ClassVar[int | None] = 1
    processing_method: ClassVar[str] = "Frequency and phase correction"

    max_shift_ppm: float = setting(1.0, "Largest shift looked for.", unit="ppm", gt=0, le=10)
    min_shift_hz: float = setting(
        12.0, "Shifts up to this are left to the stages after it.", unit="Hz", gt=0
    )

    def declare(self, context: Context) -> Declaration:
        """The shift that was corrected."""
        return Declaration(parameters=(SHIFT,)) if self._lines(context) else Declaration()

    def assumptions(self, context: Context) -> Mapping[str, Any]:
        """That nothing was looked for, where the nucleus has no landmarks."""
        if self._lines(context):
            return {}
        return {"search": f"none: no landmark lines are known of {context.acquisition.nucleus}"}

    def passes(self, context: Context) -> int:
        """One, in which voxels vote."""
        return 1 if self._lines(context) else 0

    def summarise(self, context: Context, block: Block, step: int) -> State:
        """Sum of the votes of a block's signals, ``(shift,)``, and their number."""
        fids = block.fids if block.scalp is None else block.fids[~block.scalp]
        votes = self._landmarks(context).votes(fids.flatten(0, -2))
        count = torch.tensor(float(len(votes)), dtype=torch.float64, device=fids.device)
        return {"votes": votes.sum(0), "signals": count}

    def finish(self, context: Context, summary: State, step: int) -> State:
        """``shift`` () Hz, 0 where the scan is where it should be; and the votes."""
        shifts = self._landmarks(context).shifts
        found = chosen_shift(summary["votes"], shifts, float(summary["signals"]), self.min_shift_hz)
        return {"shift": found, "shifts": shifts, "votes": summary["votes"]}

    def build(self, context: Context) -> Apply:
        """The shift of all voxels."""
        if not self._lines(context):
            return lambda block: None
        dwell = context.acquisition.dwell_time
        shift = float(context.state.get("shift", torch.zeros(())))

        def apply(block: Block) -> None:
            unknown = torch.full((len(block.fids),), torch.nan, device=block.fids.device)
            block.estimate[SHIFT.name] = unknown if shift == 0 else torch.full_like(unknown, shift)
            block.sd[SHIFT.name] = unknown
            if shift == 0:
                return
            block.fids = _moved(block.fids, dwell, torch.full_like(unknown, shift).double())
            if block.water is not None:
                block.water = _moved(block.water, dwell, _of_water(block.water, dwell, shift))

        return apply

    def _lines(self, context: Context) -> tuple[tuple[float, float], ...]:
        return landmark_lines(context.acquisition.nucleus)

    def _landmarks(self, context: Context) -> Landmarks:
        lines, device = self._lines(context), context.device
        return _ready(context.acquisition, lines, self.max_shift_ppm, device)


def chosen_shift(votes: Tensor, shifts: Tensor, signals: float, near_hz: float) -> Tensor:
    """Where a scan is, () float64 Hz: 0 unless another place is clearly better.

    Parameters
    ----------
    votes, shifts
        Sum of the votes of all signals for each shift (Hz), ``(shift,)``.
    signals
        How many voted.
    near_hz
        Shifts up to this count as 0.
    """
    here, most, usual = votes[shifts.abs() <= near_hz].max(), votes.max(), votes.median()
    noise = max(_SURE, _SURE_SDS * (2 * signals) ** 0.5)
    clear = (most - usual) > _CLEARER * (here - usual)
    found = strongest(votes, shifts)
    away = clear & (most - here > noise) & (found.abs() > near_hz)
    return torch.where(away, found, torch.zeros_like(found))


@lru_cache(maxsize=4)
def _ready(
    acquisition: Acquisition,
    lines: tuple[tuple[float, float], ...],
    reach_ppm: float,
    device: torch.device,
) -> Landmarks:
    reach = reach_ppm * acquisition.spectrometer_frequency
    return Landmarks.build(acquisition, lines, reach).to(device)


def _moved(fids: Tensor, dwell_time: float, shift: Tensor) -> Tensor:
    """FIDs ``(voxel, [...,] time)`` shifted back by ``shift (voxel,)`` Hz."""
    flat = fids.flatten(0, -2)
    each = shift.repeat_interleave(len(flat) // max(len(fids), 1))
    return turned(flat, dwell_time, -each).reshape(fids.shape)


def _of_water(water: Tensor, dwell_time: float, shift: float) -> Tensor:
    """``shift`` where the water reference lies there, too, ``(voxel,)`` Hz; else 0."""
    steps = (water[..., 1:] * water[..., :-1].conj()).flatten(1).sum(1, dtype=torch.complex128)
    hertz = steps.angle() / (2 * torch.pi * dwell_time)
    with_it = (hertz - shift).abs() < hertz.abs()
    return torch.where(with_it, shift, 0.0).double()
