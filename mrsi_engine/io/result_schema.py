"""What a result store holds: its variables, their attributes, and what a block of them is.

===================================  =================  =========  ==============================
variable                             dimensions         dtype      meaning
===================================  =================  =========  ==============================
``estimate``, ``sd``                 voxel, parameter   float32    NaN where there is no fit
``quality``                          voxel, measure     float32
``status``                           voxel              uint8      how a voxel was quantified
``flags``                            voxel              uint16     bits of why not to trust it
``x y z``                            voxel              int32      voxel index in the volume
``scalp``                            voxel              bool       never quantified (optional)
``corrected``, ``fit``, ``baseline`` voxel, time        complex64  on request
===================================  =================  =========  ==============================

What each parameter and measure is stands in coordinates, one for every field of
:class:`~mrsi_engine.quantities.Quantity`: ``role``, ``of``, ``estimator``, ``unit``, ``doc``,
``adds_to``, ``fill`` and so on along ``parameter``, the same after ``measure_`` along ``measure``.

``corrected`` has coils and transients between voxel and time where the pipeline leaves them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition, Flag, Status
from mrsi_engine.dimensions import MEASURE, PARAMETER, TIME, VOXEL
from mrsi_engine.io.integrity import create_array, create_table
from mrsi_engine.io.result_quantities import described_by
from mrsi_engine.quantities import Declaration, Quantity
from mrsi_engine.spectra.basis import Basis

#: What the attributes of a result store call it.
SCHEMA = "mrsi_engine.result"

#: Format of the stores written here; a reader refuses any other.
SCHEMA_VERSION = 4

#: The variables of every result in the order they are written, signals before ``status``.
VARIABLES = ("estimate", "sd", "quality", "flags", "status")

#: The subgroup of the basis, and its array.
BASIS, BASIS_FIDS = "basis", "fid"

_STATUSES = [s for s in Status if s is not Status.NOT_PROCESSED]
_STATUS_ATTRIBUTES = {
    "flag_values": [int(s) for s in _STATUSES],
    "flag_meanings": " ".join(s.meaning for s in _STATUSES),
    "long_name": "how the voxel was quantified",
}
_FLAG_ATTRIBUTES = {
    "flag_masks": [int(f) for f in Flag],
    "flag_meanings": " ".join(f.meaning for f in Flag),
    "long_name": "why the voxel is not to be trusted; 0 is good",
}
_DOCS = {
    "estimate": "estimated value, in the unit of its parameter",
    "sd": "Cramer-Rao lower bound of the estimate's standard deviation; with priors its posterior "
    "standard deviation",
    "quality": "quality measures",
}
_NAN = np.float32("nan")


@dataclass(frozen=True, eq=False)
class BlockArrays:
    """What one block of voxels yields, packed in the declared order.

    ``estimate`` and ``sd`` are ``(voxel, parameter)`` float32, ``quality`` ``(voxel, measure)``
    float32, ``status`` ``(voxel,)`` uint8, ``flags`` uint16, each of ``signals``
    ``(voxel, ..., time)`` complex64.
    """

    estimate: NDArray[np.float32]
    sd: NDArray[np.float32]
    quality: NDArray[np.float32]
    status: NDArray[np.uint8]
    flags: NDArray[np.uint16]
    signals: Mapping[str, NDArray[np.complex64]] = field(default_factory=dict)

    @classmethod
    def unfitted(
        cls, voxels: int, declaration: Declaration, signals: Mapping[str, tuple[int, ...]]
    ) -> BlockArrays:
        """A block in which no voxel has a fit; ``signals`` gives their shapes after ``voxel``."""
        parameters, measures = len(declaration.parameters), len(declaration.measures)
        return cls(
            estimate=np.full((voxels, parameters), _NAN),
            sd=np.full((voxels, parameters), _NAN),
            quality=np.full((voxels, measures), _NAN),
            status=np.full(voxels, Status.NO_FIT, dtype=np.uint8),
            flags=np.full(voxels, Flag.NO_FIT, np.uint16),
            signals={n: np.full((voxels, *s), np.complex64(np.nan)) for n, s in signals.items()},
        )

    def values(self) -> dict[str, NDArray[Any]]:
        """Every array by the name of its variable; ``status`` stands last, as it is written."""
        return {
            "estimate": self.estimate,
            "sd": self.sd,
            "quality": self.quality,
            "flags": self.flags,
            **self.signals,
            "status": self.status,
        }


def result_coordinates(
    coordinates: NDArray[np.int32],
    declaration: Declaration,
    scalp: NDArray[np.bool_] | None = None,
) -> dict[str, tuple[str, NDArray[Any]]]:
    """Coordinates of a result as xarray takes them: name to dimension and values."""
    places = {axis: (VOXEL, coordinates[:, i]) for i, axis in enumerate("xyz")}
    return {
        **places,
        **({} if scalp is None else {"scalp": (VOXEL, scalp)}),
        **_descriptions(PARAMETER, declaration.parameters),
        **_descriptions(MEASURE, declaration.measures),
    }


def variable_attributes(name: str, declaration: Declaration) -> dict[str, Any]:
    """Attributes of a variable of a result."""
    if name in ("status", "flags"):
        return dict(_STATUS_ATTRIBUTES if name == "status" else _FLAG_ATTRIBUTES)
    signal = next((q for q in declaration.signals if q.name == name), None)
    return (
        {"units": signal.units, "long_name": signal.doc} if signal else {"long_name": _DOCS[name]}
    )


def result_attributes(
    acquisition: Acquisition,
    declaration: Declaration,
    signals: Sequence[str],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Attributes of a result: those given and those the schema asks for."""
    return {
        **given,
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "engine_version": version("mrsi-engine"),
        "acquisition": dataclasses.asdict(acquisition),
        "declaration": {
            field.name: [dataclasses.asdict(q) for q in getattr(declaration, field.name)]
            for field in dataclasses.fields(declaration)
        },
        "signals": list(signals),
    }


def _descriptions(
    dimension: str, quantities: Sequence[Quantity]
) -> dict[str, tuple[str, NDArray[Any]]]:
    return {
        name: (dimension, np.array([_plain(q, field) for q in quantities], dtype=kind))
        for name, field, kind in described_by(dimension)
    }


def _plain(quantity: Quantity, field: str) -> str | float | None:
    """A field as a store holds it; of the title what people are to read, whatever it is made of."""
    value = quantity.label if field == "title" else getattr(quantity, field)
    return str(value) if isinstance(value, str) else value


def create_results(
    group: zarr.Group, voxels: int, block_size: int, declaration: Declaration
) -> None:
    """The variables every result has, empty, a block a chunk."""
    columns = {
        "estimate": (PARAMETER, len(declaration.parameters)),
        "sd": (PARAMETER, len(declaration.parameters)),
        "quality": (MEASURE, len(declaration.measures)),
    }
    for name, (dimension, length) in columns.items():
        create_array(
            group,
            name,
            (voxels, length),
            np.float32,
            (VOXEL, dimension),
            chunks=(block_size, max(1, length)),
            fill_value=float("nan"),
            attributes=variable_attributes(name, declaration),
        )
    codes = (("status", np.uint8, int(Status.NOT_PROCESSED)), ("flags", np.uint16, 0))
    for name, dtype, fill in codes:
        create_array(
            group,
            name,
            (voxels,),
            dtype,
            (VOXEL,),
            chunks=(block_size,),
            fill_value=fill,
            attributes=variable_attributes(name, declaration),
        )


def create_signals(
    group: zarr.Group,
    voxels: int,
    block_size: int,
    acquisition: Acquisition,
    declaration: Declaration,
    signals: Mapping[str, Mapping[str, int]],
) -> None:
    """The signals to be kept, empty: name to the lengths of its dimensions before time."""
    for name, dimensions in signals.items():
        fid = (*dimensions.values(), acquisition.points)
        create_array(
            group,
            name,
            (voxels, *fid),
            np.complex64,
            (VOXEL, *dimensions, TIME),
            chunks=(block_size, *fid),
            fill_value=complex("nan+nanj"),
            attributes=variable_attributes(name, declaration),
        )
    if signals:
        create_table(group, TIME, acquisition.time, (TIME,), {"units": "s"})


def create_coordinates(
    group: zarr.Group, tables: Mapping[str, tuple[str, NDArray[Any]]]
) -> dict[str, str]:
    """Tables of :func:`result_coordinates`; returns the attribute that names them for xarray."""
    for name, (dimension, values) in tables.items():
        create_table(group, name, np.ascontiguousarray(values), (dimension,))
    return {"coordinates": " ".join(n for n, (d, _) in tables.items() if n != d)}


def create_basis(group: zarr.Group, basis: Basis) -> None:
    """The basis of a run in a subgroup."""
    subgroup = group.create_group(
        BASIS,
        attributes={
            "names": list(basis.names),
            "acquisition": dataclasses.asdict(basis.acquisition),
            "sequence": basis.sequence,
            "source": basis.source,
        },
    )
    create_table(subgroup, BASIS_FIDS, np.ascontiguousarray(basis.fids, np.complex128), None)
