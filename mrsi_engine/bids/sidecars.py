"""What sidecars say of a scan: fields that its header may lack, and its water reference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import bids2table

from mrsi_engine.errors import InputError
from mrsi_engine.spectra.sequences import sequence_family

#: Fields of BIDS that say how a scan was acquired, and what NIfTI-MRS calls them.
_FIELDS = {
    "ResonantNucleus": "ResonantNucleus",
    "SpectrometerFrequency": "SpectrometerFrequency",
    "SpectralWidth": "SpectralWidth",
    "NumberOfSpectralPoints": "NumberOfSpectralPoints",
    "MatrixSize": "MatrixSize",
    "EchoTime": "EchoTime",
    "RepetitionTime": "RepetitionTime",
    "MixingTime": "MixingTime",
    "InversionTime": "InversionTime",
    "FlipAngle": "ExcitationFlipAngle",
    "ChemicalShiftOffset": "SpecFreqChemShift",
    "WaterSuppression": "WaterSuppressed",
    "EditPulse": "EditPulse",
    "Manufacturer": "Manufacturer",
}

#: Folders whose lists of sidecars are kept: those above a subject are asked for every scan.
_LISTED = 64

#: What names the sequence: that which says its family first.
_SEQUENCE = ("PulseSequenceType", "SequenceName", "PulseSequenceDetails")


class Sidecars:
    """Reads the sidecars of a dataset's files; folders of many files are listed once.

    Not by bids2table, which passes over sidecars that are broken and remembers those it has read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._beside = lru_cache(maxsize=_LISTED)(_json_files)

    def of(self, path: Path) -> dict[str, Any]:
        """All fields of the sidecars of a file, inherited from the dataset down as BIDS says.

        Raises
        ------
        InputError
            If one of them is no JSON of named fields.
        """
        own = _entities(path)
        above = [path.parent, *path.parent.parents]
        folders = above[: above.index(self._root) + 1] if self._root in above else above[:1]
        found: dict[str, Any] = {}
        for folder in reversed(folders):
            for entities, file in self._beside(folder):
                if own["suffix"] == entities.get("suffix") and entities.items() <= own.items():
                    found |= _read(file)
        return found


def _json_files(folder: Path) -> list[tuple[dict[str, str], Path]]:
    """JSON files of a folder by their entities, those of fewest entities first."""
    listed = [(_entities(file), file) for file in sorted(folder.glob("*.json"))]
    return sorted(listed, key=lambda entry: len(entry[0]))


def _entities(path: Path) -> dict[str, str]:
    """Entities and suffix by a file's name alone."""
    found = dict(bids2table.parse_bids_entities(path.name))
    return {name: text for name, text in found.items() if name not in ("ext", "datatype")}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8-sig")))
    except (ValueError, TypeError, OSError) as error:
        raise InputError(f"{path}: not JSON of named fields: {error}; correct it") from error


def acquisition_fields(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """What a sidecar says of the acquisition, by the names of NIfTI-MRS."""
    found = {
        _FIELDS[name]: value
        for name, value in sidecar.items()
        if name in _FIELDS and value is not None
    }
    named = [str(sidecar[name]) for name in _SEQUENCE if sidecar.get(name)]
    if named:
        found["SequenceName"] = next(filter(sequence_family, named), named[0])
    return found


def reference_files(sidecar: Mapping[str, Any], root: Path) -> list[Path]:
    """The files that ``ReferenceSignal`` names, by BIDS URIs or paths in the dataset.

    Raises
    ------
    InputError
        If it names something else, or a file that is not there.
    """
    stated = sidecar.get("ReferenceSignal", [])
    listed = stated if isinstance(stated, list) else [stated]
    found = []
    for text in listed:
        inside = str(text).removeprefix("bids::")
        path = root / inside
        if inside.startswith("bids:") or not path.is_file():
            raise InputError(
                f"ReferenceSignal of the sidecar is {text!r}, and there is no such file in {root}; "
                "correct it, e.g. bids::sub-01/mrs/sub-01_acq-conc_mrsref.nii.gz"
            )
        found.append(path)
    return found
