"""jMRUI text: one file or a folder of them, time points conjugated to our sign as spec2nii does.

PointsInDataset, SamplingInterval (ms), TransmitterFrequency (Hz), BeginTime (ms), TypeOfNucleus
and MagneticField are used, DatasetsInFile is checked, and a ZeroOrderPhase that is not 0 is
refused: programs disagree whether it was applied. The rest says who measured what when.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_formats import reading
from mrsi_engine.nuclei import known_nuclei, nucleus
from mrsi_engine.spectra.basis import Basis

FORM = "jMRUI .txt (file or folder)"

_SIGNAL = re.compile(r"Signal\s+\d+\s+out of\s+\d+", re.IGNORECASE)

#: What Vespa puts beside the signals of a folder.
_SUMMARY = "jmrui-text_output_summary.txt"

#: jMRUI's numbers for nuclei; 0 is what programs write that do not say.
_NUCLEI = {1: "1H", 2: "31P", 3: "13C", 4: "19F", 5: "23Na"}

#: Gyromagnetic ratios over 2 pi, MHz/T; that of sodium to tell it from those that are known.
_MHZ_PER_TESLA = {s: nucleus(s).gyromagnetic_ratio for s in known_nuclei()} | {"23Na": 11.262}

#: A magnet called 3 T may be 2.89 T.
_FIELD_TOLERANCE = 0.06

_FIELDS_IN_TESLA = (0.2, 30.0)


def reads(path: Path) -> bool:
    """Whether it is jMRUI's text, or a folder with text files."""
    if path.is_dir():
        return bool(reading.files_in(path, ".txt"))
    return reading.text_of(path, characters=4096).lstrip().lower().startswith("jmrui")


def read(path: Path, reference_ppm: float | None) -> Basis:
    """The basis of a file, or of a folder with a file a metabolite."""
    if path.is_file():
        entries = _entries(path, reference_ppm)
        return reading.make_basis(
            path,
            [entry.name for entry in entries],
            np.stack([entry.fid for entry in entries]),
            entries[0].acquisition,
            None,
            entries[0].notes,
        )
    found: dict[Path, reading.Entry] = {}
    for file in reading.files_in(path, ".txt"):
        if file.name == _SUMMARY:
            continue
        entries = _entries(file, reference_ppm)
        if len(entries) != 1:
            raise InputError(
                f"{file}: holds {len(entries)} signals; in a folder each file holds one metabolite"
            )
        found[file] = entries[0]
    if not found:
        raise InputError(f"{path}: no signals beside {_SUMMARY}; export the basis again")
    return reading.merged(path, found)


def _entries(path: Path, reference_ppm: float | None) -> list[reading.Entry]:
    text = reading.text_of(path)
    if not text.lstrip().lower().startswith("jmrui"):
        raise InputError(f"{path}: does not begin with 'jMRUI Data Textfile'")
    head, marker, body = text.partition("Signal and FFT")
    if not marker:
        raise InputError(f"{path}: no line 'Signal and FFT' before the data; export it again")
    fields = dict(re.findall(r"^(\w+):[ \t]*(.*?)\s*$", head, re.MULTILINE))
    where = str(path)
    _check_phase(where, fields)
    frequency = reading.megahertz(
        where, "TransmitterFrequency", reading.number(where, fields, "TransmitterFrequency"), "Hz"
    )
    nucleus, notes = _nucleus(where, fields, frequency)
    interval = reading.number(where, fields, "SamplingInterval")
    acquisition = reading.make_acquisition(
        path,
        points=reading.whole_number(where, fields, "PointsInDataset"),
        dwell_time=reading.dwell_time(where, "SamplingInterval", interval, "ms"),
        spectrometer_frequency=frequency,
        reference_ppm=reading.reference(where, nucleus, None, reference_ppm),
        nucleus=nucleus,
        start_time=_start_time(where, fields),
    )
    fids = _signals(path, body, acquisition.points)
    announced = reading.whole_number(where, fields, "DatasetsInFile", default=len(fids))
    if announced != len(fids):
        raise InputError(
            f"{path}: DatasetsInFile says {announced}, {len(fids)} signals are there; the file may "
            "be cut short, export it again"
        )
    names = _names(path, fields.get("SignalNames", ""), len(fids))
    return [
        reading.Entry(name, fid.conj(), acquisition, None, notes)
        for name, fid in zip(names, fids, strict=True)
    ]


def _check_phase(where: str, fields: Mapping[str, str]) -> None:
    phase = reading.number(where, fields, "ZeroOrderPhase", default=0.0)
    if phase != 0:
        raise InputError(
            f"{where}: field ZeroOrderPhase is {phase:g}, expected 0; phase the signals in the "
            "program that made them and export them again"
        )


def _start_time(where: str, fields: Mapping[str, str]) -> float:
    """Seconds from the time origin to the first sample; BeginTime is in ms."""
    begin = reading.number(where, fields, "BeginTime", default=0.0)
    if not 0 <= begin <= 100:
        raise InputError(
            f"{where}: field BeginTime is {begin:g}, expected ms from 0 to 100; a basis begins at "
            "the echo or after it"
        )
    return begin * 1e-3


def _nucleus(
    where: str, fields: Mapping[str, str], frequency: float
) -> tuple[str, tuple[str, ...]]:
    """The stated nucleus, checked by field and frequency; found by them where none is stated."""
    stated = _stated_nucleus(where, fields)
    tesla = _number_or_zero(fields.get("MagneticField", ""))
    if not _FIELDS_IN_TESLA[0] <= tesla <= _FIELDS_IN_TESLA[1]:
        if stated:
            return stated, ()
        return "1H", ("basis: neither nucleus nor field are stated; taken as 1H",)
    ratio = frequency / tesla
    fitting = [n for n, g in _MHZ_PER_TESLA.items() if abs(ratio / g - 1) < _FIELD_TOLERANCE]
    if stated in fitting or (stated is not None and stated not in _MHZ_PER_TESLA):
        return stated, ()
    if stated is None and fitting:
        return fitting[0], ()
    raise InputError(
        f"{where}: MagneticField {tesla:g} T and TransmitterFrequency {frequency:g} MHz are not of "
        f"{stated or 'any known nucleus'}; correct them or TypeOfNucleus"
    )


def _stated_nucleus(where: str, fields: Mapping[str, str]) -> str | None:
    text = fields.get("TypeOfNucleus", "").strip()
    if match := re.fullmatch(r"(\d+)([A-Za-z]{1,2})", text):
        return match[1] + match[2].capitalize()
    index = reading.number(where, {"TypeOfNucleus": text}, "TypeOfNucleus", default=0.0)
    if index == 0:
        return None
    if index not in _NUCLEI:
        raise InputError(f"{where}: field TypeOfNucleus is {text!r}, expected e.g. 1H, 31P or 0")
    return _NUCLEI[int(index)]


def _number_or_zero(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _signals(path: Path, body: str, points: int) -> NDArray[np.complex128]:
    rows = [
        " ".join(line.split()[:2])
        for line in body.splitlines()
        if line.strip() and not line.lower().lstrip().startswith("sig") and not _SIGNAL.match(line)
    ]
    values = reading.floats(f"{path}, data", "\n".join(rows))
    if values.size != 2 * len(rows) or not rows or len(rows) % points:
        raise InputError(
            f"{path}: {len(rows)} data lines of at least 2 columns do not make whole signals of "
            f"PointsInDataset {points}; export it again"
        )
    return (values[::2] + 1j * values[1::2]).reshape(-1, points)


def _names(path: Path, listed: str, count: int) -> list[str]:
    if count == 1:
        return [reading.metabolite_name(str(path), path.stem)]
    names = [n.strip().removesuffix(".txt") for n in re.split(r"[;,]", listed) if n.strip()]
    if len(names) != count:
        raise InputError(
            f"{path}: SignalNames lists {len(names)} names for {count} signals; name each, "
            "separated by semicolons"
        )
    return [reading.metabolite_name(str(path), name) for name in names]
