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

#: What MRSIPrep expects where a CRLB (percent) is unknown; also the largest it is given.
MRSIPREP_CRLB = 999.0

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
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or _singular(affine):
        raise InputError(
            f"{result.attrs['source']}: affine {affine.tolist()} is not an invertible 4x4 matrix, "
            "so maps would have no place in space; correct the scan's sform and import it again"
        )


def _singular(affine: NDArray[np.float64]) -> bool:
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((zooms == 0).any() or abs(np.linalg.det(affine[:3, :3] / zooms)) < 1e-6)


def write_map(result: xr.Dataset, described: Map, base: Path, fill: Fill) -> Path:
    """Write a map and its sidecar as ``BASE_mrsi.nii.gz`` and ``BASE_mrsi.json``."""
    data = volume(result, described.values, described.background)
    if fill == "mrsiprep":
        blank = np.nan if described.fill is None else described.fill
        data = np.where(np.isfinite(data), data, np.float32(blank))
        if described.units == "%":
            data = np.minimum(data, np.float32(MRSIPREP_CRLB))
    image, notes = _image(data, np.asarray(result.attrs["affine"], float))
    path = base.with_name(f"{base.name}_mrsi.nii.gz")
    sidecar = _sidecar(result.attrs, described, fill, notes)
    write_atomically(base.with_name(f"{base.name}_mrsi.json"), _json(sidecar))
    return write_atomically(path, gzip.compress(image.to_bytes(), 6, mtime=0))


def plain(value: Any) -> Any:
    """A value as JSON takes it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _image(
    data: NDArray[np.float32], affine: NDArray[np.float64]
) -> tuple[nib.Nifti1Image, list[str]]:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1, strip_shears=True)
    return image, _qform_notes(image, affine)


def _qform_notes(image: nib.Nifti1Image, affine: NDArray[np.float64]) -> list[str]:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1)
    apart = (image.get_qform() - affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    worst = float(np.linalg.norm(apart[:3], axis=0).max())
    zoom = float(min(image.header.get_zooms()[:3]))
    if worst <= 0.01 * zoom:
        return []
    return [
        "The affine holds shear, which a qform cannot represent: the sform is exact, the qform the "
        f"nearest rotation, up to {worst:.2f} mm off at a corner of the volume. Use the sform."
    ]


def _sidecar(
    attrs: Mapping[str, Any], described: Map, fill: Fill, notes: list[str]
) -> dict[str, Any]:
    sidecar: dict[str, Any] = {
        "Units": described.units,
        "Definition": described.definition,
        "NoFit": "NaN" if fill == "nan" or described.fill is None else described.fill,
        **described.about,
        "Sources": [attrs["source"]],
        "SourceSHA256": attrs["checksum"],
        "Basis": attrs.get("basis"),
        "Pipeline": attrs.get("pipeline"),
        "Networks": attrs.get("identity", {}).get("models", {}),
        "MaskOrigin": attrs.get("mask_origin"),
        "GeneratedBy": [{"Name": "mrsi_engine", "Version": attrs["engine_version"]}],
    }
    said = [*attrs.get("notes", []), *notes]
    return {**sidecar, "Notes": said} if said else sidecar


def _json(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=plain)
    return (text + "\n").encode()
