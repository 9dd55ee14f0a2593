"""Quantification as a lazy xarray Dataset, computed by whatever Dask scheduler is active.

What stages must know of the whole scan is computed at once, by that scheduler too; all else waits
until values are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import reduce
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask import delayed
from dask.delayed import Delayed
from numpy.typing import NDArray

from mrsi_engine.companions import SCALP, companion, companions
from mrsi_engine.conventions import Acquisition
from mrsi_engine.dimensions import MEASURE, PARAMETER, TIME, VOXEL
from mrsi_engine.engine.devices import AUTO, check_device
from mrsi_engine.engine.identity import provenance
from mrsi_engine.engine.passes import parts_of
from mrsi_engine.engine.plan import default_block_size
from mrsi_engine.engine.procedure import Procedure, procedure_for
from mrsi_engine.engine.voxels import ScanLayout, Voxels
from mrsi_engine.errors import InputError
from mrsi_engine.io.result_schema import (
    BlockArrays,
    result_attributes,
    result_coordinates,
    variable_attributes,
)
from mrsi_engine.io.scan_store import ScanStore, scan_noise
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import State
from mrsi_engine.spectra.basis import Basis

#: What :func:`quantify` does unless told otherwise.
DEFAULT_PIPELINE = "brain-1h-3t"


#: Names of a block's arrays beside those of companions.
_FIDS, _COORDINATES = "fid", "coordinates"


def quantify(
    scan: xr.Dataset | ScanStore,
    basis: Basis | None,
    pipeline: Pipeline | str = DEFAULT_PIPELINE,
    *,
    block_size: int | None = None,
    keep: Sequence[str] = (),
    device: str = AUTO,
) -> xr.Dataset:
    """Maps of a scan as a lazy Dataset; no voxel is fitted before you ask for values.

    Stages that need the whole scan (a template, a subspace) pass over it here, at once: that reads
    every FID, and takes as long as the stages before them do.

    Blocks are done by the same function as in a batch run. ``result.compute()`` computes all
    variables in one pass; asking for them one by one does the fit each time.

    Parameters
    ----------
    scan
        What ``open_scan`` returns, or a part of it along ``voxel``.
    basis
        The basis set; brought onto the scan's axis here.
    pipeline
        A pipeline or the name or file of one.
    block_size, keep, device
        As in :func:`~mrsi_engine.engine.plan.plan`.

    Returns
    -------
    xarray.Dataset
        The variables, coordinates and attributes of
        :func:`~mrsi_engine.io.result_store.open_result`.

    Raises
    ------
    InputError
        If this is not a scan, or the scan, the basis and the pipeline do not fit each other.
    """
    dataset = scan.to_xarray() if isinstance(scan, ScanStore) else scan
    pipeline = Pipeline.load(pipeline) if isinstance(pipeline, str) else pipeline
    acquisition, layout = _acquisition(dataset), _layout(dataset)
    check_device(device, here=False)
    procedure = procedure_for(acquisition, pipeline, basis, keep, device, layout)
    pipeline = procedure.pipeline
    size = block_size or default_block_size(pipeline, dataset.sizes[VOXEL], layout)
    voxels = _voxels(dataset, size)
    procedure = _prepared(procedure, voxels)
    columns = _Columns(procedure)
    packed = _packed(voxels, procedure, columns.width)
    declaration = procedure.declaration
    scalp = dataset[SCALP.name].values if SCALP.name in layout.companions else None
    coordinates: dict[str, Any] = {**result_coordinates(_places(dataset), declaration, scalp)}
    if procedure.signals:
        coordinates[TIME] = (TIME, procedure.acquisition.time, {"units": "s"})
    return xr.Dataset(
        columns.variables(packed),
        coordinates,
        result_attributes(
            procedure.acquisition,
            declaration,
            procedure.signals,
            {
                **provenance(dataset.attrs, pipeline, basis),
                "assumptions": procedure.assumptions,
                "applied": procedure.applied,
            },
        ),
    )


class _Columns:
    """Where each variable stands in the packed array of a block, ``(voxel, column)`` float32."""

    def __init__(self, procedure: Procedure) -> None:
        self._declaration = declaration = procedure.declaration
        self._dimensions = procedure.signal_dimensions
        points = procedure.acquisition.points
        self._shapes = {n: (*d.values(), points) for n, d in self._dimensions.items()}
        parameters = len(declaration.parameters)
        self._widths = {
            "estimate": parameters,
            "sd": parameters,
            "quality": len(declaration.measures),
            "flags": 1,
            **{name: 2 * math.prod(self._shapes[name]) for name in procedure.signals},
            "status": 1,
        }

    @property
    def width(self) -> int:
        return sum(self._widths.values())

    def variables(self, packed: da.Array) -> dict[str, tuple[Any, ...]]:
        variables, start = {}, 0
        for name, width in self._widths.items():
            columns = packed[:, start : start + width]
            start += width
            variables[name] = self._variable(name, columns)
        return variables

    def _variable(self, name: str, columns: da.Array) -> tuple[Any, ...]:
        attributes = variable_attributes(name, self._declaration)
        if name in ("status", "flags"):
            codes = np.uint8 if name == "status" else np.uint16
            return (VOXEL,), columns[:, 0].astype(codes), attributes
        if name in ("estimate", "sd"):
            return (VOXEL, PARAMETER), columns, attributes
        if name == "quality":
            return (VOXEL, MEASURE), columns, attributes
        signals = _complex(columns).reshape(-1, *self._shapes[name])
        return (VOXEL, *self._dimensions[name], TIME), signals, attributes


def _voxels(dataset: xr.Dataset, block_size: int) -> dict[str, da.Array]:
    """What a block is made of, by the names in the scan, each chunk a block."""
    found = {name: dataset[name] for name in (_FIDS, *_beside(dataset))}
    arrays = {
        name: array.chunk({d: block_size if d == VOXEL else -1 for d in array.dims}).data
        for name, array in found.items()
    }
    places = da.from_array(_places(dataset), chunks=(block_size, -1), name=False)
    return {**arrays, _COORDINATES: places}


def _beside(dataset: xr.Dataset) -> tuple[str, ...]:
    """Names of what came with the scan."""
    return tuple(row.name for row in companions() if row.stored and row.name in dataset)


def _voxels_of(names: Sequence[str], arrays: Sequence[NDArray[Any]]) -> Voxels:
    """A block's voxels of its arrays, named as :func:`_voxels` does."""
    found = dict(zip(names, arrays, strict=True))
    fids, coordinates = found.pop(_FIDS), found.pop(_COORDINATES)
    return Voxels(fids, found, coordinates)


def _places(dataset: xr.Dataset) -> NDArray[np.int32]:
    return np.stack([dataset[axis].values for axis in "xyz"], axis=1)


def _node(procedure: Procedure) -> Delayed:
    """A procedure as one node of the graph, not a copy in every task."""
    return delayed(procedure, name=f"procedure-{procedure.key}", traverse=False)


def _prepared(procedure: Procedure, voxels: dict[str, da.Array]) -> Procedure:
    """The procedure with what the passes of its stages find in these voxels."""
    if not any(procedure.passes):
        return procedure
    for steps in procedure.passes:
        found: State = {}
        for step in range(steps):
            found = {**found, **_pass(procedure, voxels, step, found)}
        procedure = replace(procedure, states=(*procedure.states, found))
    return procedure


def _pass(procedure: Procedure, voxels: dict[str, da.Array], step: int, found: State) -> State:
    """One pass, its blocks combined in the same order as in a batch run."""
    node, known = _node(procedure), delayed(found, traverse=False)
    columns = [array.to_delayed().ravel() for array in voxels.values()]
    blocks = list(zip(*columns, strict=True))
    sums = []
    for part in parts_of(len(blocks)):
        total = None
        for block in part:
            total = delayed(_added)(node, total, step, known, tuple(voxels), *blocks[block])
        sums.append(total)
    whole = reduce(lambda first, second: delayed(_combined)(node, first, second, step), sums)
    return delayed(_finished)(node, whole, step, known).compute()


def _added(
    procedure: Procedure,
    total: State | None,
    step: int,
    found: State,
    names: Sequence[str],
    *arrays: NDArray[Any],
) -> State | None:
    voxels = _voxels_of(names, arrays)
    return procedure.combine(total, procedure.summarise(voxels, step, found), step)


def _combined(
    procedure: Procedure, first: State | None, second: State | None, step: int
) -> State | None:
    return procedure.combine(first, second, step)


def _finished(procedure: Procedure, summary: State | None, step: int, found: State) -> State:
    return procedure.finish(summary, step, found)


def _packed(voxels: dict[str, da.Array], procedure: Procedure, width: int) -> da.Array:
    # Voxels are the common index; every other dimension is one chunk of its own.
    indexed = [
        part
        for name, array in voxels.items()
        for part in (array, (VOXEL, *(f"{name}-{i}" for i in range(1, array.ndim))))
    ]
    return da.blockwise(
        _packed_block,
        (VOXEL, "column"),
        *indexed,
        names=tuple(voxels),
        procedure=_node(procedure),
        new_axes={"column": width},
        concatenate=True,
        align_arrays=False,
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
    )


def _packed_block(
    *arrays: NDArray[Any], names: Sequence[str], procedure: Procedure
) -> NDArray[np.float32]:
    results, _ = procedure.apply(_voxels_of(names, arrays))
    return _side_by_side(results)


def _side_by_side(arrays: BlockArrays) -> NDArray[np.float32]:
    columns = arrays.values()
    rows = {name: values.reshape(len(values), -1) for name, values in columns.items()}
    return np.concatenate(
        [c.view(np.float32) if np.iscomplexobj(c) else c for c in rows.values()],
        axis=1,
        dtype=np.float32,
    )


def _complex(columns: da.Array) -> da.Array:
    chunks = (columns.chunks[0], (columns.shape[1] // 2,))
    return columns.map_blocks(
        lambda pairs: np.ascontiguousarray(pairs).view(np.complex64),
        dtype=np.complex64,
        chunks=chunks,
        meta=np.empty((0, 0), np.complex64),
    )


def _layout(dataset: xr.Dataset) -> ScanLayout:
    lengths = dataset["fid"].sizes
    dimensions = tuple((str(d), n) for d, n in lengths.items() if d not in (VOXEL, TIME))
    beside = _beside(dataset)
    named = {name: companion(name).class_dimension for name in beside}
    classes = {
        name: tuple(str(c) for c in dataset[dimension].values)
        for name, dimension in named.items()
        if dimension in dataset.variables
    }
    timing = dataset.attrs.get("timing", {})
    return ScanLayout(dimensions, beside, classes, timing, scan_noise(dataset.attrs))


def _acquisition(dataset: xr.Dataset) -> Acquisition:
    names = [field.name for field in fields(Acquisition)]
    missing = [name for name in ("fid", "x", "y", "z") if name not in dataset]
    missing += [name for name in names if name not in dataset.attrs]
    if missing:
        raise InputError(
            f"not a scan: the Dataset lacks {', '.join(missing)}; open one with open_scan"
        )
    acquisition = Acquisition(**{name: dataset.attrs[name] for name in names})
    if dataset.sizes[TIME] != acquisition.points:
        raise InputError(
            f"the scan has {dataset.sizes[TIME]} time points, its attribute points says "
            f"{acquisition.points}; take a part along {VOXEL} only"
        )
    return acquisition
