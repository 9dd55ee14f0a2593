"""What the quantities of an opened result are, and the numbers that are made of several.

A result holds every field of its quantities as coordinates along ``parameter`` and ``measure``, so
that they go with any part of it.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Status
from mrsi_engine.dimensions import MEASURE, PARAMETER
from mrsi_engine.errors import InputError
from mrsi_engine.quantities import AMPLITUDES, TOTALS, Quantity, Role

if TYPE_CHECKING:
    # Workers of blocks do without: it brings pandas, and takes 0.4 s.
    import xarray as xr

#: Coordinates whose names are not those of the fields.
_RENAMED = {"units": "unit"}

#: Fields that only parameters have.
_OF_PARAMETERS = ("reference", "adds_to", "sd_doc")

_TYPES: dict[str, type] = {"fill": float, "signed": bool}


def described_by(dimension: str) -> list[tuple[str, str, type]]:
    """Coordinate, field of :class:`Quantity` and type of what is said along a dimension.

    The coordinates of measures are named as those of parameters, after ``measure_``.
    """
    start = "" if dimension == PARAMETER else "measure_"
    fields = [f.name for f in dataclasses.fields(Quantity) if f.name != "name"]
    if dimension == MEASURE:
        fields = [f for f in fields if f not in _OF_PARAMETERS]
    named = [(f"{start}{_RENAMED.get(f, f)}", f, _TYPES.get(f, object)) for f in fields]
    return [(dimension, "name", object), *named]


def parameters_of(result: xr.Dataset, *roles: Role) -> list[Quantity]:
    """Parameters of these roles, or all, in the order of the store."""
    return _quantities(result, PARAMETER, roles)


def measures_of(result: xr.Dataset, *roles: Role) -> list[Quantity]:
    """Measures of these roles, or all, in the order of the store."""
    return _quantities(result, MEASURE, roles)


def parameter_of(result: xr.Dataset, name: str) -> Quantity:
    """The parameter of that name."""
    return next(q for q in parameters_of(result) if q.name == name)


def values_of(result: xr.Dataset, kind: str, name: str) -> NDArray[Any]:
    """The ``estimate`` or ``sd`` of a parameter, or the ``quality`` of a measure, ``(voxel,)``.

    As ``result[kind].sel(...)``, but for the coordinates of all others, which take 5 ms.
    """
    dimension = MEASURE if kind == "quality" else PARAMETER
    at = result.variables[dimension].values.tolist().index(name)
    return np.asarray(result.variables[kind][{dimension: at}].values)


def fitted_voxels(result: xr.Dataset) -> NDArray[np.bool_]:
    """Which voxels hold results, a fit or clean signals with their measures, ``(voxel,)``."""
    status = result.variables["status"].values
    return (status != Status.NO_FIT) & (status != Status.NOT_PROCESSED)


def scalp_voxels(result: xr.Dataset) -> NDArray[np.bool_]:
    """Which voxels are scalp, where nothing is quantified, ``(voxel,)``."""
    none = np.zeros(result.sizes["voxel"], bool)
    return result.variables["scalp"].values if "scalp" in result.coords else none


def relative_crlb(result: xr.Dataset, parameter: str) -> NDArray[np.float32]:
    """CRLB in percent of the estimate's magnitude, ``(voxel,)``; NaN where the estimate is 0."""
    estimate = np.abs(values_of(result, "estimate", parameter).astype(float))
    sd = values_of(result, "sd", parameter)
    percent = np.full(estimate.shape, np.nan)
    np.divide(100.0 * sd, estimate, out=percent, where=estimate > 0)
    return percent.astype(np.float32)


def error_meaning(result: xr.Dataset) -> str:
    """What the SDs of amplitudes are."""
    return "; ".join(dict.fromkeys(q.sd_doc for q in parameters_of(result, *AMPLITUDES)))


def parts_of(result: xr.Dataset, total: str) -> list[Quantity]:
    """Parameters that add up to one of :data:`TOTALS`, in the order of the stages."""
    return [q for q in parameters_of(result) if q.adds_to == total]


def total_of(result: xr.Dataset, total: str) -> xr.Dataset:
    """Shift or phase of the data as acquired, over all stages: ``estimate`` and ``sd`` (voxel).

    Each stage says what it found in what the stages before left. They add up to that of the data,
    and an error a stage made is found again, with the other sign, by those after it. So the bound
    is that of the last one that found any. NaN where no stage found any.

    Parameters
    ----------
    result
        A result store opened as a dataset.
    total
        ``"b0shift"`` (Hz) or ``"phase"`` (rad, -pi to pi).

    Raises
    ------
    InputError
        If no stage of the pipeline looks for it.
    """
    import xarray as xr

    about, parts = TOTALS[total], [q.name for q in parts_of(result, total)]
    if not parts:
        raise InputError(f"result: no stage of its pipeline found any {about.title.lower()}")
    estimate, error = (
        np.stack([values_of(result, kind, part) for part in parts]) for kind in ("estimate", "sd")
    )
    found = np.isfinite(estimate)
    summed = np.where(found, estimate, 0.0).sum(0)
    if about.circular:
        summed = np.angle(np.exp(1j * summed))
    last = len(parts) - 1 - found[::-1].argmax(0)
    sd = np.take_along_axis(error, last[None], 0)[0]
    known = {"estimate": summed, "sd": sd}
    masked = {n: ("voxel", np.where(found.any(0), v, np.nan)) for n, v in known.items()}
    return xr.Dataset(masked, attrs={"units": about.units, "long_name": about.doc})


def _quantities(result: xr.Dataset, dimension: str, roles: tuple[Role, ...]) -> list[Quantity]:
    described = described_by(dimension)
    missing = [name for name, _, _ in described if name not in result.coords]
    if missing:
        raise InputError(
            f"result: coordinates {missing} are missing, which say what its numbers are; open it "
            "with open_result and keep its coordinates"
        )
    columns = [_listed(result.variables[name].values, kind) for name, _, kind in described]
    fields = tuple(field for _, field, _ in described)
    found = (_quantity(fields, row) for row in zip(*columns, strict=True))
    return [q for q in found if not roles or q.role in roles]


def _listed(values: NDArray[Any], kind: type) -> list[Any]:
    listed = np.atleast_1d(values).tolist()
    # A store has no number where there is none to fill in.
    return [None if math.isnan(v) else v for v in listed] if kind is float else listed


@lru_cache(maxsize=4096)
def _quantity(fields: tuple[str, ...], values: tuple[Any, ...]) -> Quantity:
    """Made, and checked, once for all who ask."""
    return Quantity(**dict(zip(fields, values, strict=True)))
