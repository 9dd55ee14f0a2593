"""NIfTI-MRS at the edge: headers are checked once here, arrays are taken as they stand on disk.

The format is Clarke et al., Magn Reson Med 2022;88:2358, specification 0.11. Samples are never
read through ``nifti_mrs.NIFTI_MRS[...]``, which conjugates on access.
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import ArrayLike, NDArray

from mrsi_engine.conventions import COIL, DYNAMIC, Acquisition
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.volumes import Grid, load_image
from mrsi_engine.nuclei import nucleus

#: NIfTI header extension code of the NIfTI-MRS JSON.
EXTENSION_CODE = 44

#: Dimensions 5 to 7 that are supported, by their tags, in the order of our stores.
DIMENSION_TAGS: Mapping[str, str] = {"DIM_COIL": COIL, "DIM_DYN": DYNAMIC}

#: Version of the specification that files written here follow.
INTENT_NAME = "mrs_v0_11"

_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}

# A dwell time whose unit the header leaves open is believed to be seconds only in this range.
_PLAUSIBLE_DWELL_TIME = (1e-6, 1e-2)


@dataclass(frozen=True, eq=False)
class NIfTIMRSHeader:
    """Everything a NIfTI-MRS file says before its samples are read.

    Parameters
    ----------
    path
        The file.
    acquisition
        Axis of the FIDs and how they were acquired.
    grid
        Shape (x, y, z) and affine.
    shape
        All dimensions, ``(x, y, z, time, ...)``.
    dtype
        Of a sample as stored: complex64 or complex128 in the file's byte order.
    offset
        Byte of the (decompressed) file at which the samples begin.
    extension
        The complete header extension.
    notes
        What the file leaves open and how it was read, one sentence each.
    """

    path: Path
    acquisition: Acquisition
    grid: Grid
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    extension: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def compressed(self) -> bool:
        """Whether the file is a ``.nii.gz``."""
        return self.path.name.lower().endswith(".gz")

    @property
    def signals(self) -> int:
        """FIDs a voxel: the product of dimensions 5 to 7."""
        return math.prod(self.shape[4:])

    @property
    def higher_dimensions(self) -> tuple[tuple[str, int], ...]:
        """Tag (``DIM_COIL``, ``DIM_DYN``...) and length of dimensions 5 to 7 longer than 1."""
        lengths = enumerate(self.shape[4:], start=5)
        return tuple((str(self.extension.get(f"dim_{d}", d)), n) for d, n in lengths if n > 1)


def read_header(path: str | Path) -> NIfTIMRSHeader:
    """The checked header of a NIfTI-MRS file; no sample is read.

    The dwell time is ``pixdim[4]`` in the time unit of ``xyzt_units``; where the file leaves the
    unit open it is seconds, as the specification says, and ``notes`` say so. The chemical shift at
    0 Hz is ``SpecFreqChemShift`` (4.65 ppm for 1H without it) plus ``RxOffset``.

    Raises
    ------
    InputError
        If the file is not NIfTI, not NIfTI-MRS, not complex, or a field is missing or impossible.
    """
    path = Path(path)
    if stem_of(path) == path.name:
        raise InputError(f"{path}: expected a NIfTI-MRS file that ends in .nii or .nii.gz")
    image = load_image(path)
    _check_samples(path, image)
    extension = _read_extension(path, image)
    notes: list[str] = []
    grid = Grid(tuple(image.shape[:3]), np.asarray(image.affine, dtype=np.float64))
    if not grid.has_position:
        notes.append("voxels of 10 m: the file states no position, masks are matched by index")
    dwell_time = _dwell_time(path, image.header, notes)
    _check_spectral_width(path, extension, dwell_time)
    return NIfTIMRSHeader(
        path=path,
        acquisition=_acquisition(path, extension, image.shape[3], dwell_time, notes),
        grid=grid,
        shape=tuple(image.shape),
        dtype=image.dataobj.dtype,
        offset=int(image.dataobj.offset),
        extension=extension,
        notes=tuple(notes),
    )


def stem_of(path: str | Path) -> str:
    """File name without ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", Path(path).name, flags=re.IGNORECASE)


def _check_samples(path: Path, image: Any) -> None:
    dtype = image.get_data_dtype()
    if dtype.kind != "c" or dtype.itemsize not in (8, 16):
        raise InputError(
            f"{path}: holds {dtype} data, expected complex64 or complex128 FIDs; convert the "
            "source with spec2nii"
        )
    if len(image.shape) < 4 or image.shape[3] < 2 or min(image.shape) < 1:
        raise InputError(f"{path}: has shape {image.shape}, expected (x, y, z, time)")
    if (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0):
        raise InputError(
            f"{path}: scl_slope {image.dataobj.slope:g}, scl_inter {image.dataobj.inter:g}; scaled "
            "complex data are not part of NIfTI-MRS: save the scaled samples themselves"
        )


def _read_extension(path: Path, image: Any) -> dict[str, Any]:
    contents = [e for e in image.header.extensions if e.get_code() == EXTENSION_CODE]
    if not contents:
        raise InputError(
            f"{path}: a NIfTI file without the NIfTI-MRS header extension (code "
            f"{EXTENSION_CODE}); convert the source with spec2nii"
        )
    intent = bytes(image.header["intent_name"]).rstrip(b"\0").decode("latin-1")
    if not re.match(r"mrs_v\d+_\d+", intent):
        raise InputError(f"{path}: intent_name is {intent!r}, NIfTI-MRS has mrs_v<major>_<minor>")
    try:
        extension = json.loads(contents[0].content.rstrip(b"\0 "))
    except ValueError as error:
        raise InputError(f"{path}: the NIfTI-MRS header extension is not JSON: {error}") from error
    if not isinstance(extension, dict):
        raise InputError(
            f"{path}: the NIfTI-MRS header extension is a JSON {type(extension).__name__}, "
            "expected an object of named fields"
        )
    return extension


def _dwell_time(path: Path, header: Any, notes: list[str]) -> float:
    # A float32 0.0005 reads as 0.0005000000237: take the shortest decimal that means the same.
    value = float(str(header["pixdim"][4]))
    unit = header.get_xyzt_units()[1]
    if unit not in _SECONDS and unit != "unknown":
        raise InputError(f"{path}: xyzt_units gives the time axis in {unit}, expected s, ms or us")
    seconds = value * _SECONDS.get(unit, 1.0)
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"{path}: dwell time (pixdim[4]) is {value:g}, expected a positive number")
    if unit == "unknown":
        _check_plausible(path, seconds)
        notes.append("xyzt_units names no time unit: dwell time read in s, as NIfTI-MRS prescribes")
    return seconds


def _check_plausible(path: Path, seconds: float) -> None:
    low, high = _PLAUSIBLE_DWELL_TIME
    if not low <= seconds <= high:
        raise InputError(
            f"{path}: dwell time (pixdim[4]) is {seconds:g} without a unit in xyzt_units and makes "
            f"no sense in s ({low:g} to {high:g}); state the unit in xyzt_units"
        )


def _check_spectral_width(path: Path, extension: Mapping[str, Any], dwell_time: float) -> None:
    width = _number(path, extension, "SpectralWidth")
    if width is not None and not math.isclose(width * dwell_time, 1, rel_tol=1e-3):
        raise InputError(
            f"{path}: SpectralWidth {width:g} Hz contradicts the dwell time {dwell_time:g} s "
            f"(1/dwell time is {1 / dwell_time:g} Hz); correct one of the two"
        )


def _acquisition(
    path: Path, extension: Mapping[str, Any], points: int, dwell_time: float, notes: list[str]
) -> Acquisition:
    nucleus = _nucleus(path, extension)
    return Acquisition(
        points=points,
        dwell_time=dwell_time,
        spectrometer_frequency=_spectrometer_frequency(path, extension),
        reference_ppm=_reference_ppm(path, extension, nucleus, notes),
        nucleus=nucleus,
        echo_time=_duration(path, extension, "EchoTime", 5),
        repetition_time=_duration(path, extension, "RepetitionTime", 100),
    )


def _spectrometer_frequency(path: Path, extension: Mapping[str, Any]) -> float:
    value = _number(path, extension, "SpectrometerFrequency")
    if value is None:
        raise InputError(
            f"{path}: the header extension lacks SpectrometerFrequency; add it in MHz, "
            'e.g. "SpectrometerFrequency": [123.25]'
        )
    if not 0 < value < 1e4:
        raise InputError(f"{path}: SpectrometerFrequency is {value:g}, expected MHz, e.g. 123.25")
    return value


def _nucleus(path: Path, extension: Mapping[str, Any]) -> str:
    value = _first(extension.get("ResonantNucleus"))
    if value is None:
        raise InputError(
            f"{path}: the header extension lacks ResonantNucleus; add it, "
            'e.g. "ResonantNucleus": ["1H"]'
        )
    if not (isinstance(value, str) and re.fullmatch(r"\d+[A-Za-z]+", value)):
        raise InputError(f'{path}: ResonantNucleus is {value!r}, expected a nucleus such as "1H"')
    return value


def _reference_ppm(
    path: Path, extension: Mapping[str, Any], symbol: str, notes: list[str]
) -> float:
    try:
        table = nucleus(symbol)
    except InputError as error:
        raise InputError(f"{path}: ResonantNucleus: {error}") from error
    stated, usual = _number(path, extension, "SpecFreqChemShift"), table.reference_ppm
    if stated is None and usual is None:
        raise InputError(
            f"{path}: {symbol} data without SpecFreqChemShift; add the chemical shift (ppm) at "
            "the spectrometer frequency to the header extension"
        )
    if stated is None:
        notes.append(f"no SpecFreqChemShift: {usual} ppm ({table.reference}) taken at 0 Hz")
    shift = usual if stated is None else stated
    assert shift is not None
    return shift + (_number(path, extension, "RxOffset") or 0.0)


def _duration(path: Path, extension: Mapping[str, Any], key: str, longest: float) -> float | None:
    value = _number(path, extension, key)
    if value is not None and not 0 <= value <= longest:
        raise InputError(f"{path}: {key} is {value:g}, expected seconds (0 to {longest:g})")
    return value


def _number(path: Path, extension: Mapping[str, Any], key: str) -> float | None:
    value = _first(extension.get(key))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}: {key} is {value!r}, expected a number")
    return float(value)


def _first(value: Any) -> Any:
    """The entry of the spectral axis: some fields are lists with one entry an axis."""
    if isinstance(value, list):
        return value[0] if value else None
    return value


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
    partial = path.with_name(f".{uuid.uuid4().hex}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, partial)
        os.replace(partial, path)
    except ImageFileError as error:
        raise InputError(f"{path}: expected a name that ends in .nii or .nii.gz") from error
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}; free some space or choose "
            "another output folder"
        ) from error
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
