"""Folders of FSL-MRS JSON files, one a metabolite; also what this engine writes.

Of the object ``basis``: ``basis_re``, ``basis_im``, ``basis_dwell`` (s), ``basis_centre`` (MHz),
``basis_name`` and ``basis_nucleus`` are used. ``basis_width``, the width of the lines in Hz, is
not: the fit adds its own width to theirs. Of ``meta``: ``reference_ppm``, ``echo_time`` (s) and
``sequence``, which this engine writes there. The recipe of the simulation (``seq``, ``spinSys``,
``outputDensityMatrix``) is not looked at: the samples are its result.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.input_files import MOST_BYTES, check_input_file
from mrsi_engine.io.basis_formats import reading
from mrsi_engine.spectra.basis import Basis

FORM = "a folder of FSL-MRS JSON files"

_KNOWN = frozenset(
    f"basis_{what}" for what in ("re", "im", "dwell", "centre", "name", "nucleus", "width")
)


def reads(path: Path) -> bool:
    """Whether it is a folder with JSON files.

    Raises
    ------
    InputError
        If it is one such file by itself.
    """
    if path.suffix == ".json" and path.is_file():
        raise InputError(f"{path}: one metabolite of an FSL-MRS basis; give the folder it is in")
    return path.is_dir() and bool(reading.files_in(path, ".json"))


def read(path: Path, reference_ppm: float | None) -> Basis:
    """The basis of a folder."""
    files = reading.files_in(path, ".json")
    return reading.merged(path, {file: _entry(file, reference_ppm) for file in files})


def write(basis: Basis, folder: Path) -> None:
    """Write one file a metabolite; reading them gives the same samples to the last bit."""
    for name, fid in zip(basis.names, basis.fids, strict=True):
        text = json.dumps(_content(basis, name, fid))
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def _entry(path: Path, reference_ppm: float | None) -> reading.Entry:
    content = _json(path)
    entry = _object(path, content, "basis")
    if entry is None:
        raise InputError(f"{path}: no 'basis' object; expected an FSL-MRS basis file")
    meta = _object(path, content, "meta") or {}
    real, imaginary = (_array(path, entry, key) for key in ("basis_re", "basis_im"))
    if real.shape != imaginary.shape:
        raise InputError(
            f"{path}: basis_re has {real.size} points, basis_im {imaginary.size}; they must agree"
        )
    nucleus = _text(path, "basis.basis_nucleus", entry.get("basis_nucleus")) or "1H"
    if not re.fullmatch(r"\d+[A-Z][a-z]?", nucleus):
        raise InputError(
            f"{path}: field basis.basis_nucleus is {nucleus!r}, expected a nucleus such as '1H'"
        )
    dwell = _number(path, "basis.basis_dwell", entry.get("basis_dwell"))
    centre = _number(path, "basis.basis_centre", entry.get("basis_centre"))
    acquisition = reading.make_acquisition(
        path,
        points=real.size,
        dwell_time=reading.dwell_time(str(path), "basis.basis_dwell", dwell),
        spectrometer_frequency=reading.megahertz(str(path), "basis.basis_centre", centre),
        reference_ppm=reading.reference(
            str(path), nucleus, _optional(path, meta, "reference_ppm"), reference_ppm
        ),
        nucleus=nucleus,
        echo_time=reading.echo_time(
            str(path), "meta.echo_time", _optional(path, meta, "echo_time")
        ),
        start_time=_optional(path, meta, "start_time") or 0.0,
    )
    name = _text(path, "basis.basis_name", entry.get("basis_name")) or path.stem
    return reading.Entry(
        reading.metabolite_name(str(path), name),
        real + 1j * imaginary,
        acquisition,
        _text(path, "meta.sequence", meta.get("sequence")),
        reading.unread(entry, _KNOWN),
    )


def _json(path: Path) -> dict[str, Any]:
    check_input_file(path, MOST_BYTES)
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def _object(path: Path, content: dict[str, Any], key: str) -> dict[str, Any] | None:
    value = content.get(key)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"{path}: field {key} is a {type(value).__name__}, expected an object")
    return value


def _array(path: Path, entry: dict[str, Any], key: str) -> NDArray[np.float64]:
    try:
        values = np.asarray(entry[key], dtype=np.float64)
    except KeyError as error:
        raise InputError(f"{path}: field basis.{key} is missing") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: field basis.{key} is not a list of numbers") from error
    if values.ndim != 1:
        raise InputError(
            f"{path}: field basis.{key} has {values.ndim} dimensions, expected a list of numbers"
        )
    return values


def _number(path: Path, field: str, value: Any) -> float:
    # A whole number of hundreds of digits is finite to JSON and no float.
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise InputError(f"{path}: field {field} is {str(value)[:60]!r}, expected a number")
    if not math.isfinite(value):
        raise InputError(f"{path}: field {field} is {value!r}, expected a finite number")
    return float(value)


def _optional(path: Path, meta: dict[str, Any], key: str) -> float | None:
    return None if meta.get(key) is None else _number(path, f"meta.{key}", meta[key])


def _text(path: Path, field: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: field {field} is {str(value)[:60]!r}, expected a text")
    return value or None


def _content(basis: Basis, name: str, fid: NDArray[np.complex128]) -> dict[str, Any]:
    acquisition = basis.acquisition
    return {
        "basis": {
            "basis_re": fid.real.tolist(),
            "basis_im": fid.imag.tolist(),
            "basis_dwell": acquisition.dwell_time,
            "basis_centre": acquisition.spectrometer_frequency,
            "basis_width": None,
            "basis_name": name,
            "basis_nucleus": acquisition.nucleus,
        },
        "meta": {
            "sequence": basis.sequence,
            "echo_time": acquisition.echo_time,
            "start_time": acquisition.start_time,
            "reference_ppm": acquisition.reference_ppm,
            "source": basis.source,
        },
    }
