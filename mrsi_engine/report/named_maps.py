"""Maps of a result by the names people give them: labels, titles, measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.io.maps import fitted_voxels, relative_crlb
from mrsi_engine.report.tables import measure

Kind = Literal["estimate", "crlb", "sd", "conc"]


@dataclass(frozen=True, eq=False)
class NamedMap:
    """``values (voxel,)`` of a map, NaN where there are none, and what they are.

    ``colours`` is one of :data:`~mrsi_engine.report.mosaic.COLOUR_MAPS`.
    """

    title: str
    unit: str
    colours: str
    values: NDArray[np.floating]

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
    row = result.sel(parameter=label)
    title, unit, group = (str(row[c].values) for c in ("title", "unit", "kind"))
    values, title = row["sd" if kind == "sd" else "estimate"].values, title or label
    colours = _colours(group, label)
    if kind == "crlb":
        if group == "lineshape":
            raise InputError(f"{name!r} is no amount, so it has no relative CRLB; ask for its sd")
        values, title, unit = relative_crlb(result, label), f"{title}, CRLB", "%"
    elif kind == "sd":
        title = f"{title}, SD"
    colours = "uncertainty" if kind in ("crlb", "sd") else colours
    return NamedMap(title, unit, colours, np.where(fitted_voxels(result), values, np.nan))


def labels_of(result: xr.Dataset, name: str, kind: Kind = "estimate") -> list[str]:
    """Parameters of that label or else of that title; concentrations share the titles of others."""
    scaled = kind == "conc"
    wanted = f"{name.removesuffix('_conc')}_conc" if scaled else name
    rows = list(zip(*(result[c].values for c in ("parameter", "title", "kind")), strict=True))
    by_label = [str(label) for label, _, _ in rows if label == wanted]
    return by_label or [
        str(label)
        for label, title, group in rows
        if title == name and (group == "concentration") == scaled
    ]


def _of_measure(result: xr.Dataset, name: str, kind: Kind) -> NamedMap:
    if kind != "estimate":
        raise InputError(f"{name!r} is a measure, which has no {kind}; leave quantity out")
    row = result.sel(measure=name)
    title, unit = (str(row[c].values) for c in ("measure_title", "measure_unit"))
    return NamedMap(title or name, unit, "quality", measure(result, name))


def _only_label(result: xr.Dataset, name: str, kind: Kind) -> str:
    if kind == "conc" and not (result["kind"].values == "concentration").any():
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


def _colours(group: str, label: str) -> str:
    if group != "lineshape":
        return "amplitude"
    return "quality" if label.startswith(("lorentzian", "gaussian")) else "signed"


def _what_there_is(result: xr.Dataset, kind: Kind) -> str:
    alike = (result["kind"].values == "concentration") == (kind == "conc")
    pairs = zip(*(result[c].values[alike] for c in ("parameter", "title")), strict=True)
    named = [label if title in ("", label) else f"{label} ({title})" for label, title in pairs]
    measures = ", ".join(str(name) for name in result["measure"].values)
    return f"there are {', '.join(named)}; and the measures {measures}"
