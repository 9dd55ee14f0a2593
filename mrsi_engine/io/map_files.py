"""Writing maps: a volume with the scan's place in space, and a sidecar that says what it holds."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.choices import Fill
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.volumes import Grid, set_position

#: What MRSIPrep expects where a CRLB (percent) is unknown; also the largest it is given.
MRSIPREP_CRLB = 999.0

#: Of gzip, as nibabel has it: estimates hardly compress, and more effort takes three times as long.
_LEVEL = 1

#: Beginning and end of JSON, between which that of two objects is joined.
_OPENED, _CLOSED = "{", "\n}\n"

_NEEDED_ATTRS = ("shape", "affine", "stem", "source", "checksum", "engine_version")


@dataclass(frozen=True, eq=False)
class Map:
    """One map to be written: ``values (voxel,)``, and ``fill`` where no number is known.

    ``about`` is what its sidecar says beyond that of every map; ``background`` stands outside the
    mask.
    """

    entities: str
    values: NDArray[np.floating]
    units: str
    definition: str
    about: Mapping[str, Any]
    fill: float | None = None
    background: float = np.nan


def volume(
    result: xr.Dataset, values: NDArray[Any], background: float = np.nan
) -> NDArray[np.float32]:
    """``values (voxel,)`` scattered into the scan's volume ``(x, y, z)``, float32."""
    out = np.full(tuple(result.attrs["shape"]), background, np.float32)
    out[tuple(result[axis].values for axis in "xyz")] = values
    return out


def check_exportable(result: xr.Dataset) -> None:
    """Refuse what has no place in space or does not say where it came from.

    Raises
    ------
    InputError
        If the result lacks an attribute or its affine is singular.
    """
    missing = [a for a in _NEEDED_ATTRS if a not in result.attrs]
    if missing:
        raise InputError(f"result: attributes {missing} are missing; it is no result store")
    affine = np.asarray(result.attrs["affine"], float)
    if affine.shape != (4, 4) or not Grid((1, 1, 1), affine).spans_space:
        raise InputError(
            f"{result.attrs['source']}: affine {affine.tolist()} is not an invertible 4x4 matrix, "
            "so maps would have no place in space; correct the scan's sform and import it again"
        )


@dataclass(frozen=True)
class MapFrame:
    """What all maps of a result have in common; made by :meth:`of`.

    ``header`` is all of a NIfTI file before its samples, ``provenance`` the end of a sidecar. A
    scan has a hundred maps: made for each of them, these two took a third of a second.
    """

    header: bytes
    provenance: str

    @classmethod
    def of(cls, result: xr.Dataset) -> MapFrame:
        """The frame of the maps of a result."""
        empty = np.zeros(tuple(result.attrs["shape"]), np.float32)
        affine = np.asarray(result.attrs["affine"], float)
        image, notes = _image(empty, affine, position_code(result))
        header = image.to_bytes()[: -empty.nbytes]
        return cls(header, _json(_provenance(result.attrs, notes)))


def write_map(result: xr.Dataset, described: Map, base: Path, fill: Fill, frame: MapFrame) -> Path:
    """Write a map and its sidecar as ``BASE_mrsi.nii.gz`` and ``BASE_mrsi.json``."""
    data = volume(result, described.values, described.background)
    if fill == "mrsiprep":
        blank = np.nan if described.fill is None else described.fill
        data = np.where(np.isfinite(data), data, np.float32(blank))
        if described.units == "%":
            data = np.minimum(data, np.float32(MRSIPREP_CRLB))
    path = base.with_name(f"{base.name}_mrsi.nii.gz")
    own, common = _json(_own_sidecar(described, fill)), frame.provenance
    sidecar = f"{own.removesuffix(_CLOSED)},{common.removeprefix(_OPENED)}"
    write_atomically(base.with_name(f"{base.name}_mrsi.json"), sidecar.encode())
    samples = data.astype("<f4", copy=False).tobytes(order="F")
    return write_atomically(path, gzip.compress(frame.header + samples, _LEVEL, mtime=0))


def plain(value: Any) -> Any:
    """A value as JSON takes it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def position_code(result: xr.Dataset) -> int:
    """NIfTI's code of the space of the affine; 0 where the scan states no position."""
    return int(result.attrs.get("position_code", 1))


def _image(
    data: NDArray[np.float32], affine: NDArray[np.float64], code: int
) -> tuple[nib.Nifti1Image, list[str]]:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    set_position(image, affine, code)
    if code == 0:
        return image, ["The scan states no position: sform and qform codes are 0."]
    if int(image.header["qform_code"]) == 0:
        return image, ["The affine holds shear: the sform is exact, the qform has code 0."]
    return image, []


def _own_sidecar(described: Map, fill: Fill) -> dict[str, Any]:
    """What a sidecar says of its map alone."""
    return {
        "Units": described.units,
        "Definition": described.definition,
        "NoFit": "NaN" if fill == "nan" or described.fill is None else described.fill,
        **described.about,
    }


def _provenance(attrs: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """What every sidecar of a result says."""
    provenance: dict[str, Any] = {
        "Sources": [attrs["source"]],
        "SourceSHA256": attrs["checksum"],
        "Basis": attrs.get("basis"),
        "Pipeline": attrs.get("pipeline"),
        "Networks": attrs.get("identity", {}).get("models", {}),
        "MaskOrigin": attrs.get("mask_origin"),
        "GeneratedBy": [{"Name": "mrsi_engine", "Version": attrs["engine_version"]}],
    }
    said = [*attrs.get("notes", []), *notes]
    return {**provenance, "Notes": said} if said else provenance


def _json(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=plain)
    return text + "\n"
