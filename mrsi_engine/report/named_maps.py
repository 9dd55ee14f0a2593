"""Maps of a result by the names people give them: labels, titles, measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.io.result_quantities import (
    fitted_voxels,
    measures_of,
    parameter_of,
    parameters_of,
    relative_crlb,
)
from mrsi_engine.quantities import Quantity, Role
from mrsi_engine.report.pictures import colours_of
from mrsi_engine.report.tables import measure

Kind = Literal["estimate", "crlb", "sd", "conc"]


@dataclass(frozen=True, eq=False)
class NamedMap:
    """``values (voxel,)`` of a map, NaN where there are none, and what they are.

    ``colours`` is one of :data:`~mrsi_engine.report.png.COLOUR_MAPS`; ``subject`` is what the
    title says without the kind.
    """

    title: str
    unit: str
    colours: str
    values: NDArray[np.floating]
    subject: str

    @property
    def label(self) -> str:
        """The title with its unit, if it has one."""
        return self.title if self.unit in ("", "1") else f"{self.title} ({self.unit})"


def named_map(result: xr.Dataset, name: str, kind: Kind = "estimate") -> NamedMap:
    """The map of that name.

    Parameters
    ----------
    name
        A parameter by label or title, or a measure.
    kind
        Its estimate, its relative (percent) or absolute Cramér-Rao bound, or its concentration.

    Raises
    ------
    InputError
        If there is none, or several have this title.
    """
    if kind not in get_args(Kind):
        raise InputError(f"quantity = {kind!r}: expected one of {', '.join(get_args(Kind))}")
    if name in result["measure"].values:
        return _of_measure(result, name, kind)
    label = _only_label(result, name, kind)
    row, quantity = result.sel(parameter=label), parameter_of(result, label)
    values, subject = row["sd" if kind == "sd" else "estimate"].values, quantity.label
    title, unit, colours = subject, quantity.units, colours_of(quantity)
    if kind == "crlb":
        if quantity.role == Role.LINESHAPE:
            raise InputError(f"{name!r} is no amount, so it has no relative CRLB; ask for its sd")
        values, title, unit = relative_crlb(result, label), f"{subject}, CRLB", "%"
    elif kind == "sd":
        title = f"{subject}, SD"
    colours = "uncertainty" if kind in ("crlb", "sd") else colours
    return NamedMap(title, unit, colours, np.where(fitted_voxels(result), values, np.nan), subject)


def labels_of(result: xr.Dataset, name: str, kind: Kind = "estimate") -> list[str]:
    """Parameters of that label or else of that title; concentrations share the titles of others."""
    alike = _alike(result, kind)
    by_label = [q.name for q in alike if name in (q.name, *([q.of] if kind == "conc" else []))]
    return by_label or [q.name for q in alike if q.label == name]


def _of_measure(result: xr.Dataset, name: str, kind: Kind) -> NamedMap:
    if kind != "estimate":
        raise InputError(f"{name!r} is a measure, which has no {kind}; leave quantity out")
    quantity = next(q for q in measures_of(result) if q.name == name)
    values = measure(result, name)
    return NamedMap(quantity.label, quantity.units, colours_of(quantity), values, quantity.label)


def _only_label(result: xr.Dataset, name: str, kind: Kind) -> str:
    if kind == "conc" and not _alike(result, kind):
        raise InputError(
            "the result has no concentrations: its pipeline needs stage 'scale' with quantity "
            "'ratio', 'molar' or 'molal'"
        )
    labels = labels_of(result, name, kind)
    if not labels:
        raise InputError(f"{name!r}: the result has no such map; {_what_there_is(result, kind)}")
    if len(labels) > 1:
        raise InputError(f"{name!r} is the title of {', '.join(labels)}; give one of these")
    return labels[0]


def _alike(result: xr.Dataset, kind: Kind) -> list[Quantity]:
    """The parameters that are meant: concentrations share the titles of what was scaled."""
    scaled = kind == "conc"
    return [q for q in parameters_of(result) if (q.role == Role.CONCENTRATION) == scaled]


def _what_there_is(result: xr.Dataset, kind: Kind) -> str:
    alike = _alike(result, kind)
    named = [q.name if q.label == q.name else f"{q.name} ({q.label})" for q in alike]
    measures = ", ".join(str(name) for name in result["measure"].values)
    return f"there are {', '.join(named)}; and the measures {measures}"
