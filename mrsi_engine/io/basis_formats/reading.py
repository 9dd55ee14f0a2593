"""What basis formats share: fields that are numbers, units that make sense, one axis for all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.input_files import MOST_BYTES, check_input_file
from mrsi_engine.nuclei import nucleus
from mrsi_engine.spectra.basis import Basis

#: Spectrometer frequencies (MHz) there are: deuterium at 1 T to protons at 28 T.
_MEGAHERTZ = (5.0, 1300.0)

#: Dwell times (s): 200 kHz to 100 Hz of spectral width.
_DWELL_TIMES = (5e-6, 1e-2)

#: Echo times (s).
_ECHO_TIMES = (1e-4, 0.5)

_FREQUENCY_UNITS = {"Hz": 1e-6, "kHz": 1e-3, "MHz": 1.0, "GHz": 1e3}
_TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}

_LONGEST_NAME = 60


@dataclass(frozen=True)
class Entry:
    """One metabolite of a basis that stands in several files."""

    name: str
    fid: NDArray[np.complex128]
    acquisition: Acquisition
    sequence: str | None = None
    notes: tuple[str, ...] = ()


def text_of(path: Path, characters: int = -1) -> str:
    """The text of a file, or its beginning.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    check_input_file(path, MOST_BYTES)
    try:
        with path.open(encoding="latin-1") as file:
            return file.read(characters)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder by name; hidden ones (``._NAA.json`` of a Mac) hold no metabolite."""
    found = sorted(folder.glob(f"*{suffix}"))
    return [file for file in found if not file.name.startswith(".")]


def floats(where: str, text: str) -> NDArray[np.float64]:
    """Numbers as Fortran writes them: D exponents, and columns that touch (``1.0-2.0``).

    Raises
    ------
    InputError
        If something is no number.
    """
    apart = re.sub(r"(?<=[0-9.])(?=[-+])", " ", text.upper().replace("D", "E"))
    try:
        return np.array(apart.split(), dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{where}: the data hold something that is no number ({error})") from error


def number(where: str, fields: Mapping[str, str], key: str, default: float | None = None) -> float:
    """A field that is a finite number; ``default`` where it is absent or empty.

    Raises
    ------
    InputError
        If it is no number, or absent without a default.
    """
    text = fields.get(key, "")
    if not text:
        if default is None:
            raise InputError(f"{where}: field {key} is missing; the basis cannot be read without")
        return default
    try:
        value = float(text.upper().replace("D", "E"))
    except ValueError as error:
        raise InputError(f"{where}: field {key} is {text!r}, expected a number") from error
    if not math.isfinite(value):
        raise InputError(f"{where}: field {key} is {text!r}, expected a finite number")
    return value


def whole_number(
    where: str, fields: Mapping[str, str], key: str, default: int | None = None
) -> int:
    """A field that is a whole number.

    Raises
    ------
    InputError
        If it is none, or absent without a default.
    """
    value = number(where, fields, key, default)
    if value != int(value):
        raise InputError(f"{where}: field {key} is {fields[key]!r}, expected a whole number")
    return int(value)


def megahertz(where: str, field: str, value: float, unit: str = "MHz") -> float:
    """A spectrometer frequency in MHz that its format states in ``unit``.

    Raises
    ------
    InputError
        If it is none in that unit; the message names the unit it seems to be in.
    """
    return _in_unit(where, field, value, unit, _FREQUENCY_UNITS, _MEGAHERTZ)


def dwell_time(where: str, field: str, value: float, unit: str = "s") -> float:
    """A dwell time in s that its format states in ``unit``.

    Raises
    ------
    InputError
        If it is none in that unit; the message names the unit it seems to be in.
    """
    return _in_unit(where, field, value, unit, _TIME_UNITS, _DWELL_TIMES)


def echo_time(where: str, field: str, value: float | None, unit: str = "s") -> float | None:
    """An echo time in s that its format states in ``unit``; 0 and negative ones say unknown.

    Raises
    ------
    InputError
        If it is none in that unit; the message names the unit it seems to be in.
    """
    if value is None or value <= 0:
        return None
    return _in_unit(where, field, value, unit, _TIME_UNITS, _ECHO_TIMES)


def _in_unit(
    where: str,
    field: str,
    value: float,
    unit: str,
    units: Mapping[str, float],
    sensible: tuple[float, float],
) -> float:
    low, high = sensible
    if low <= value * units[unit] <= high:
        return value * units[unit]
    lowest, highest = (f"{limit / units[unit]:g}" for limit in sensible)
    message = f"{where}: field {field} is {value:.10g}, expected {unit} ({lowest} to {highest})"
    for other, factor in units.items():
        if low <= value * factor <= high:
            right = value * factor / units[unit]
            raise InputError(f"{message}; it looks like {other}: write {right:.10g}")
    raise InputError(f"{message}; correct it in the file")


def reference(where: str, symbol: str, stated: float | None, given: float | None) -> float:
    """Chemical shift (ppm) at 0 Hz: what the user says, else the file, else 4.65 of protons.

    Raises
    ------
    InputError
        If nobody says and the nucleus is another than 1H, whose bases have no common reference.
    """
    for value in (given, stated):
        if value is not None:
            return value
    usual = nucleus(symbol).basis_reference_ppm
    if usual is None:
        raise InputError(
            f"{where}: a basis of {symbol} that does not state its reference; give the chemical "
            "shift (ppm) at 0 Hz with --basis-reference"
        )
    return usual


def metabolite_name(where: str, name: str) -> str:
    """A name that can stand in tables and file names.

    Raises
    ------
    InputError
        If it is empty, overlong or holds slashes or control characters.
    """
    stripped = name.strip()
    if not stripped:
        raise InputError(f"{where}: the metabolite's name is empty; name it")
    if len(stripped) > _LONGEST_NAME or not stripped.isprintable() or re.search(r"[/\\]", stripped):
        raise InputError(
            f"{where}: {stripped[:_LONGEST_NAME]!r} is no metabolite's name; rename it without "
            f"slashes, in {_LONGEST_NAME} characters at most"
        )
    return stripped


def make_acquisition(where: str | Path, **fields: Any) -> Acquisition:
    """The axis of these fields.

    Raises
    ------
    InputError
        If a value is out of range.
    """
    try:
        return Acquisition(**fields)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}; correct the field in the file") from error


def make_basis(
    path: Path,
    names: Sequence[str],
    fids: NDArray[np.complex128],
    acquisition: Acquisition,
    sequence: str | None,
    notes: Iterable[str] = (),
) -> Basis:
    """The basis of a file under canonical names.

    Names that stand twice are told apart as FSL-MRS does (``Gly_1``). What is not known of it is
    noted.

    Raises
    ------
    InputError
        If its nucleus is not known.
    """
    try:
        table = nucleus(acquisition.nucleus)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    apart, renamed = _named_apart([table.canonical_name(name) for name in names])
    unknown = (
        ("basis: its file does not state its echo time, so the scan's is not compared with it",)
        if acquisition.echo_time is None
        else ()
    )
    told = tuple(dict.fromkeys((*notes, *renamed, *unknown)))
    return Basis(apart, fids, acquisition, sequence, str(path), told)


def merged(path: Path, entries: Mapping[Path, Entry]) -> Basis:
    """One basis of entries that must agree on their axis.

    Raises
    ------
    InputError
        If they do not.
    """
    first = next(iter(entries.values()))
    for file, entry in entries.items():
        if entry.acquisition != first.acquisition:
            raise InputError(
                f"{file}: its axis differs from the rest of the basis: {entry.acquisition}, "
                f"expected {first.acquisition}"
            )
    return make_basis(
        path,
        [entry.name for entry in entries.values()],
        np.stack([entry.fid for entry in entries.values()]),
        first.acquisition,
        first.sequence,
        [note for entry in entries.values() for note in entry.notes],
    )


def unread(fields: Iterable[str], known: frozenset[str]) -> tuple[str, ...]:
    """A note on fields that a reader does not know, where there are any."""
    strange = sorted(set(fields) - known)
    return (f"basis: fields that were not read: {', '.join(strange)}",) if strange else ()


def _named_apart(names: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    apart: list[str] = []
    notes = []
    for name in names:
        free = name
        count = 0
        while free in apart or (count and free in names):
            count += 1
            free = f"{name}_{count}"
        if free != name:
            notes.append(f"basis: {name} stands more than once; this one is called {free}")
        apart.append(free)
    return tuple(apart), notes
