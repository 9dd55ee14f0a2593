"""What to think of a run, in one line: how much of it is usable, why not the rest, what to try."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition, Flag
from mrsi_engine.io.result_quantities import scalp_voxels
from mrsi_engine.report.tables import estimate, flags_of, measure, usable_voxels

#: What people call a flag, and what to try, in the order in which one explains the others.
_REASONS: Mapping[Flag, tuple[str, str]] = {
    Flag.NO_SIGNAL: ("no signal", "the file holds zeros there: export the scan again"),
    Flag.NO_FIT: ("no fit", "the data hold NaN or nothing that can be fitted: look at them"),
    Flag.AT_SHIFT_BOUND: (
        "shift at its bound",
        "raise max_shift_hz, or begin the pipeline with stage scan_shift",
    ),
    Flag.LIPIDS: ("lipids", "keep the mask away from the scalp, or give --scalp"),
    Flag.LOW_SNR: ("SNR", "average over more voxels or transients, or narrow the mask"),
    Flag.BROAD_LINES: ("linewidth", "look at the shim, or narrow the mask"),
    Flag.NOT_CONVERGED: ("no minimum", "see whether --basis is for this sequence and field"),
    Flag.POOR_FIT: (
        "poor fit",
        "see whether --basis is for this sequence and echo time, and what the residual shows",
    ),
}

#: Why usable voxels have no concentration, by the reasons of stage ``scale``.
_NOT_SCALED = {
    1: "the water reference shows no water there",
    2: "no tissue fractions are known there",
    3: "too little of them is tissue that holds metabolites",
    4: "the metabolite that ratios are to is within 3 SD of zero",
    5: "the water reference is cut off by the receiver",
}

#: Share of usable voxels from which advice is left out.
_MOSTLY = 0.8

#: Reasons that an eddy current correction may be to blame for, and the offset (Hz) of the water
#: reference from which it is worth a try without.
_BY_EDDY = (Flag.BROAD_LINES, Flag.NOT_CONVERGED, Flag.POOR_FIT, Flag.LOW_SNR, Flag.AT_SHIFT_BOUND)
_FAR_HZ = 25.0

#: First-order phase (degrees a ppm) that is mentioned, and from which results are of no use: lines
#: of one metabolite stand a ppm apart. Priors of fits have an SD of 20 (Provencher 1993).
_PHASE_SAID, _PHASE_BEARABLE = 10.0, 30.0


@dataclass(frozen=True)
class Verdict:
    """How much of a run is usable.

    ``reasons`` are words for why voxels are not, with their number, the main one first; every
    voxel counts for one. ``advice`` is what to try, empty where there is no need; ``remarks`` what
    else has to be known. ``fitted`` voxels hold results, usable or not. ``first_order_phase``
    (degrees a ppm) is what the header's time of the first sample leaves.
    """

    usable: int
    voxels: int
    fitted: int
    reasons: tuple[tuple[str, int], ...]
    advice: str
    remarks: tuple[str, ...]
    first_order_phase: float = 0.0

    @property
    def share(self) -> float:
        """Usable share of the voxels, 0 to 1."""
        return self.usable / self.voxels if self.voxels else 0.0

    def accepted(self, min_usable: float) -> bool:
        """Whether so large a share is usable, and anything was fitted at all.

        None is where FIDs begin at quite another time than the header says.
        """
        useful = abs(self.first_order_phase) <= _PHASE_BEARABLE or min_usable == 0
        return self.fitted > 0 and self.share >= min_usable and useful

    @property
    def text(self) -> str:
        """The verdict as one line."""
        return "; ".join([self._counts, *([self.advice] if self.advice else []), *self.remarks])

    @property
    def _counts(self) -> str:
        reasons = ", ".join(f"{word} ({count})" for word, count in self.reasons)
        if 2 * self.usable >= self.voxels > 0:
            counts = f"{self.usable} of {self.voxels} voxels usable"
            return f"{counts}, the others not for {reasons}" if reasons else counts
        counts = f"{self.voxels - self.usable} of {self.voxels} voxels unusable"
        return f"{counts}: {reasons}" if reasons else counts

    def attributes(self) -> dict[str, Any]:
        """As plain values, for the attributes of a result."""
        return {
            "text": self.text,
            "usable": self.usable,
            "voxels": self.voxels,
            "reasons": dict(self.reasons),
        }


def verdict_on(result: xr.Dataset) -> Verdict:
    """What to think of a result store opened as a dataset; its scalp does not count."""
    inside = ~scalp_voxels(result)
    usable, flags = usable_voxels(result)[inside], flags_of(result)[inside]
    left, counts = flags[~usable], dict[Flag, int]()
    for flag in _REASONS:
        because = (left & int(flag)) != 0
        if because.any():
            counts[flag], left = int(because.sum()), left[~because]
    order = sorted(counts, key=lambda flag: -counts[flag])
    advice = _advice(result, order[0]) if order and usable.mean() < _MOSTLY else ""
    return Verdict(
        usable=int(usable.sum()),
        voxels=int(inside.sum()),
        fitted=int(((flags & int(Flag.NO_FIT)) == 0).sum()),
        reasons=tuple((_REASONS[flag][0], counts[flag]) for flag in order),
        advice=advice,
        remarks=tuple(_remarks(result, inside, flags, usable)),
        first_order_phase=_first_order_phase(result),
    )


def _first_order_phase(result: xr.Dataset) -> float:
    delay = float(result.attrs.get("unstated_delay_ms", 0.0))
    frequency = Acquisition(**result.attrs["acquisition"]).spectrometer_frequency
    return 360e-3 * delay * frequency


def _advice(result: xr.Dataset, main: Flag) -> str:
    offset = _median(np.abs(measure(result, "water_offset")))
    corrected = measure(result, "eddy_trusted") > 0
    if main in _BY_EDDY and offset > _FAR_HZ and corrected.any():
        return (
            f"the water reference is {offset:.0f} Hz off resonance, try --pipeline without "
            "eddy_current"
        )
    return _REASONS[main][1]


def _remarks(
    result: xr.Dataset,
    inside: NDArray[np.bool_],
    flags: NDArray[np.int32],
    usable: NDArray[np.bool_],
) -> Iterator[str]:
    """Sentences beside the counts; ``flags`` and ``usable`` are of the voxels ``inside``."""
    shift = _median(estimate(result, "scan_shift"))
    if np.isfinite(shift):
        frequency = Acquisition(**result.attrs["acquisition"]).spectrometer_frequency
        ppm = shift / frequency
        yield f"the whole scan was off by {shift:+.1f} Hz ({ppm:+.3f} ppm), which was corrected"
    phase = _first_order_phase(result)
    if abs(phase) > _PHASE_SAID:
        delay = float(result.attrs["unstated_delay_ms"])
        yield (
            f"amplitudes are wrong: FIDs begin {abs(delay):.2f} ms "
            f"{'later' if delay > 0 else 'earlier'} than header and basis say (lines are turned by "
            f"{abs(phase):.0f} degrees a ppm), change AcquisitionStartTime by {1e-3 * delay:+.2g} s"
        )
    trusted = measure(result, "eddy_trusted")[inside]
    known = np.isfinite(trusted)
    left = int((trusted == 0).sum())
    if left and left >= known.sum() / 2:
        yield _eddy_remark(result, left, int(known.sum()))
    poor = (flags & int(Flag.POOR_FIT)) != 0
    narrow = int((poor & (_damping(result)[inside] <= 0)).sum())
    if narrow >= inside.sum() / 2:
        yield (
            f"in {narrow} voxels lines are narrower than those of the basis, which makes "
            "amplitudes too large: take a basis of narrower lines"
        )
    yield from _not_scaled(measure(result, "not_scaled")[inside][usable])
    unknown = int(((flags & int(Flag.UNKNOWN_NOISE)) != 0).sum())
    if unknown:
        yield f"{unknown} have no error bars, their noise is unknown"


def _damping(result: xr.Dataset) -> NDArray[np.floating]:
    """What dampings voxels have beyond the basis' own, 1/s."""
    return estimate(result, "lorentzian") + np.nan_to_num(estimate(result, "gaussian"))


def _not_scaled(why: NDArray[np.floating]) -> Iterator[str]:
    """How many of usable voxels have no concentration or ratio, and mainly why."""
    left = why[why > 0].astype(int)
    if left.size:
        main = int(np.bincount(left).argmax())
        yield f"{left.size} of them have no concentration: {_NOT_SCALED[main]}"


def _eddy_remark(result: xr.Dataset, left: int, known: int) -> str:
    offset = _median(np.abs(measure(result, "water_offset")))
    why = "shows no water" if np.isnan(offset) else f"is {offset:.0f} Hz off resonance"
    if offset <= _FAR_HZ:
        why = "would do harm"
    return f"eddy currents were not corrected in {left} of {known}: the water reference {why}"


def _median(values: NDArray[np.floating]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
