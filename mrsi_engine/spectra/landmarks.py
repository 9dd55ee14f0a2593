"""Whether a basis lies right: orientation and reference, seen on lines that everybody knows.

Every singlet of the nucleus that the basis has, under any spelling, is looked for in its own
spectrum, as the file stands and with the frequency axis turned round. What most of them agree on is
what the basis is: right, mirrored, referenced to another shift, or both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus
from mrsi_engine.nuclei.nuclei import Landmark

#: Fewest points a spectrum is looked at with.
_POINTS = 32768

#: Share of the resolution (one over the length of the FID) by which neighbours move a line.
_PULLED = 0.1

#: A peak counts as a metabolite's line if it is at least this share of the tallest.
_TALL = 0.5


@dataclass(frozen=True)
class Sighting:
    """Where the line of a landmark was seen, ppm.

    ``near`` is the tallest point about its place, ``tall`` whether that is about the tallest of
    all, ``tallest`` where the tallest of all stands. ``tolerance`` is that of the landmark with
    what a short FID adds to it.
    """

    mark: Landmark
    near: float
    tall: bool
    tallest: float
    tolerance: float

    def fits(self, at: float, offset: float = 0.0) -> bool:
        """Whether a line at ``at`` is the landmark's in a spectrum that is off by ``offset``."""
        return abs(at - self.mark.ppm - offset) <= self.tolerance


@dataclass(frozen=True)
class _Placement:
    """A way to read a basis, and how many landmarks it puts at their places."""

    fitting: int
    mirrored: bool = False
    offset: float = 0.0


def sightings(
    names: Sequence[str], fids: NDArray[np.complexfloating], acquisition: Acquisition
) -> tuple[Sighting, ...]:
    """Where the landmarks among ``names`` stand in their own spectra.

    Parameters
    ----------
    names
        Canonical names of the rows of ``fids``.
    fids
        ``(metabolite, time)``.
    acquisition
        Axis of the FIDs.
    """
    table = nucleus(acquisition.nucleus)
    axis = acquisition.with_points(max(acquisition.points, _POINTS))
    pulled = _PULLED / (acquisition.duration * acquisition.spectrometer_frequency)
    found = []
    for mark in table.landmarks_among(names):
        fid = np.zeros(axis.points, complex)
        fid[: acquisition.points] = fids[list(names).index(mark.name)]
        height, ppm = np.abs(axis.spectrum(fid)), axis.ppm
        near = np.abs(ppm - mark.ppm) <= table.landmark_search
        if near.any():
            top = height[near].max()
            at = float(ppm[near][height[near].argmax()])
            tall = bool(top >= _TALL * height.max())
            tallest = float(ppm[height.argmax()])
            found.append(Sighting(mark, at, tall, tallest, mark.tolerance + pulled))
    return tuple(found)


def check_landmarks(
    names: Sequence[str],
    fids: NDArray[np.complexfloating],
    acquisition: Acquisition,
    source: str,
) -> None:
    """See that a basis lies right; one without a landmark in its spectrum is not checked.

    Parameters
    ----------
    names, fids, acquisition
        As :func:`sightings` takes them.
    source
        What the basis is called in messages.

    Raises
    ------
    InputError
        If most landmarks stand elsewhere, or half of them and another reading explains most: names
        the orientation or reference that does.
    """
    seen = sightings(names, fids, acquisition)
    if not seen:
        return
    stated = _as_stated(seen, mirrored=False)
    if 2 * stated.fitting > len(seen):
        return
    turned = sightings(names, fids.conj(), acquisition)
    others = [
        _as_stated(turned, mirrored=True),
        _moved(seen, mirrored=False),
        _moved(turned, mirrored=True),
    ]
    # The first of those that explain the most: the simplest.
    best = max(others, key=lambda placement: placement.fitting)
    if 2 * best.fitting > len(seen):
        raise InputError(f"{source}: {_where(seen)}. {_remedy(best, acquisition)}")
    if 2 * stated.fitting < len(seen):
        raise InputError(
            f"{source}: {_where(seen)}, and no other orientation or reference of the frequency "
            "axis puts most of them right; check the names of the basis and export it again"
        )


def _as_stated(seen: Sequence[Sighting], mirrored: bool) -> _Placement:
    return _Placement(sum(s.fits(s.near) for s in seen), mirrored)


def _moved(seen: Sequence[Sighting], mirrored: bool) -> _Placement:
    """The offset that explains the most lines: of those about their places, else of the tallest."""
    placements = []
    for lines in ([(s, s.near) for s in seen if s.tall], [(s, s.tallest) for s in seen]):
        if lines:
            offset = float(np.median([at - s.mark.ppm for s, at in lines]))
            count = sum(s.fits(at, offset) for s, at in lines)
            placements.append(_Placement(count, mirrored, offset))
    return max(placements, key=lambda p: p.fitting, default=_Placement(0, mirrored))


def _where(seen: Sequence[Sighting]) -> str:
    apart = [s for s in seen if not s.fits(s.near)] or list(seen)
    parts = []
    for s in apart[:3]:
        at = s.near if s.tall else s.tallest
        parts.append(
            f"{s.mark.name} at {at:.3f} ppm, {at - s.mark.ppm:+.3f} ppm from {s.mark.ppm:g}"
        )
    return f"landmarks stand elsewhere: {'; '.join(parts)}"


def _remedy(best: _Placement, acquisition: Acquisition) -> str:
    found = round(acquisition.reference_ppm - best.offset, 3) + 0.0  # no -0
    state = f"--basis-reference {found:.3f} (ppm at 0 Hz; {acquisition.reference_ppm:g} was taken)"
    if not best.mirrored:
        return f"The basis is referenced otherwise: state it with {state}"
    if best.offset == 0.0:
        return "The basis is mirrored, its FIDs have the other sign: read it with --basis-conjugate"
    return f"The basis is mirrored and referenced otherwise: give --basis-conjugate and {state}"
