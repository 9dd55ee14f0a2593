"""Osprey's ``.mat``: the struct ``BASIS`` with FIDs, a ppm axis and the acquisition's numbers.

``fids`` (time, metabolite), ``name``, ``dwelltime`` (s), ``Bo`` (T), ``te`` (ms), ``seq`` and
``centerFreq`` (ppm at 0 Hz) are used. Which way frequencies run is decided by ``specs`` and
``ppm`` where both are there, else it is Osprey's way (``ppm = f/f0 + centerFreq`` of the forward
transform). ``linewidth`` is not used, as the fit adds its own; ``scale`` was applied by Osprey.
A column of water (``H2O``), which Osprey adds for itself, is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.input_files import MOST_BYTES, check_input_file
from mrsi_engine.io.basis_formats import reading
from mrsi_engine.io.basis_formats.matlab import check_unpacked
from mrsi_engine.spectra.basis import Basis

FORM = "an Osprey .mat file"

#: MHz/T as Osprey has it.
_MHZ_PER_TESLA = 42.577

_WATER = "H2O"


def reads(path: Path) -> bool:
    """Whether it is a MATLAB file."""
    return path.is_file() and reading.text_of(path, characters=6) == "MATLAB"


def read(path: Path, reference_ppm: float | None) -> Basis:
    """The basis in a MATLAB file that holds a struct ``BASIS``."""
    content = _struct(path)
    fids = _fids(path, content)
    names = [
        reading.metabolite_name(str(path), str(name))
        for name in np.ravel(_get(path, content, "name"))
    ]
    if len(names) != len(fids):
        raise InputError(f"{path}: BASIS.name has {len(names)} names for {len(fids)} columns")
    where = str(path)
    tesla = _number(path, content, "Bo")
    te = _number(path, content, "te")
    acquisition = reading.make_acquisition(
        path,
        points=fids.shape[1],
        dwell_time=reading.dwell_time(
            where, "BASIS.dwelltime", _number(path, content, "dwelltime")
        ),
        spectrometer_frequency=reading.megahertz(
            where, "BASIS.Bo * 42.577", tesla * _MHZ_PER_TESLA
        ),
        reference_ppm=reading.reference(
            where, "1H", _number(path, content, "centerFreq"), reference_ppm
        ),
        echo_time=reading.echo_time(where, "BASIS.te", te, "ms"),
    )
    if _ascending(content, fids):
        fids = fids.conj()
    kept = [i for i, name in enumerate(names) if name != _WATER]
    notes = ("basis: its column of water (H2O) is left out",) if len(kept) < len(names) else ()
    return reading.make_basis(
        path, [names[i] for i in kept], fids[kept], acquisition, _sequence(content), notes
    )


def _struct(path: Path) -> dict[str, Any]:
    check_input_file(path, MOST_BYTES)
    check_unpacked(path)
    try:
        with path.open("rb") as file:
            content = scipy.io.loadmat(
                file,  # type: ignore[arg-type]  # its stubs know no open files
                simplify_cells=True,
                variable_names=["BASIS"],
            )
    except NotImplementedError as error:
        raise InputError(
            f"{path}: a MATLAB file of version 7.3; save it again with save(..., '-v7')"
        ) from error
    except Exception as error:
        # A broken file makes scipy raise about anything.
        raise InputError(f"{path}: cannot be read as a MATLAB file ({error})") from error
    found = content.get("BASIS")
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no struct BASIS; expected a basis set of Osprey")
    return found


def _fids(path: Path, content: dict[str, Any]) -> NDArray[np.complex128]:
    """``(metabolite, time)``."""
    fids = np.asarray(_get(path, content, "fids"))
    if fids.ndim > 2:
        raise InputError(
            f"{path}: BASIS.fids has shape {fids.shape}, a basis of edited spectra; save the one "
            "condition that the scan has"
        )
    if fids.ndim == 0 or fids.dtype.kind not in "fc":
        raise InputError(f"{path}: BASIS.fids is no array of complex numbers; save it again")
    return np.atleast_2d(fids.T).astype(np.complex128)


def _ascending(content: dict[str, Any], fids: NDArray[np.complex128]) -> bool:
    """Whether chemical shift grows with the frequency of the FIDs, other than in ours."""
    specs, ppm = np.asarray(content.get("specs")), np.asarray(content.get("ppm"))
    if specs.shape != fids.T.shape or ppm.size != fids.shape[1] or ppm.dtype.kind != "f":
        return True
    # A spectrum stands on its axis as the forward transform, or mirrored as the inverse one.
    forward, inverse = (
        abs(np.vdot(np.fft.fftshift(transform(fids, axis=1), axes=1).T, specs))
        for transform in (np.fft.fft, np.fft.ifft)
    )
    rises = float(np.ravel(ppm)[-1]) > float(np.ravel(ppm)[0])
    return rises == (forward > inverse * fids.shape[1])


def _sequence(content: dict[str, Any]) -> str | None:
    stated = [str(name).strip().lower() for name in np.ravel(content.get("seq", ""))]
    return stated[0] if stated and stated[0] not in ("", "unedited") else None


def _get(path: Path, content: dict[str, Any], key: str) -> Any:
    if key not in content:
        raise InputError(f"{path}: BASIS.{key} is missing; save the basis again with Osprey")
    return content[key]


def _number(path: Path, content: dict[str, Any], key: str) -> float:
    value = np.ravel(np.asarray(_get(path, content, key)))
    if value.size != 1 or value.dtype.kind not in "iuf" or not np.isfinite(value[0]):
        raise InputError(f"{path}: BASIS.{key} is {content[key]!r}, expected one number")
    return float(value[0])
