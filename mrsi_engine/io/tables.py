"""Result store to Parquet: one row a voxel, units in the schema."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Flag, Status
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.result_quantities import (
    fitted_voxels,
    measures_of,
    parameters_of,
    parts_of,
    relative_crlb,
    total_of,
    values_of,
)
from mrsi_engine.io.stored_tissue import stored_tissue
from mrsi_engine.quantities import TOTALS, Quantity, Total

#: Fractions ``(voxel,)`` by class.
Tissue = Mapping[str, NDArray[np.floating]]

_PROVENANCE = ("stem", "source", "checksum", "engine_version", "mask_origin", "run_fingerprint")


def write_table(result: xr.Dataset, path: Path, tissue: Tissue | None = None) -> Path:
    """Write :func:`voxel_table` as Parquet.

    Raises
    ------
    InputError
        If two columns would share a name.
    RunError
        If the file cannot be written.
    """
    return write_atomically(path, as_parquet(voxel_table(result, tissue)))


def as_parquet(table: pa.Table) -> bytes:
    """A voxel table as a file; numbers without a dictionary, which would have one entry each."""
    words = [f.name for f in table.schema if pa.types.is_dictionary(f.type)]
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=words or False)
    return buffer.getvalue()


def voxel_table(result: xr.Dataset, tissue: Tissue | None = None) -> pa.Table:
    """One row a voxel: index, position, status, estimates, CRLBs and measures.

    Columns are ``stem`` (of the scan, the same in every row), ``x, y, z`` (index in the volume),
    ``x_mm, y_mm, z_mm`` (centre of the voxel in scanner coordinates), ``status``,
    ``fraction_CLASS`` where tissue is known, for every parameter ``NAME`` and ``NAME_sd``, for
    amplitudes ``NAME_crlb`` (percent), ``b0_shift`` of the data as acquired (Hz, over all stages)
    with its bound, and one a measure. Amplitudes that are a network's own have ``NAME_crlbabs``
    and, of an ensemble, ``NAME_epistemic``: what their SD is made of. Numbers are NaN where there
    is no fit. The scan's provenance stands in the schema's metadata, in that of every field its
    ``unit`` and ``description`` and, of estimates and measures, also their ``role``, whose they are
    (``of``, ``reference``), and by which ``estimator`` and ``stage``.

    Raises
    ------
    InputError
        If two columns would share a name.
    """
    pairs = list(_columns(result, stored_tissue(result) if tissue is None else tissue))
    names = [field.name for field, _ in pairs]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise InputError(f"table: columns {repeated} stand twice; rename the basis' metabolites")
    provenance = {k: str(result.attrs[k]) for k in _PROVENANCE if k in result.attrs}
    schema = pa.schema([field for field, _ in pairs], metadata=provenance)
    return pa.table([pa.array(values) for _, values in pairs], schema=schema)


_Column = tuple[pa.Field, NDArray[np.generic] | pa.Array]


def _columns(result: xr.Dataset, tissue: Tissue) -> Iterator[_Column]:
    yield _stem(result)
    yield from _position(result)
    meanings = json.dumps({int(s): s.meaning for s in Status})
    yield _column("status", result["status"].values, "1", meanings)
    if "flags" in result:
        reasons = json.dumps({int(f): f.meaning for f in Flag})
        yield _column("flags", result["flags"].values, "1", reasons)
    for name, fractions in tissue.items():
        doc = f"fraction of {name}; NaN where it is not known"
        yield _column(f"fraction_{name}", fractions, "1", doc)
    inside = fitted_voxels(result)
    for quantity in parameters_of(result):
        yield from _parameter(result, quantity, inside)
    for total in TOTALS.values():
        if total.column and parts_of(result, total.name):
            yield from _total(result, total, inside)
    for quantity in measures_of(result):
        values = values_of(result, "quality", quantity.name)
        values = np.where(inside, values, np.nan)
        about = _about(quantity)
        yield _column(quantity.column, values, quantity.units, quantity.doc, about)


def _stem(result: xr.Dataset) -> _Column:
    """The scan's stem in every row, by which rows of several scans are told apart."""
    indices = pa.array(np.zeros(result.sizes["voxel"], np.int32))
    values = pa.DictionaryArray.from_arrays(indices, [str(result.attrs.get("stem", "scan"))])
    about = {"unit": "1", "description": "what the names of the scan's maps begin with"}
    return pa.field("stem", values.type, metadata=about), values


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


def _parameter(
    result: xr.Dataset, quantity: Quantity, inside: NDArray[np.bool_]
) -> Iterator[_Column]:
    about, bound = _about(quantity), quantity.sd_doc
    name, sd_name, *relative = quantity.columns
    estimate, sd = (
        np.where(inside, values_of(result, kind, quantity.name), np.nan)
        for kind in ("estimate", "sd")
    )
    yield _column(name, estimate, quantity.units, quantity.doc, about)
    yield _column(sd_name, sd, quantity.units, bound, about)
    for column in relative:
        percent = np.where(inside, relative_crlb(result, quantity.name), np.nan)
        yield _column(column, percent, "%", f"{bound} in percent of the estimate", about)


def _total(result: xr.Dataset, total: Total, inside: NDArray[np.bool_]) -> Iterator[_Column]:
    found = total_of(result, total.name)
    for name, values in ((total.column, found["estimate"]), (f"{total.column}_sd", found["sd"])):
        yield _column(name, np.where(inside, values.values, np.nan), total.units, total.doc)


def _about(quantity: Quantity) -> dict[str, str]:
    fields = ("role", "of", "reference", "estimator", "adds_to", "stage")
    said = {field: str(getattr(quantity, field)) for field in fields}
    return {field: value for field, value in said.items() if value}


def _column(
    name: str,
    values: NDArray[np.generic],
    unit: str,
    description: str,
    about: Mapping[str, str] | None = None,
) -> _Column:
    number = np.float32 if values.dtype.kind == "f" and unit != "mm" else values.dtype
    metadata = {"unit": unit, "description": description, **(about or {})}
    typed = values.astype(number)
    return pa.field(name, pa.from_numpy_dtype(typed.dtype), metadata=metadata), typed
