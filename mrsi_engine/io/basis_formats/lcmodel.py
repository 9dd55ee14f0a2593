"""LCModel's ``.basis``: an unshifted spectrum a metabolite, after Fortran namelists.

LCModel manual, section 8, and what the program itself does with each field:

- ``SEQPAR``: HZPPPM (MHz), ECHOT (ms; 0 or -1 says unknown) and SEQ are used. FWHMBA, the width
  of the lines in ppm, is not: the fit adds its own width to theirs.
- ``BASIS1``: BADELT (s) and NDATAB. A negative BADELT marks scrambled spectra and is refused.
  FMTBAS is not needed, the numbers are told apart without it; IDBASI is a title.
- ``BASIS``: METABO (else ID), ISHIFT, TRAMP, VOLUME and CONC are applied: a positive ISHIFT moves
  the spectrum that many points to higher ppm, the amplitude is scaled by TRAMP / (VOLUME * CONC).
- ``NMUSED`` is MakeBasis' protocol of how the spectrum that follows was made (XTRASH, AUTOSC,
  AUTOPH, DEGZER, PPMAPP, PPMSEP, DO_CONTAM, ...). The numbers hold it already, and neither LCModel
  nor this reader looks at it.

0 Hz is at 4.65 ppm, LCModel's PPMCEN.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_formats import reading
from mrsi_engine.spectra.basis import Basis

FORM = "an LCModel .basis file"

_NAMELIST = re.compile(r"[$&](?P<name>\w+)\s(?P<body>.*?)[$&]END\b", re.DOTALL | re.IGNORECASE)
_FIELD = re.compile(r"(\w+)\s*=\s*('[^']*'|[^,\n$&]*)")

_KNOWN = {
    "SEQPAR": frozenset({"HZPPPM", "ECHOT", "SEQ", "FWHMBA"}),
    "BASIS1": frozenset({"BADELT", "NDATAB", "FMTBAS", "IDBASI"}),
    "BASIS": frozenset({"ID", "METABO", "ISHIFT", "TRAMP", "VOLUME", "CONC"}),
}


def reads(path: Path) -> bool:
    """Whether the file begins with LCModel's namelists."""
    if path.is_dir():
        return False
    start = reading.text_of(path, characters=65536)
    return re.search(r"[$&](SEQPAR|BASIS1)\b", start, re.IGNORECASE) is not None


def read(path: Path, reference_ppm: float | None) -> Basis:
    """The basis of a ``.basis`` file."""
    text = reading.text_of(path)
    general: dict[str, str] = {}
    names: list[str] = []
    spectra: list[NDArray[np.complex128]] = []
    notes: list[str] = []
    for where, kind, fields, values in _namelists(path, text):
        notes.extend(reading.unread(fields, _KNOWN.get(kind, frozenset(fields))))
        if kind in ("SEQPAR", "BASIS1"):
            general.update(fields)
        elif kind == "BASIS":
            names.append(_name(where, fields))
            points = reading.whole_number(str(path), general, "NDATAB")
            spectrum = _spectrum(f"{where}, METABO {names[-1]}", values, points)
            shift = reading.whole_number(where, fields, "ISHIFT", default=0)
            spectra.append(np.roll(spectrum, -shift) * _scale(where, fields))
    if not spectra:
        raise InputError(f"{path}: no $BASIS block with a metabolite; the file may be cut short")
    te = reading.number(str(path), general, "ECHOT", default=0.0)
    acquisition = reading.make_acquisition(
        path,
        points=reading.whole_number(str(path), general, "NDATAB"),
        dwell_time=_dwell_time(str(path), general),
        spectrometer_frequency=reading.megahertz(
            str(path), "HZPPPM", reading.number(str(path), general, "HZPPPM")
        ),
        reference_ppm=reading.reference(str(path), "1H", None, reference_ppm),
        echo_time=reading.echo_time(str(path), "ECHOT", te, "ms"),
    )
    fids = np.fft.ifft(np.stack(spectra), axis=-1)
    sequence = general.get("SEQ", "").lower() or None
    return reading.make_basis(path, names, fids, acquisition, sequence, notes)


def _namelists(path: Path, text: str) -> Iterator[tuple[str, str, dict[str, str], str]]:
    """Where each namelist stands, its name, its fields and the text up to the next."""
    for block in _NAMELIST.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        after = re.compile("[$&]").search(text, block.end())
        values = text[block.end() : None if after is None else after.start()]
        fields = {
            name.upper(): value.strip("' \t\r") for name, value in _FIELD.findall(block["body"])
        }
        yield f"{path}, line {line}", block["name"].upper(), fields, values


def _dwell_time(where: str, general: Mapping[str, str]) -> float:
    value = reading.number(where, general, "BADELT")
    if value < 0:
        raise InputError(
            f"{where}: field BADELT is {value:g}: LCModel marks spectra that are scrambled for its "
            "own use by a negative dwell time. Take a basis made for your sequence, or simulate "
            "one (--basis press-3t-te30); if these spectra are plain, write BADELT without the "
            "minus sign"
        )
    return reading.dwell_time(where, "BADELT", value)


def _name(where: str, fields: Mapping[str, str]) -> str:
    name = fields.get("METABO") or fields.get("ID")
    if not name:
        raise InputError(f"{where}: the $BASIS block has no METABO; name its metabolite there")
    return reading.metabolite_name(where, name)


def _scale(where: str, fields: Mapping[str, str]) -> float:
    tramp, volume, concentration = (
        reading.number(where, fields, key, default=1.0) for key in ("TRAMP", "VOLUME", "CONC")
    )
    if min(tramp, volume, concentration) <= 0:
        raise InputError(
            f"{where}: TRAMP, VOLUME and CONC must be positive, found {tramp:g}, {volume:g} "
            f"and {concentration:g}"
        )
    return tramp / (volume * concentration)


def _spectrum(where: str, text: str, points: int) -> NDArray[np.complex128]:
    values = reading.floats(where, text)
    if values.size % 2:
        raise InputError(f"{where}: {values.size} numbers do not pair up as real and imaginary")
    spectrum = values[::2] + 1j * values[1::2]
    if spectrum.size == points - 1 and spectrum.size:
        # Some writers drop the last point. The spectrum is circular, so the missing one lies
        # between the last that is there and the first.
        spectrum = np.append(spectrum, (spectrum[-1] + spectrum[0]) / 2)
    if spectrum.size != points:
        raise InputError(f"{where}: {spectrum.size} points, NDATAB says {points}; export it again")
    return spectrum
