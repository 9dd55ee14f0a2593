"""NIfTI-MRS at the edge: headers are checked once here, arrays are taken as they stand on disk.

The format is Clarke et al., Magn Reson Med 2022;88:2358, specification 0.11. Samples are never
read through ``nifti_mrs.NIFTI_MRS[...]``, which conjugates on access.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import ArrayLike, NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.input_files import check_levels
from mrsi_engine.io.bounds import check_announced, is_compressed
from mrsi_engine.io.dimensions import fields_of_dimensions, supported_dimensions
from mrsi_engine.io.files import safe_stem
from mrsi_engine.io.header_fields import (
    first,
    first_sample,
    number,
    refuse_k_space,
    sequence_notes,
    spectrometer_frequency,
    timing,
)
from mrsi_engine.io.images import save_image
from mrsi_engine.io.places import place
from mrsi_engine.io.stated_fields import missing_fields
from mrsi_engine.io.volumes import Grid, grid_of, load_image, set_position
from mrsi_engine.nuclei import nucleus

#: NIfTI header extension code of the NIfTI-MRS JSON.
EXTENSION_CODE = 44

#: Version of the specification that files written here follow.
INTENT_NAME = "mrs_v0_11"

_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}

#: Characters of a scan's stem: a file name has 255, of which those of maps take up to 90 and that
#: of a file that is not yet complete 42.
LONGEST_STEM = 120

# A dwell time is believed only in this range, in s.
_PLAUSIBLE_DWELL_TIME = (1e-6, 1e-2)


@dataclass(frozen=True, eq=False)
class NIfTIMRSHeader:
    """Everything a NIfTI-MRS file says before its samples are read.

    Parameters
    ----------
    path
        The file.
    acquisition
        Axis of the FIDs from time zero on and how they were acquired.
    skipped
        Samples of each FID from before time zero (an echo within the window), which do not count.
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
    skipped: int
    grid: Grid
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    extension: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def compressed(self) -> bool:
        """Whether the file is a ``.nii.gz``."""
        return is_compressed(self.path)

    @property
    def signals(self) -> int:
        """FIDs a voxel: the product of dimensions 5 to 7."""
        return math.prod(self.shape[4:])

    @property
    def points_in_file(self) -> int:
        """Samples of a FID as stored, those before time zero among them."""
        return self.shape[3]

    @property
    def dimensions(self) -> dict[str, int]:
        """Lengths of the dimensions between voxel and time, ``coil`` before ``dynamic``.

        Raises
        ------
        InputError
            If the file has a dimension other than ``DIM_COIL`` and ``DIM_DYN``, or one twice.
        """
        return supported_dimensions(self.path, self.higher_dimensions)

    @property
    def higher_dimensions(self) -> tuple[tuple[str, int], ...]:
        """Tag (``DIM_COIL``, ``DIM_DYN``...) and length of dimensions 5 to 7 longer than 1."""
        lengths = enumerate(self.shape[4:], start=5)
        return tuple((str(self.extension.get(f"dim_{d}", d)), n) for d, n in lengths if n > 1)


def read_header(path: str | Path, stated: Mapping[str, Any] | None = None) -> NIfTIMRSHeader:
    """The checked header of a NIfTI-MRS file; no sample is read.

    The dwell time is ``pixdim[4]`` in the time unit of ``xyzt_units``; where the file leaves the
    unit open it is seconds, as the specification says, and ``notes`` say so. The chemical shift at
    0 Hz is ``SpecFreqChemShift`` (4.65 ppm for 1H without it) plus ``RxOffset``. Fields that a
    ``dim_N_header`` states alike for all FIDs count as those of the file.

    Parameters
    ----------
    path
        The file.
    stated
        Fields said of it beside it, e.g. by its sidecar: they fill what the header lacks.

    Raises
    ------
    InputError
        If the file is not NIfTI, not NIfTI-MRS, not complex, not of voxels, a field is missing or
        impossible, varies within a dimension, or is not as ``stated``.
    """
    path = place(path)
    if stem_of(path) == path.name:
        raise InputError(f"{path}: expected a NIfTI-MRS file that ends in .nii or .nii.gz")
    image = load_image(path)
    _check_samples(path, image)
    extension = _read_extension(path, image)
    refuse_k_space(path, extension)
    fields = _with_dimensions(path, extension, image.shape)
    filled, said = missing_fields(path, fields, stated or {}, image.shape)
    extension, fields = {**extension, **filled}, {**fields, **filled}
    grid, notes = grid_of(image)
    notes += said
    dwell_time = _dwell_time(path, image.header, notes)
    _check_spectral_width(path, fields, dwell_time)
    acquisition, skipped = _acquisition(path, fields, image.shape[3], dwell_time, notes)
    notes += sequence_notes(fields)
    return NIfTIMRSHeader(
        path=path,
        acquisition=acquisition,
        skipped=skipped,
        grid=grid,
        shape=tuple(image.shape),
        dtype=image.dataobj.dtype,
        offset=int(image.dataobj.offset),
        extension=extension,
        notes=tuple(notes),
    )


def check_mappable(header: NIfTIMRSHeader) -> None:
    """Refuse a scan of which no maps could be written, before hours are spent on it.

    Raises
    ------
    InputError
        If its affine has no inverse, or its name leaves no room for theirs.
    """
    path, affine = header.path, header.grid.affine
    if not header.grid.spans_space:
        raise InputError(
            f"{path}: affine {affine.tolist()} is not an invertible 4x4 matrix, so maps would have "
            "no place in space; correct the sform or qform"
        )
    stem = safe_stem(stem_of(path))
    if len(stem) > LONGEST_STEM:
        raise InputError(
            f"{path}: maps would be named by {len(stem)} characters and what they hold, and there "
            f"is room for {LONGEST_STEM}; give the scan a shorter name"
        )


def stem_of(path: str | Path) -> str:
    """File name without ``.nii`` or ``.nii.gz``."""
    return re.sub(r"\.nii(\.gz)?$", "", PurePosixPath(str(path)).name, flags=re.IGNORECASE)


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
    check_announced(path, image.shape, dtype.itemsize, int(image.dataobj.offset))


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
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: the NIfTI-MRS header extension is not JSON: {error}") from error
    if not isinstance(extension, dict):
        raise InputError(
            f"{path}: the NIfTI-MRS header extension is a JSON {type(extension).__name__}, "
            "expected an object of named fields"
        )
    check_levels(path, extension, "the NIfTI-MRS header extension")
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
    _check_plausible(path, value, unit, seconds)
    if unit == "unknown":
        notes.append("xyzt_units names no time unit: dwell time read in s, as NIfTI-MRS prescribes")
    return seconds


def _check_plausible(path: Path, value: float, unit: str, seconds: float) -> None:
    low, high = _PLAUSIBLE_DWELL_TIME
    if low <= seconds <= high:
        return
    stated = "without a unit in xyzt_units" if unit == "unknown" else f"in {unit} by xyzt_units"
    fitting = [name for name, factor in _SECONDS.items() if low <= value * factor <= high]
    hint = f"; it looks like {fitting[0]}: correct xyzt_units or pixdim[4]" if fitting else ""
    raise InputError(
        f"{path}: dwell time (pixdim[4]) is {value:g} {stated}, a spectral width of "
        f"{1 / seconds:.3g} Hz, and makes no sense ({low:g} to {high:g} s){hint}"
    )


def _with_dimensions(
    path: Path, extension: Mapping[str, Any], shape: tuple[int, ...]
) -> dict[str, Any]:
    """The header extension with what the headers of dimensions say of all FIDs alike."""
    found = fields_of_dimensions(path, extension, shape)
    for field, value in found.items():
        stated = first(extension.get(field))
        if stated is not None and first(value) != stated:
            raise InputError(
                f"{path}: {field} is {stated!r} for the file and {value!r} in the header of a "
                "dimension; correct one of the two"
            )
    return {**extension, **found}


def _check_spectral_width(path: Path, extension: Mapping[str, Any], dwell_time: float) -> None:
    width = number(path, extension, "SpectralWidth")
    if width is not None and not math.isclose(width * dwell_time, 1, rel_tol=1e-3):
        raise InputError(
            f"{path}: SpectralWidth {width:g} Hz contradicts the dwell time {dwell_time:g} s "
            f"(1/dwell time is {1 / dwell_time:g} Hz); correct one of the two"
        )


def _acquisition(
    path: Path, extension: Mapping[str, Any], points: int, dwell_time: float, notes: list[str]
) -> tuple[Acquisition, int]:
    """The axis from time zero on, and the samples that lie before it."""
    nucleus = _nucleus(path, extension)
    echo_time, repetition_time = timing(path, extension, notes)
    skipped, start_time = first_sample(path, extension, dwell_time, points, notes)
    acquisition = Acquisition(
        points=points - skipped,
        dwell_time=dwell_time,
        spectrometer_frequency=spectrometer_frequency(path, extension),
        reference_ppm=_reference_ppm(path, extension, nucleus, notes),
        nucleus=nucleus,
        echo_time=echo_time,
        repetition_time=repetition_time,
        start_time=start_time,
    )
    return acquisition, skipped


def _nucleus(path: Path, extension: Mapping[str, Any]) -> str:
    value = first(extension.get("ResonantNucleus"))
    if value is None:
        raise InputError(
            f"{path}: the header extension lacks ResonantNucleus; add it, "
            'e.g. "ResonantNucleus": ["1H"]'
        )
    if not (isinstance(value, str) and re.fullmatch(r"\s*\d+[A-Za-z]{1,2}\s*", value)):
        raise InputError(f'{path}: ResonantNucleus is {value!r}, expected a nucleus such as "1H"')
    mass, element = re.findall(r"\d+|[A-Za-z]+", value)
    return f"{mass}{element.capitalize()}"


def _reference_ppm(
    path: Path, extension: Mapping[str, Any], symbol: str, notes: list[str]
) -> float:
    try:
        table = nucleus(symbol)
    except InputError as error:
        raise InputError(f"{path}: ResonantNucleus: {error}") from error
    stated, usual = number(path, extension, "SpecFreqChemShift"), table.reference_ppm
    if stated is None and usual is None:
        raise InputError(
            f"{path}: {symbol} data without SpecFreqChemShift; add the chemical shift (ppm) at "
            "the spectrometer frequency to the header extension"
        )
    if stated is None:
        notes.append(f"no SpecFreqChemShift: {usual} ppm ({table.reference}) taken at 0 Hz")
    shift = usual if stated is None else stated
    assert shift is not None
    return shift + (number(path, extension, "RxOffset") or 0.0)


def write_nifti_mrs(
    path: str | Path,
    data: ArrayLike,
    acquisition: Acquisition,
    affine: ArrayLike,
    header: Mapping[str, Any] | None = None,
    code: int = 1,
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
    code
        What space the affine is of, 0 where it claims no position.

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
    image = _image(fids.astype(np.complex64, copy=False), affine, code)
    image.header["intent_name"] = INTENT_NAME.encode()
    image.header["pixdim"][4] = acquisition.dwell_time
    image.header.set_xyzt_units("mm", "sec")
    content = json.dumps(extension).encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension(EXTENSION_CODE, content))
    return _save(image, path)


def write_volume(path: str | Path, data: ArrayLike, affine: ArrayLike, code: int = 1) -> Path:
    """Write a mask, a map or tissue fractions ``(x, y, z[, class])`` as plain NIfTI.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    values = np.asarray(data)
    kept = values.astype(np.uint8) if values.dtype == bool else values
    return _save(_image(kept, affine, code), path)


def _image(data: NDArray[Any], affine: ArrayLike, code: int) -> Any:
    matrix = np.asarray(affine, dtype=float)
    image = nib.Nifti2Image(data, matrix)
    set_position(image, matrix, code)
    image.header.set_xyzt_units("mm")
    return image


def _save(image: Any, path: str | Path) -> Path:
    path = place(path)
    try:
        save_image(image, path)
    except ImageFileError as error:
        raise InputError(f"{path}: expected a name that ends in .nii or .nii.gz") from error
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}; free some space or choose "
            "another output folder"
        ) from error
    return path


def _extension_of(
    acquisition: Acquisition, header: Mapping[str, Any], dimensions: int
) -> dict[str, Any]:
    extension = {k: v for k, v in header.items() if not _is_stale(k, dimensions)}
    extension["SpectrometerFrequency"] = [float(acquisition.spectrometer_frequency)]
    extension["ResonantNucleus"] = [acquisition.nucleus]
    offset = float(first(header.get("RxOffset")) or 0.0)
    extension["SpecFreqChemShift"] = float(acquisition.reference_ppm) - offset
    for key, seconds in _timing(acquisition).items():
        extension.pop(key, None)
        if seconds is not None:
            extension[key] = float(seconds)
    return extension


def _timing(acquisition: Acquisition) -> dict[str, float | None]:
    return {
        "EchoTime": acquisition.echo_time,
        "RepetitionTime": acquisition.repetition_time,
        "AcquisitionStartTime": acquisition.start_time,
    }


def _is_stale(key: str, dimensions: int) -> bool:
    """Whether a header field would contradict the data it now stands with."""
    tag = key.startswith("dim_") and key[4:5].isdigit() and int(key[4]) > dimensions
    return tag or key == "SpectralWidth"
