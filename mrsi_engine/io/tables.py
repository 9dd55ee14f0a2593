"""Result store to Parquet: one row a voxel, units in the schema."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Flag, Status
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.maps import (
    AMPLITUDE_KINDS,
    ERROR_PARTS,
    error_meaning,
    error_part_of,
    fitted_voxels,
    parameter_names,
    parts_of,
    relative_crlb,
    total_of,
)

_PROVENANCE = ("stem", "source", "checksum", "engine_version", "mask_origin", "run_fingerprint")


def write_table(result: xr.Dataset, path: Path) -> Path:
    """Write :func:`voxel_table` as Parquet.

    Raises
    ------
    InputError
        If two columns would share a name.
    RunError
        If the file cannot be written.
    """
    buffer = io.BytesIO()
    pq.write_table(voxel_table(result), buffer, compression="zstd")
    return write_atomically(path, buffer.getvalue())


def voxel_table(result: xr.Dataset) -> pa.Table:
    """One row a voxel: index, position, status, estimates, CRLBs and measures.

    Columns are ``x, y, z`` (index in the volume), ``x_mm, y_mm, z_mm`` (centre of the voxel in
    scanner coordinates), ``status``, for every parameter ``NAME`` and ``NAME_sd``, for amplitudes
    ``NAME_crlb`` (percent), ``b0_shift`` of the data as acquired (Hz, over all stages) with its
    bound, and one a measure. Amplitudes that are a network's own have ``NAME_crlbabs`` and, of an
    ensemble, ``NAME_epistemic``: what their SD is made of. Numbers are NaN where there is
    no fit. Every column's ``unit`` and ``description`` stand in its field metadata, the scan's
    provenance in the schema's.

    Raises
    ------
    InputError
        If two columns would share a name.
    """
    pairs = list(_columns(result))
    names = [field.name for field, _ in pairs]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise InputError(f"table: columns {repeated} stand twice; rename the basis' metabolites")
    provenance = {k: str(result.attrs[k]) for k in _PROVENANCE if k in result.attrs}
    schema = pa.schema([field for field, _ in pairs], metadata=provenance)
    return pa.table([pa.array(values) for _, values in pairs], schema=schema)


_Column = tuple[pa.Field, NDArray[np.generic]]


def _columns(result: xr.Dataset) -> Iterator[_Column]:
    yield from _position(result)
    meanings = json.dumps({int(s): s.meaning for s in Status})
    yield _column("status", result["status"].values, "1", meanings)
    if "flags" in result:
        reasons = json.dumps({int(f): f.meaning for f in Flag})
        yield _column("flags", result["flags"].values, "1", reasons)
    inside = fitted_voxels(result)
    for name in result["parameter"].values:
        yield from _parameter(result, str(name), inside)
    if parts_of(result, "shift"):
        yield from _b0_shift(result, inside)
    for name in result["measure"].values:
        row = result.sel(measure=name)
        unit, doc = str(row["measure_unit"].values), str(row["measure_doc"].values)
        part = error_part_of(result, str(name))
        column = str(name) if part is None else f"{part[1]}_{ERROR_PARTS[part[0]]}"
        yield _column(column, np.where(inside, row["quality"].values, np.nan), unit, doc)


def _position(result: xr.Dataset) -> Iterator[_Column]:
    index = np.stack([result[axis].values for axis in "xyz"], axis=-1)
    affine = np.asarray(result.attrs["affine"], float)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    if result.attrs.get("position_code", 1) == 0:
        world = np.full_like(world, np.nan)
    for i, axis in enumerate("xyz"):
        yield _column(axis, index[:, i].astype(np.int32), "1", "index in the volume, from 0")
    for i, axis in enumerate("xyz"):
        yield _column(f"{axis}_mm", world[:, i], "mm", "scanner coordinate of the voxel's centre")


def _parameter(result: xr.Dataset, name: str, inside: NDArray[np.bool_]) -> Iterator[_Column]:
    row = result.sel(parameter=name)
    unit, doc = str(row["unit"].values), str(row["doc"].values)
    bound = error_meaning(result)
    yield _column(name, np.where(inside, row["estimate"].values, np.nan), unit, doc)
    yield _column(f"{name}_sd", np.where(inside, row["sd"].values, np.nan), unit, bound)
    if name in parameter_names(result, *AMPLITUDE_KINDS):
        percent = np.where(inside, relative_crlb(result, name), np.nan)
        yield _column(f"{name}_crlb", percent, "%", f"{bound} in percent of the estimate")


def _b0_shift(result: xr.Dataset, inside: NDArray[np.bool_]) -> Iterator[_Column]:
    total = total_of(result, "shift")
    unit, doc = total.attrs["unit"], total.attrs["doc"]
    for name, values in (("b0_shift", total["estimate"]), ("b0_shift_sd", total["sd"])):
        yield _column(name, np.where(inside, values.values, np.nan), unit, doc)


def _column(name: str, values: NDArray[np.generic], unit: str, description: str) -> _Column:
    number = np.float32 if values.dtype.kind == "f" and unit != "mm" else values.dtype
    metadata = {"unit": unit, "description": description}
    typed = values.astype(number)
    return pa.field(name, pa.from_numpy_dtype(typed.dtype), metadata=metadata), typed
