"""Fields that are said of a NIfTI-MRS file beside it, e.g. by its BIDS sidecar.

They fill what the header leaves open, and must not contradict it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrsi_engine.errors import InputError
from mrsi_engine.io.header_fields import first

#: Relative difference within which two numbers are believed to be the same one, rounded.
_SAME = 1e-3

#: Names that are not spelled alike everywhere: only taken where the header has none.
_FREE_TEXT = ("SequenceName", "Manufacturer")

#: The echo time, and what BIDS states of the array itself.
_ECHO, _POINTS, _MATRIX = "EchoTime", "NumberOfSpectralPoints", "MatrixSize"

#: Not worth a note: what the dwell time says, which every file has, and what changes no number.
_UNSAID = ("SpectralWidth", "Manufacturer")


def missing_fields(
    path: Path, fields: Mapping[str, Any], stated: Mapping[str, Any], shape: tuple[int, ...]
) -> tuple[dict[str, Any], list[str]]:
    """The fields that a header lacks and what is to be said of them.

    Parameters
    ----------
    path
        The NIfTI-MRS file.
    fields
        What its header holds.
    stated
        What is said beside the file, by the names of NIfTI-MRS; beside them ``MatrixSize`` and
        ``NumberOfSpectralPoints`` of BIDS, which are compared with ``shape``.
    shape
        Of the file, ``(x, y, z, time, ...)``.

    Raises
    ------
    InputError
        If both say something else.
    """
    found, notes = {}, []
    for key, value in stated.items():
        own = {_POINTS: shape[3], _MATRIX: list(shape[:3])}.get(key, fields.get(key))
        if own is None:
            found[key] = value
            if key not in _UNSAID:
                said = f"{key} {json.dumps(value)} is that of the sidecar, the header states none"
                notes.append(said)
        elif key == _ECHO and own == 0:
            # BIDS has no echo time of 0: a FID states its acquisition delay there.
            notes.append(f"{key} {value} of the sidecar is not used: the header states 0 s")
        elif key not in _FREE_TEXT and not _same(own, value):
            raise InputError(
                f"{path}: {key} is {json.dumps(own)} in the file and {json.dumps(value)} in its "
                "sidecar (or the table's column 'stated'); correct one of the two"
            )
    return found, notes


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list) and len(one) > 1 < len(other):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_same(a, b) for a, b in pairs)
    one, other = first(one), first(other)
    if isinstance(one, str) and isinstance(other, str):
        return one.strip().casefold() == other.strip().casefold()
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in (one, other)]
    return math.isclose(one, other, rel_tol=_SAME) if all(numbers) else bool(one == other)
