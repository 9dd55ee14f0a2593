"""Where the FIDs of a scan begin, seen in the power of its strongest voxels.

A FID is strongest at, or a few samples after, its first sample. Two things are told from that:

- **near silence before the signal**: a digital filter's group delay that was not removed (Bruker's
  GRPDLY: 60 to 80 samples), or sampling that began too early. Where the signal is there at once the
  silence is cut off. A filter makes it rise over several samples, around a time that is no whole
  number of them: that time must be stated, and the samples in which the filter still settles are
  left out, since the model can begin later.
- **an echo within the window**: the signal grows to its largest and is mirrored about it,
  ``s(p - k) s(p + k)`` having one phase for all ``k``, which a FID does not do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: Samples of a FID that are looked at, and the share of them in which it must begin.
LOOKED_AT = 1024

#: The signal is there from this share of its largest power on, and at once from ``_WHOLE`` on.
_THERE, _WHOLE = 0.25, 0.75

#: Fewest samples of silence, and how much power (of the largest) they may hold on average.
_LEAST_SILENCE, _SILENCE = 4, 0.02

#: Power above which the last samples of the silence are a filter's build-up; how many those are.
_RIPPLE, _BUILD_UP = 0.002, 4

#: Samples after a stated delay in which a filter still settles.
SETTLING = 4

#: Least share of largest power to noise with which anything can be told.
_LEAST_CONTRAST = 30.0

#: What an echo is known by: samples before it, periods of 1 ppm before it (two lines that begin
#: against each other are in phase half a period of their distance later: water and fat after 0.15),
#: how much it grows, the mirror symmetry over so many samples, and the least energy of those before
#: over those after.
_LEAST_BEFORE, _LEAST_PERIODS, _GROWTH, _SYMMETRY, _MIRRORED = 6, 0.3, 1.5, 0.95, 24
_LEAST_SHARE = 0.25

#: Samples of the quietest stretch, which the noise is read from.
_STRETCH = 4

Kind = Literal["at once", "after silence", "through a filter", "echo"]


@dataclass(frozen=True)
class Beginning:
    """Where FIDs begin: the first sample of the signal (of an echo, its centre), and how."""

    sample: int
    kind: Kind


def find_beginning(
    fids: NDArray[np.complex64], dwell_time: float, spectrometer_frequency: float
) -> Beginning:
    """Where the signal of strong FIDs ``(n, time)`` begins.

    Parameters
    ----------
    fids
        Finite and not all zero; only their first :data:`LOOKED_AT` samples count.
    dwell_time, spectrometer_frequency
        s and MHz.
    """
    seen = fids[:, :LOOKED_AT].astype(np.complex128)
    power = _course(seen)
    if power is None:
        return Beginning(0, "at once")
    largest = int(power[: len(power) // 2].argmax())
    # An echo of broad lines rises out of near silence, too: it is known by its symmetry.
    periods = largest * dwell_time * spectrometer_frequency
    grown = power[largest] >= _GROWTH * power[:2].max() and largest >= _LEAST_BEFORE
    if grown and periods >= _LEAST_PERIODS and _mirrored(seen, largest):
        return Beginning(largest, "echo")
    there = int(np.argmax(power >= _THERE * power[largest]))
    before = power[:there] / power[largest]
    if there >= _LEAST_SILENCE and before[: max(_LEAST_SILENCE, there - 6)].mean() <= _SILENCE:
        at_once = power[there] >= _WHOLE * power[largest] and _silent(before, power)
        return Beginning(there, "after silence" if at_once else "through a filter")
    return Beginning(0, "at once")


def _course(fids: NDArray[np.complex128]) -> NDArray[np.float64] | None:
    """Power above the noise over time, ``(time,)``; ``None`` if there is too little."""
    power = np.square(np.abs(fids))
    mean = (power / power.sum(axis=1, keepdims=True)).mean(axis=0)
    stretches = mean[: len(mean) // _STRETCH * _STRETCH].reshape(-1, _STRETCH)
    floor = float(stretches.mean(axis=1).min(initial=np.inf))
    if not mean.max() > _LEAST_CONTRAST * floor:
        return None
    return np.asarray(mean - floor)


def _silent(before: NDArray[np.float64], power: NDArray[np.float64]) -> bool:
    """Whether the silence lasts to its end, but for what its noise does."""
    noise = float(np.abs(before[:-_BUILD_UP]).max(initial=0.0))
    return bool(before[-_BUILD_UP:].max() <= max(_RIPPLE, 3 * noise))


def _mirrored(fids: NDArray[np.complex128], centre: int) -> bool:
    count = min(centre, _MIRRORED)
    early, late = fids[:, centre - count : centre][:, ::-1], fids[:, centre + 1 :][:, :count]
    along = np.abs((early * late).sum(axis=1)).sum()
    energies = (np.abs(early) ** 2).sum(1), (np.abs(late) ** 2).sum(1)
    both = energies[0].sum() >= _LEAST_SHARE * energies[1].sum()
    return bool(both and along >= _SYMMETRY * np.sqrt(energies[0] * energies[1]).sum())
