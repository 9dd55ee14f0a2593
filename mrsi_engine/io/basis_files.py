"""Basis sets of other programs, read into our conventions and checked.

Read: LCModel ``.basis`` files, folders of FSL-MRS JSON files, jMRUI text files (one file or a
folder of them). Written: folders of FSL-MRS JSON files, which keep every digit. Every sign and
scale is settled here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus
from mrsi_engine.spectra.basis import Basis

FORMATS = "an LCModel .basis file, a folder of FSL-MRS JSON files, or jMRUI .txt (file or folder)"

_NAMELIST = re.compile(r"[$&](?P<name>\w+)\s(?P<body>.*?)[$&]END\b", re.DOTALL | re.IGNORECASE)
_FIELD = re.compile(r"(\w+)\s*=\s*('[^']*'|[^,\n$&]*)")
_SIGNAL = re.compile(r"Signal\s+\d+\s+out of\s+\d+", re.IGNORECASE)


def read_basis(
    path: str | Path, *, reference_ppm: float | None = None, conjugate: bool = False
) -> Basis:
    """Read a basis set of any known format.

    Parameters
    ----------
    path
        LCModel ``.basis`` file, folder of FSL-MRS JSON files, jMRUI text file or a folder of them.
    reference_ppm
        Chemical shift at 0 Hz, where it is not what the file says (4.65 ppm where it says
        nothing).
    conjugate
        Turn the frequency axis round, for files written with the other sign than their format's.

    Returns
    -------
    Basis
        In the conventions of :mod:`mrsi_engine.conventions`, with NAA's position checked. Where
        the file holds half of each first time point (LCModel's way of removing the spectrum's
        offset), the whole is restored.

    Raises
    ------
    InputError
        If the path is missing or of no known format; if a field is missing or malformed; if FIDs
        disagree in length, dwell time or frequency, hold NaN or Inf; if NAA is not at 2.01 ppm.
        The message names the file and the field or line.
    """
    path = Path(path)
    basis = _reader(path)(path)
    if conjugate:
        basis = basis.conjugated()
    if reference_ppm is not None:
        acquisition = replace(basis.acquisition, reference_ppm=reference_ppm)
        basis = replace(basis, acquisition=acquisition)
    return _with_whole_first_point(basis.check())


def write_basis(basis: Basis, folder: str | Path) -> Path:
    """Write a basis as a folder of FSL-MRS JSON files, one a metabolite.

    Reading it back gives the same samples to the last bit.

    Raises
    ------
    InputError
        If the folder exists and is not empty, or cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"{folder}: the folder is not empty; name a new one")
        for name, fid in zip(basis.names, basis.fids, strict=True):
            text = json.dumps(_fsl_entry(basis, name, fid))
            (folder / f"{name}.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot write the basis there ({error})") from error
    return folder


def _reader(path: Path) -> Callable[[Path], Basis]:
    if not path.exists():
        raise InputError(f"{path}: no such basis; expected {FORMATS}")
    if path.is_dir():
        if any(path.glob("*.json")):
            return _read_fsl_folder
        if any(path.glob("*.txt")):
            return _read_jmrui
        raise InputError(f"{path}: the folder holds no .json or .txt file; expected {FORMATS}")
    start = _text(path, characters=65536)
    if start.lstrip().lower().startswith("jmrui"):
        return _read_jmrui
    if re.search(r"[$&](SEQPAR|BASIS1)\b", start, re.IGNORECASE):
        return _read_lcmodel
    if path.suffix == ".json":
        raise InputError(f"{path}: one metabolite of an FSL-MRS basis; give the folder it is in")
    raise InputError(f"{path}: not a basis in a known format; expected {FORMATS}")


# ---------------------------------------------------------------------------------- LCModel


def _read_lcmodel(path: Path) -> Basis:
    """LCModel's ``.basis``: an unshifted spectrum a metabolite, after Fortran namelists.

    LCModel manual, section 8. A positive ISHIFT moves the spectrum that many points to higher
    ppm; the amplitude is scaled by TRAMP / (VOLUME * CONC).
    """
    text = _text(path)
    general: dict[str, str] = {}
    spectra: dict[str, NDArray[np.complex128]] = {}
    for block in _NAMELIST.finditer(text):
        fields = _fields(block["body"])
        if block["name"].upper() != "BASIS":
            general.update(fields)
            continue
        where = f"{path}, line {text.count(chr(10), 0, block.start()) + 1}"
        name = _lcmodel_name(where, fields)
        if name in spectra:
            raise InputError(f"{where}: METABO {name} stands more than once")
        values = text[block.end() :].partition("$")[0].partition("&")[0]
        points = _number(str(path), general, "NDATAB", int)
        spectrum = _lcmodel_spectrum(f"{where}, METABO {name}", values, points)
        shift = _number(where, fields, "ISHIFT", int, default=0)
        spectra[name] = np.roll(spectrum, -shift) * _lcmodel_scale(where, fields)
    if not spectra:
        raise InputError(f"{path}: no $BASIS block with a metabolite; the file may be cut short")
    echo_time = _number(str(path), general, "ECHOT", default=0.0)
    acquisition = _acquisition(
        path,
        points=_number(str(path), general, "NDATAB", int),
        dwell_time=_number(str(path), general, "BADELT"),
        spectrometer_frequency=_number(str(path), general, "HZPPPM"),
        echo_time=echo_time * 1e-3 or None,
    )
    fids = np.fft.ifft(np.stack(list(spectra.values())), axis=-1)
    sequence = general.get("SEQ", "").lower() or None
    return Basis(tuple(spectra), fids, acquisition, sequence, str(path))


def _fields(body: str) -> dict[str, str]:
    return {name.upper(): value.strip("' \t\r") for name, value in _FIELD.findall(body)}


def _lcmodel_name(where: str, fields: dict[str, str]) -> str:
    name = fields.get("METABO") or fields.get("ID")
    if not name:
        raise InputError(f"{where}: the $BASIS block has no METABO; name its metabolite there")
    return nucleus("1H").canonical_name(name)


def _lcmodel_scale(where: str, fields: dict[str, str]) -> float:
    tramp, volume, concentration = (
        _number(where, fields, key, default=1.0) for key in ("TRAMP", "VOLUME", "CONC")
    )
    if min(tramp, volume, concentration) <= 0:
        raise InputError(
            f"{where}: TRAMP, VOLUME and CONC must be positive, found {tramp:g}, {volume:g} "
            f"and {concentration:g}"
        )
    return tramp / (volume * concentration)


def _lcmodel_spectrum(where: str, text: str, points: int) -> NDArray[np.complex128]:
    values = _floats(where, text)
    if values.size % 2:
        raise InputError(f"{where}: {values.size} numbers do not pair up as real and imaginary")
    spectrum = values[::2] + 1j * values[1::2]
    if spectrum.size == points - 1:
        # Some writers drop the last point. The spectrum is circular, so the missing one lies
        # between the last that is there and the first.
        spectrum = np.append(spectrum, (spectrum[-1] + spectrum[0]) / 2)
    if spectrum.size != points:
        raise InputError(f"{where}: {spectrum.size} points, NDATAB says {points}; export it again")
    return spectrum


def _floats(where: str, text: str) -> NDArray[np.float64]:
    tokens = text.upper().replace("D", "E").split()
    try:
        return np.array(tokens, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{where}: the data hold something that is no number ({error})") from error


def _number(
    where: str,
    fields: dict[str, str],
    key: str,
    kind: type[float] | type[int] = float,
    default: float | None = None,
) -> Any:
    text = fields.get(key, "")
    if not text:
        if default is None:
            raise InputError(f"{where}: field {key} is missing; the basis cannot be read without")
        return default
    try:
        return kind(text.upper().replace("D", "E"))
    except ValueError as error:
        raise InputError(f"{where}: field {key} is {text!r}, expected a number") from error


# ---------------------------------------------------------------------------------- FSL-MRS


@dataclass(frozen=True)
class _Entry:
    """One metabolite of a basis that stands in several files."""

    name: str
    fid: NDArray[np.complex128]
    acquisition: Acquisition
    sequence: str | None = None


def _read_fsl_folder(folder: Path) -> Basis:
    return _merged(folder, {p: _read_fsl_file(p) for p in sorted(folder.glob("*.json"))})


def _read_fsl_file(path: Path) -> _Entry:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    entry = content.get("basis") if isinstance(content, dict) else None
    if not isinstance(entry, dict):
        raise InputError(f"{path}: no 'basis' object; expected an FSL-MRS basis file")
    real, imaginary = (_json_array(path, entry, key) for key in ("basis_re", "basis_im"))
    if real.shape != imaginary.shape:
        raise InputError(
            f"{path}: basis_re has {real.size} points, basis_im {imaginary.size}; they must agree"
        )
    meta = content.get("meta") or {}
    table = nucleus(entry.get("basis_nucleus") or "1H")
    acquisition = _acquisition(
        path,
        points=real.size,
        dwell_time=_json_number(path, entry, "basis_dwell"),
        spectrometer_frequency=_json_number(path, entry, "basis_centre"),
        reference_ppm=meta.get("reference_ppm", table.reference_ppm),
        nucleus=table.symbol,
        echo_time=meta.get("echo_time"),
    )
    name = table.canonical_name(entry.get("basis_name") or path.stem)
    return _Entry(name, real + 1j * imaginary, acquisition, meta.get("sequence"))


def _json_array(path: Path, entry: dict[str, Any], key: str) -> NDArray[np.float64]:
    try:
        values = np.asarray(entry[key], dtype=np.float64)
    except KeyError as error:
        raise InputError(f"{path}: field basis.{key} is missing") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: field basis.{key} is not a list of numbers") from error
    if values.ndim != 1:
        raise InputError(
            f"{path}: field basis.{key} has {values.ndim} dimensions, expected a list of numbers"
        )
    return values


def _json_number(path: Path, entry: dict[str, Any], key: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{path}: field basis.{key} is {value!r}, expected a number")
    return float(value)


def _fsl_entry(basis: Basis, name: str, fid: NDArray[np.complex128]) -> dict[str, Any]:
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
            "reference_ppm": acquisition.reference_ppm,
            "source": basis.source,
        },
    }


# ------------------------------------------------------------------------------------ jMRUI


def _read_jmrui(path: Path) -> Basis:
    """jMRUI text: time points in columns one and two, conjugated to our sign as spec2nii does."""
    if path.is_file():
        entries = _read_jmrui_file(path)
        return _merged(path, {path / entry.name: entry for entry in entries})
    entries_by_file = {}
    for file in sorted(path.glob("*.txt")):
        for entry in _read_jmrui_file(file):
            entries_by_file[file / entry.name] = entry
    return _merged(path, entries_by_file)


def _read_jmrui_file(path: Path) -> list[_Entry]:
    text = _text(path)
    if not text.lstrip().lower().startswith("jmrui"):
        raise InputError(f"{path}: does not begin with 'jMRUI Data Textfile'")
    head, marker, body = text.partition("Signal and FFT")
    if not marker:
        raise InputError(f"{path}: no line 'Signal and FFT' before the data; export it again")
    fields = dict(re.findall(r"^(\w+):[ \t]*(.*?)\s*$", head, re.MULTILINE))
    acquisition = _acquisition(
        path,
        points=int(_number(str(path), fields, "PointsInDataset")),
        dwell_time=_number(str(path), fields, "SamplingInterval") * 1e-3,
        spectrometer_frequency=_number(str(path), fields, "TransmitterFrequency") * 1e-6,
    )
    fids = _jmrui_signals(path, body, acquisition.points)
    names = _jmrui_names(path, fields.get("SignalNames", ""), len(fids))
    return [_Entry(n, f.conj(), acquisition) for n, f in zip(names, fids, strict=True)]


def _jmrui_signals(path: Path, body: str, points: int) -> NDArray[np.complex128]:
    rows = [
        " ".join(line.split()[:2])
        for line in body.splitlines()
        if line.strip() and not line.lower().lstrip().startswith("sig") and not _SIGNAL.match(line)
    ]
    values = _floats(f"{path}, data", "\n".join(rows))
    if values.size != 2 * len(rows) or not rows or len(rows) % points:
        raise InputError(
            f"{path}: {len(rows)} data lines of at least 2 columns do not make whole signals of "
            f"PointsInDataset {points}; export it again"
        )
    return (values[::2] + 1j * values[1::2]).reshape(-1, points)


def _jmrui_names(path: Path, listed: str, count: int) -> list[str]:
    if count == 1:
        return [nucleus("1H").canonical_name(path.stem)]
    given = [n.removesuffix(".txt") for n in re.split(r"[;,]", listed) if n.strip()]
    names = [nucleus("1H").canonical_name(name) for name in given]
    if len(names) != count:
        raise InputError(
            f"{path}: SignalNames lists {len(names)} names for {count} signals; name each, "
            "separated by semicolons"
        )
    return names


# ----------------------------------------------------------------------------------- shared


def _merged(path: Path, entries: dict[Path, _Entry]) -> Basis:
    """One basis of entries that must agree on their axis."""
    first = next(iter(entries.values()))
    for file, entry in entries.items():
        if entry.acquisition != first.acquisition:
            raise InputError(
                f"{file}: its axis differs from the rest of the basis: {entry.acquisition}, "
                f"expected {first.acquisition}"
            )
    names = tuple(entry.name for entry in entries.values())
    fids = np.stack([entry.fid for entry in entries.values()])
    return Basis(names, fids, first.acquisition, first.sequence, str(path))


def _acquisition(path: Path, **fields: Any) -> Acquisition:
    try:
        return Acquisition(**fields)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}; correct the field in the file") from error


def _with_whole_first_point(basis: Basis) -> Basis:
    """Double the first time point of FIDs that hold half of it.

    Farthest from the metabolites a discrete spectrum is half its first time point (the sum of a
    geometric series at -1), and nothing when the point was halved.
    """
    acquisition = basis.acquisition
    centre = acquisition.frequency_of(basis.nucleus.windows.middle)
    slow = basis.fids * np.exp(-2j * np.pi * centre * acquisition.time)
    farthest = slow[:, ::2].sum(axis=1) - slow[:, 1::2].sum(axis=1)
    first = slow[:, 0]
    if np.vdot(first, farthest).real > np.vdot(first, first).real / 3:
        return basis
    fids = basis.fids.copy()
    fids[:, 0] *= 2
    return replace(basis, fids=fids)


def _text(path: Path, characters: int = -1) -> str:
    try:
        with path.open(encoding="latin-1") as file:
            return file.read(characters)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
