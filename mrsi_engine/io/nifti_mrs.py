"""NIfTI-MRS at the edge: headers are checked once here, arrays are taken as they stand on disk.

The format is Clarke et al., Magn Reson Med 2022;88:2358, specification 0.11. Samples are never
read through ``nifti_mrs.NIFTI_MRS[...]``, which conjugates on access.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError, RunError

#: NIfTI header extension code of the NIfTI-MRS JSON.
EXTENSION_CODE = 44

#: Version of the specification that files written here follow.
INTENT_NAME = "mrs_v0_11"


def write_nifti_mrs(
    path: str | Path,
    data: ArrayLike,
    acquisition: Acquisition,
    affine: ArrayLike,
    header: Mapping[str, Any] | None = None,
) -> Path:
    """Write FIDs as a NIfTI-2 NIfTI-MRS file; ``.gz`` in the name compresses it.

    Parameters
    ----------
    path
        File to write; it appears under this name only once it is complete.
    data
        ``(x, y, z, time)`` complex, in the conventions of :mod:`mrsi_engine.conventions`; written
        as complex64. More dimensions need their ``dim_5``... tags in ``header``.
    acquisition
        Axis, frequency, nucleus and timing: these win over the same fields of ``header``.
    affine
        ``(4, 4)`` voxel index to scanner coordinates, mm.
    header
        Further fields of the header extension, e.g. those of the source file.

    Raises
    ------
    InputError
        If the data are real, have no time dimension or not ``acquisition.points`` samples.
    RunError
        If the file cannot be written.
    """
    fids = np.asarray(data)
    if not np.iscomplexobj(fids) or fids.ndim < 4 or fids.shape[3] != acquisition.points:
        raise InputError(
            f"{path}: cannot write {fids.dtype} data of shape {fids.shape} as NIfTI-MRS; expected "
            f"complex (x, y, z, {acquisition.points} points)"
        )
    extension = _extension_of(acquisition, header or {}, fids.ndim)
    image = _image(fids.astype(np.complex64, copy=False), affine)
    image.header["intent_name"] = INTENT_NAME.encode()
    image.header["pixdim"][4] = acquisition.dwell_time
    image.header.set_xyzt_units("mm", "sec")
    content = json.dumps(extension).encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension(EXTENSION_CODE, content))
    return _save(image, Path(path))


def write_volume(path: str | Path, data: ArrayLike, affine: ArrayLike) -> Path:
    """Write a mask, a map or tissue fractions ``(x, y, z[, class])`` as plain NIfTI.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    values = np.asarray(data)
    return _save(_image(values.astype(np.uint8) if values.dtype == bool else values, affine), path)


def _image(data: NDArray[Any], affine: ArrayLike) -> Any:
    matrix = np.asarray(affine, dtype=float)
    image = nib.Nifti2Image(data, matrix)
    image.set_sform(matrix, code=1)
    image.set_qform(matrix, code=1)
    image.header.set_xyzt_units("mm")
    return image


def _save(image: Any, path: str | Path) -> Path:
    path = Path(path)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, partial)
        os.replace(partial, path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _extension_of(
    acquisition: Acquisition, header: Mapping[str, Any], dimensions: int
) -> dict[str, Any]:
    extension = {k: v for k, v in header.items() if not _is_stale(k, dimensions)}
    extension["SpectrometerFrequency"] = [float(acquisition.spectrometer_frequency)]
    extension["ResonantNucleus"] = [acquisition.nucleus]
    offset = float(header.get("RxOffset", 0.0))
    extension["SpecFreqChemShift"] = float(acquisition.reference_ppm) - offset
    for key, seconds in _timing(acquisition).items():
        extension.pop(key, None)
        if seconds is not None:
            extension[key] = float(seconds)
    return extension


def _timing(acquisition: Acquisition) -> dict[str, float | None]:
    return {"EchoTime": acquisition.echo_time, "RepetitionTime": acquisition.repetition_time}


def _is_stale(key: str, dimensions: int) -> bool:
    """Whether a header field would contradict the data it now stands with."""
    tag = key.startswith("dim_") and key[4:5].isdigit() and int(key[4]) > dimensions
    return tag or key == "SpectralWidth"
