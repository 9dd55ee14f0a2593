"""Quantification as a lazy xarray Dataset, computed by whatever Dask scheduler is active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask import delayed
from numpy.typing import NDArray

from mrsi_engine.conventions import MEASURE, PARAMETER, TIME, VOXEL, Acquisition
from mrsi_engine.engine.blocks import default_block_size
from mrsi_engine.engine.identity import provenance
from mrsi_engine.engine.recipe import Recipe, recipe_for
from mrsi_engine.errors import InputError
from mrsi_engine.io.result_store import (
    BlockArrays,
    result_attributes,
    result_coordinates,
    variable_attributes,
)
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages.pipeline import Pipeline

#: What :func:`quantify` does unless told otherwise.
DEFAULT_PIPELINE = "brain-1h-3t"


def quantify(
    scan: xr.Dataset | ScanStore,
    basis: Basis | None,
    pipeline: Pipeline | str = DEFAULT_PIPELINE,
    *,
    block_size: int | None = None,
    keep_signals: Sequence[str] = (),
    device: str = "cpu",
) -> xr.Dataset:
    """Maps of a scan as a lazy Dataset; nothing is computed before you ask for values.

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
    block_size, keep_signals, device
        As in :func:`~mrsi_engine.engine.blocks.plan`.

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
    recipe = recipe_for(_acquisition(dataset), pipeline, basis, keep_signals, device)
    size = block_size or default_block_size(pipeline, dataset.sizes[VOXEL])
    columns = _Columns(recipe)
    packed = _packed(dataset, recipe, columns.width, size)
    declaration = recipe.declaration
    places = np.stack([dataset[axis].values for axis in "xyz"], axis=1)
    coordinates: dict[str, Any] = {**result_coordinates(places, declaration)}
    if recipe.signals:
        coordinates[TIME] = (TIME, recipe.acquisition.time, {"units": "s"})
    return xr.Dataset(
        columns.variables(packed),
        coordinates,
        result_attributes(
            recipe.acquisition,
            declaration,
            recipe.signals,
            provenance(dataset.attrs, pipeline, basis),
        ),
    )


class _Columns:
    """Where each variable stands in the packed array of a block, ``(voxel, column)`` float32."""

    def __init__(self, recipe: Recipe) -> None:
        self._declaration = declaration = recipe.declaration
        parameters = len(declaration.parameters)
        self._widths = {
            "estimate": parameters,
            "sd": parameters,
            "quality": len(declaration.measures),
            **dict.fromkeys(recipe.signals, 2 * recipe.acquisition.points),
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
        if name == "status":
            return (VOXEL,), columns[:, 0].astype(np.uint8), attributes
        if name in ("estimate", "sd"):
            return (VOXEL, PARAMETER), columns, attributes
        if name == "quality":
            return (VOXEL, MEASURE), columns, attributes
        return (VOXEL, TIME), _complex(columns), attributes


def _packed(dataset: xr.Dataset, recipe: Recipe, width: int, block_size: int) -> da.Array:
    names = [name for name in ("fid", "water") if name in dataset]
    signals = [
        dataset[name].transpose(VOXEL, TIME).chunk({VOXEL: block_size, TIME: -1}).data
        for name in names
    ]
    return da.map_blocks(
        _packed_block,
        *signals,
        # One node of the graph, not a copy in every task.
        recipe=delayed(recipe, name=f"recipe-{recipe.key}", traverse=False),
        dtype=np.float32,
        chunks=(signals[0].chunks[0], (width,)),
        meta=np.empty((0, 0), np.float32),
    )


def _packed_block(
    fids: NDArray[np.complex64], water: NDArray[np.complex64] | None = None, *, recipe: Recipe
) -> NDArray[np.float32]:
    arrays, _ = recipe.apply(fids, water)
    return _side_by_side(arrays)


def _side_by_side(arrays: BlockArrays) -> NDArray[np.float32]:
    columns = arrays.values()
    columns["status"] = columns["status"][:, None]
    return np.concatenate(
        [c.view(np.float32) if np.iscomplexobj(c) else c for c in columns.values()],
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
