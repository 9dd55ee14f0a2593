"""Fields of a NIfTI-MRS header extension that change what the numbers mean, checked one by one.

Every message names the file, the field, what it holds and what it should. What a file leaves open
is written to its notes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrsi_engine.errors import InputError

#: Longest echo and repetition time and delay of the first sample that are believed to be seconds.
_LONGEST_ECHO, _LONGEST_REPETITION, _LONGEST_START = 0.5, 60.0, 0.1

#: Spectrometer frequencies (MHz) of nuclei from 0.1 to 28 T, and units whose numbers lie elsewhere.
_FREQUENCIES = (0.5, 1500.0)
_OTHER_UNITS = (("GHz", 1e3), ("kHz", 1e-3), ("Hz", 1e-6))

#: Parts of a dwell time that a first sample may lie off a whole number of them and be on it.
_WHOLE = 1e-3

#: Names under which converters keep the group delay of Bruker's digital filter.
_GROUP_DELAY = re.compile(r"(private_)?((acqu?s?|pvm)_?)?(grpdly|group_?delay|digshift)", re.I)

#: Fewest samples that must be left after an echo within the window.
_LEAST_POINTS = 16


def number(path: Path, extension: Mapping[str, Any], key: str) -> float | None:
    """A field that holds a number, of its spectral axis if it is a list; ``None`` without one.

    Raises
    ------
    InputError
        If it holds something else.
    """
    value = first(extension.get(key))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}: {key} is {value!r}, expected a number")
    return float(value)


def single_number(path: Path, extension: Mapping[str, Any], key: str) -> float | None:
    """A field that holds one number for all FIDs; ``None`` without one.

    Raises
    ------
    InputError
        If it holds something else, or several numbers.
    """
    value = extension.get(key)
    if isinstance(value, list) and len(value) > 1:
        raise InputError(
            f"{path}: {key} is {value!r}, expected one number; values that differ between FIDs "
            "stand in a dim_N_header"
        )
    return number(path, extension, key)


def first(value: Any) -> Any:
    """The entry of the spectral axis: some fields are lists with one entry an axis."""
    if isinstance(value, list):
        return value[0] if value else None
    return value


def spectrometer_frequency(path: Path, extension: Mapping[str, Any]) -> float:
    """MHz, once the number is known to be in MHz.

    Raises
    ------
    InputError
        If there is none, or it lies where MHz do not.
    """
    value = number(path, extension, "SpectrometerFrequency")
    if value is None:
        raise InputError(
            f"{path}: the header extension lacks SpectrometerFrequency; add it in MHz, "
            'e.g. "SpectrometerFrequency": [123.25]'
        )
    low, high = _FREQUENCIES
    if low <= value <= high:
        return value
    for unit, factor in _OTHER_UNITS:
        if low <= value * factor <= high:
            raise InputError(
                f"{path}: SpectrometerFrequency is {value:.10g}, which looks like {unit}; write it "
                f'in MHz: "SpectrometerFrequency": [{value * factor:.7g}]'
            )
    raise InputError(f"{path}: SpectrometerFrequency is {value:g}, expected MHz, e.g. 123.25")


def refuse_k_space(path: Path, extension: Mapping[str, Any]) -> None:
    """Refuse data that are not of voxels.

    Raises
    ------
    InputError
        If ``kSpace`` is true in any dimension.
    """
    stated = extension.get("kSpace")
    axes = stated if isinstance(stated, list) else [stated]
    if any(axes):
        raise InputError(
            f"{path}: kSpace is {stated}: the data are not reconstructed in space; transform them "
            "to voxels first (a Fourier transform along the axes that are true)"
        )


def timing(
    path: Path, extension: Mapping[str, Any], notes: list[str]
) -> tuple[float | None, float | None]:
    """Echo and repetition time, s; ``notes`` gets what is not stated.

    Raises
    ------
    InputError
        If one of them is no time in seconds, or the repetition time is the shorter one.
    """
    echo = _seconds(path, extension, "EchoTime", _LONGEST_ECHO)
    repetition = _seconds(path, extension, "RepetitionTime", _LONGEST_REPETITION)
    for key, value in (("EchoTime", echo), ("RepetitionTime", repetition)):
        if not value:
            stated = "no" if value is None else "0 s as"
            notes.append(f"the header states {stated} {key}: what depends on it is not checked")
    if echo and repetition and repetition <= echo:
        raise InputError(
            f"{path}: RepetitionTime {repetition:g} s is not longer than EchoTime {echo:g} s; "
            "correct the header, both in seconds"
        )
    return echo, repetition or None


def _seconds(path: Path, extension: Mapping[str, Any], key: str, longest: float) -> float | None:
    value = single_number(path, extension, key)
    if value is None or 0 <= value <= longest:
        return value
    hint = ""
    if longest < value <= 1e3 * longest:
        hint = f": {value:g} looks like milliseconds, write {1e-3 * value:g}"
    raise InputError(f"{path}: {key} is {value:g}, expected seconds (0 to {longest:g}){hint}")


def first_sample(
    path: Path, extension: Mapping[str, Any], dwell_time: float, points: int, notes: list[str]
) -> tuple[int, float]:
    """Samples before time zero, and seconds from there to the first sample after it.

    ``AcquisitionStartTime`` counts from the echo, or from where a FID is generated. Samples from
    before it are no part of the model and are left out.

    Raises
    ------
    InputError
        If it is no time in seconds, or leaves hardly any sample.
    """
    value = single_number(path, extension, "AcquisitionStartTime") or 0.0
    if abs(value) > max(_LONGEST_START, dwell_time * (points - _LEAST_POINTS) * (value < 0)):
        raise InputError(
            f"{path}: AcquisitionStartTime is {value:g}, expected seconds from the echo to the "
            f"first sample (up to {_LONGEST_START:g} s, before it within the {points} points of "
            f"{dwell_time:g} s); write {1e-3 * value:g} if it is in milliseconds"
        )
    samples = value / dwell_time
    if abs(samples - round(samples)) <= _WHOLE:
        samples = float(round(samples))
    skipped = max(0, math.ceil(-samples))
    if skipped and points - skipped < _LEAST_POINTS:
        raise InputError(
            f"{path}: AcquisitionStartTime is {value:g} s, which puts the echo at sample {skipped} "
            f"of {points}; at least {_LEAST_POINTS} must follow it: correct the header"
        )
    start = (samples + skipped) * dwell_time
    if skipped:
        notes.append(
            f"AcquisitionStartTime {value:g} s: {skipped} points from before the echo left out, "
            f"the first one kept comes {1e3 * start:.4g} ms after it"
        )
    elif start:
        notes.append(
            f"AcquisitionStartTime {value:g} s: the model begins there, amplitudes are those at "
            "time zero"
        )
    return skipped, start


def sequence_notes(extension: Mapping[str, Any]) -> list[str]:
    """What else the header says of the sequence that a basis and corrections must suit."""
    found = []
    for key in ("EditPulse", "EditCondition"):
        if extension.get(key):
            found.append(f"{key} is stated: an edited scan needs a basis that is edited alike")
    if extension.get("InversionTime"):
        found.append(f"InversionTime {extension['InversionTime']} s: its weighting stays")
    angle = first(extension.get("ExcitationFlipAngle"))
    if isinstance(angle, int | float) and abs(angle - 90) > 1:
        found.append(
            f"ExcitationFlipAngle {angle:g} degrees: concentrations by water need it as "
            "flip_angle of stage 'scale'"
        )
    for key in ("SpectrometerFrequency", "ResonantNucleus"):
        stated = extension.get(key)
        if isinstance(stated, list) and len(stated) > 1:
            found.append(f"{key} is {stated}: the first is taken for the spectral axis")
    return found


def group_delay(extension: Mapping[str, Any]) -> float | None:
    """Samples by which a digital filter delays the FIDs, where a converter keeps its number."""
    for name, entry in extension.items():
        value = entry.get("Value") if isinstance(entry, Mapping) else entry
        value = first(value)
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if _GROUP_DELAY.fullmatch(name) and known and value > 0:
            return float(value)
    return None
