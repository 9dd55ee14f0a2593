"""What a scan store holds: its variables, their attributes, and how they are made.

=============  ====================================  =========  ==========================
variable       dimensions                            dtype      unit
=============  ====================================  =========  ==========================
``fid``        voxel, (coil,) (dynamic,) time        complex64  as in the file
``x y z``      voxel                                 int32      voxel index in the volume
``time``       time                                  float64    s
=============  ====================================  =========  ==========================

Beside these stands what came with the scan, by the table of :mod:`mrsi_engine.companions`: further
signals (``water``; ``water_dynamic`` is its own number of transients, 1 if it is an average), marks
(``scalp``; such voxels lie outside the mask and are never quantified), fractions (``tissue`` by
``tissue_class``) and maps. Raw data have coils and transients (``dynamic``) between voxel and time.

A chunk holds whole FIDs of ``chunk`` voxels. Voxels stand in the order of the file they came from:
x runs fastest, then y, then z. Attributes carry the acquisition, the grid, the complete NIfTI-MRS
header extension and where the data came from. Every file says itself whether it is as it was
written (:mod:`~mrsi_engine.io.integrity`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from mrsi_engine.companions import Companion, Kind, companions
from mrsi_engine.conventions import Acquisition
from mrsi_engine.dimensions import DYNAMIC, TIME, VOXEL
from mrsi_engine.errors import InputError
from mrsi_engine.io.integrity import create_array, create_table

#: Format of the stores written here; a reader refuses any other.
SCHEMA_VERSION = 3

#: What the attributes of a scan store call it.
SCHEMA = "mrsi_engine.scan"
_DIMENSIONS = {**dict.fromkeys("xyz", (VOXEL,)), "time": (TIME,)}

#: Arrays that every scan store has.
REQUIRED = ("fid", "x", "y", "z", "time")

#: Fields of the acquisition as attributes, with their units.
ACQUISITION_UNITS = {
    "points": "1",
    "dwell_time": "s",
    "spectrometer_frequency": "MHz",
    "reference_ppm": "ppm",
    "nucleus": "",
    "echo_time": "s",
    "repetition_time": "s",
    "start_time": "s",
}


def check_arrays(path: Path, group: zarr.Group) -> None:
    """See that the arrays of a scan store are all there and go together.

    Raises
    ------
    InputError
        If they do not.
    """
    missing = [name for name in REQUIRED if name not in group]
    if missing:
        raise InputError(
            f"{path}: the scan store lacks {', '.join(missing)}; import the scan again"
        )
    voxels, *_, points = group["fid"].shape
    lengths = {VOXEL: voxels, TIME: points}
    beside = {row.name: (VOXEL,) for row in companions() if row.stored}
    for name, dimensions in {**beside, **_DIMENSIONS}.items():
        found = group[name].shape if name in group else None
        if found is not None and found[0] != lengths[dimensions[0]]:
            raise InputError(
                f"{path}: {name} has {found[0]} {dimensions[0]}s, fid has "
                f"{lengths[dimensions[0]]}; the store is damaged, import the scan again"
            )


def scan_attributes(
    acquisition: Acquisition,
    shape: Sequence[int],
    affine: ArrayLike,
    position_code: int,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Attributes of a scan store; ``provenance`` is all but the acquisition and the grid."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "engine_version": version("mrsi-engine"),
        **dataclasses.asdict(acquisition),
        "units": {**ACQUISITION_UNITS, "shape": "voxel", "affine": "mm"},
        "shape": [int(n) for n in shape],
        "affine": np.asarray(affine, dtype=float).tolist(),
        "position_code": int(position_code),
        **provenance,
    }


def signal_names() -> tuple[str, ...]:
    """Variables that hold FIDs."""
    return ("fid", *(row.name for row in companions(Kind.SIGNAL)))


def own_names(name: str, dimensions: Mapping[str, int]) -> dict[str, int]:
    """Names under which a signal's own lengths can stand beside those of the scan."""
    return {f"{name}_{d}" if d == DYNAMIC else d: length for d, length in dimensions.items()}


def lengths_of(signal: zarr.Array) -> dict[str, int]:
    """Lengths of a signal's dimensions between voxel and time."""
    names = signal.metadata.dimension_names
    return dict(zip(names[1:-1], signal.shape[1:-1], strict=True))


def create_signal(
    group: zarr.Group,
    name: str,
    voxels: int,
    dimensions: Mapping[str, int],
    acquisition: Acquisition,
    chunk: int,
) -> None:
    """A signal, empty: ``dimensions`` are its lengths between voxel and time."""
    fid = (*dimensions.values(), acquisition.points)
    create_array(
        group,
        name,
        (voxels, *fid),
        np.complex64,
        (VOXEL, *dimensions, TIME),
        chunks=(max(1, min(chunk, voxels)), *fid),
        attributes={"units": "as in the file"},
    )


def create_tables(
    group: zarr.Group, coordinates: NDArray[np.int32], acquisition: Acquisition
) -> None:
    """Where the voxels ``(voxel, 3)`` are, and the time axis."""
    for axis, indices in zip("xyz", coordinates.T, strict=True):
        _create_table(group, axis, np.ascontiguousarray(indices), "voxel")
    _create_table(group, "time", acquisition.time, "s")


def create_volume(
    group: zarr.Group, row: Companion, values: ArrayLike, classes: Sequence[str]
) -> None:
    """What came with the scan beside signals, ``(voxel,)`` or ``(voxel, class)``."""
    table = np.asarray(values, dtype=bool if row.kind is Kind.MARKS else np.float32)
    dimensions = (VOXEL, row.class_dimension) if row.kind is Kind.FRACTIONS else (VOXEL,)
    create_table(group, row.name, table, dimensions, {"units": row.units})
    if row.kind is Kind.FRACTIONS:
        named = np.array(classes, dtype=object)
        create_table(group, row.class_dimension, named, (row.class_dimension,))


def _create_table(group: zarr.Group, name: str, values: NDArray[Any], units: str) -> None:
    create_table(group, name, values, _DIMENSIONS[name], {"units": units})
