"""What NIfTI-MRS says of dimensions 5 to 7: which may be averaged over, and which may not.

A ``dim_N_header`` gives fields of the header one value an element of a dimension, as a list, as
``{"start": ..., "increment": ...}`` or, for fields of one's own, inside ``{"Value": ...}``
(specification 0.11). Elements that differ in how they were acquired are no repetitions of one
measurement: a file with such a dimension is refused by the field's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrsi_engine.dimensions import COIL, DYNAMIC
from mrsi_engine.errors import InputError

#: Dimensions 5 to 7 that are supported, by their tags, in the order of our stores.
DIMENSION_TAGS: Mapping[str, str] = {"DIM_COIL": COIL, "DIM_DYN": DYNAMIC}

#: What the other tags hold, and what makes a file that can be read of one that has them.
_REMEDIES = {
    "DIM_EDIT": "conditions of an edited scan: give one of them, or their difference with a basis "
    "that is edited alike",
    "DIM_MEAS": "repeats of the whole measurement: give them one by one, or tag them DIM_DYN if "
    "they may be averaged",
    "DIM_PHASE_CYCLE": "steps of a phase cycle: combine them as the sequence asks",
    "DIM_ISIS": "the acquisitions of an ISIS localisation: combine them to the localised signal",
    "DIM_METCYCLE": "the halves of a metabolite-cycled scan: give their difference as the scan, "
    "their sum as its water reference",
    "DIM_INDIRECT": "an indirect spectral dimension: give single increments or their sum",
    "DIM_USER": "a dimension of your own: give its elements one by one, or tag it DIM_DYN if they "
    "may be averaged",
}

#: Fields that say when or with what an element was recorded, not how: coils have names, transients
#: a time of day. Compared without case and punctuation.
_HARMLESS = frozenset(
    {
        "rxcoil",
        "originalfile",
        "conversionmethod",
        "conversiontime",
        "acquisitiontime",
        "acquisitiondatetime",
        "timestamp",
        "contenttime",
        "instancenumber",
        "index",
    }
)

#: Words of a free description that say that the elements of a dimension are not alike.
_UNLIKE = re.compile(
    r"\bedit|\bon\W{0,3}(and\W)?off\b|inversion|\becho\s?times?\b|\bTEs\b|\bTIs\b"
    r"|b.?values?\b|diffusion|\bisis\b|met(abolite)?\W?cycl|phase\W?cycl|flip\W?angles",
    re.IGNORECASE,
)


def fields_of_dimensions(
    path: Path, extension: Mapping[str, Any], shape: Sequence[int]
) -> dict[str, Any]:
    """Fields that the ``dim_N_header`` of a file give one value for all its FIDs, by name.

    Parameters
    ----------
    path
        The file, for messages.
    extension
        The header extension.
    shape
        Of the file's data, ``(x, y, z, time, ...)``.

    Raises
    ------
    InputError
        If a field varies within a dimension and matters, does not have as many values as the
        dimension elements, or a description says that the elements differ.
    """
    found: dict[str, Any] = {}
    for number, length in enumerate(shape[4:], start=5):
        named = f"dim_{number}_header"
        header = extension.get(named) or {}
        if not isinstance(header, Mapping):
            raise InputError(f"{path}: {named} is a {type(header).__name__}, expected an object")
        for field, entry in _entries(header):
            values = _values(path, f"{named}: {field}", entry, length)
            if all(_alike(value, values[0]) for value in values):
                found[field] = values[0]
            elif _plain(field) not in _HARMLESS:
                raise InputError(_varies(path, extension, number, field, values))
        if length > 1:
            _check_description(path, extension, number)
    return found


def supported_dimensions(path: Path, dimensions: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Lengths of the dimensions between voxel and time, ``coil`` before ``dynamic``.

    Parameters
    ----------
    path
        The file, for messages.
    dimensions
        Tag and length of those longer than 1, in the file's order.

    Raises
    ------
    InputError
        If there is another than ``DIM_COIL`` and ``DIM_DYN``, or one of them twice.
    """
    tags = [tag for tag, _ in dimensions]
    for tag, length in dimensions:
        remedy = _REMEDIES.get(re.sub(r"_\d$", "", tag))
        if remedy is not None:
            raise InputError(
                f"{path}: has a dimension {tag} of {length}, {remedy} (mrs_tools split takes a "
                "file apart along a dimension)"
            )
    if not set(tags) <= set(DIMENSION_TAGS) or len(set(tags)) < len(tags):
        found = ", ".join(f"{tag} of {length}" for tag, length in dimensions)
        raise InputError(
            f"{path}: has further dimensions ({found}); supported are DIM_COIL and DIM_DYN, "
            "each once: split the file along the others, e.g. with mrs_tools split"
        )
    lengths = dict(dimensions)
    return {name: lengths[tag] for tag, name in DIMENSION_TAGS.items() if tag in lengths}


def _entries(header: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Fields of a header of a dimension, those of groups by ``group.field``."""
    for name, entry in header.items():
        if name == "Description":
            continue
        if isinstance(entry, Mapping) and "Value" in entry:
            entry = entry["Value"]
        if isinstance(entry, Mapping) and not {"start", "increment"} <= set(entry):
            yield from _entries(entry, f"{before}{name}.")
        else:
            yield f"{before}{name}", entry


def _values(path: Path, named: str, entry: Any, length: int) -> list[Any]:
    if isinstance(entry, Mapping):
        start, increment = entry["start"], entry["increment"]
        if not all(isinstance(v, int | float) for v in (start, increment)):
            raise InputError(f"{path}: {named} has start {start!r} and increment {increment!r}")
        return [start + increment * n for n in range(length)]
    values = entry if isinstance(entry, list) else [entry]
    if len(values) == 1:
        return values * length
    if len(values) != length:
        raise InputError(
            f"{path}: {named} has {len(values)} values for a dimension of {length}; correct the "
            "header, one value an element"
        )
    return values


def _alike(one: Any, other: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (one, other))
    if numbers:
        return bool(abs(one - other) <= 1e-6 * max(abs(one), abs(other)))
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _plain(field: str) -> str:
    return re.sub(r"[^a-z0-9]", "", field.rpartition(".")[2].lower())


def _varies(
    path: Path, extension: Mapping[str, Any], number: int, field: str, values: Sequence[Any]
) -> str:
    distinct = list(dict.fromkeys(json.dumps(value, sort_keys=True) for value in values))
    shown = ", ".join(distinct[:4]) + (", ..." if len(distinct) > 4 else "")
    tag = extension.get(f"dim_{number}", "without a tag")
    return (
        f"{path}: dim_{number}_header says that {field} varies within dimension {number} ({tag}): "
        f"{shown}; such FIDs are never averaged. Split the file along dimension {number} (e.g. "
        "with mrs_tools split) and give those of one value, or take the field out of the header "
        "if it changes nothing"
    )


def _check_description(path: Path, extension: Mapping[str, Any], number: int) -> None:
    for named in (f"dim_{number}_info", f"dim_{number}_use"):
        text = extension.get(named)
        unlike = _UNLIKE.search(text) if isinstance(text, str) else None
        if unlike is not None:
            raise InputError(
                f"{path}: {named} is {text!r}, which says that the elements of dimension {number} "
                f"({extension.get(f'dim_{number}', 'without a tag')}) differ; such FIDs are never "
                "averaged. Split the file along it, or describe it otherwise if they do not"
            )
