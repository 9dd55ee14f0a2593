"""Volumes that come with a scan, read by what the table of companions says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.companions import Companion, CompanionFiles, Kind
from mrsi_engine.errors import InputError
from mrsi_engine.io.places import place
from mrsi_engine.io.tissue import on_grid, read_tissue
from mrsi_engine.io.volumes import Grid, check_placed, read_mask, read_volume


@dataclass(frozen=True, eq=False)
class Volume:
    """A companion on the scan's grid.

    ``values`` are ``(x, y, z)`` or ``(x, y, z, class)``, ``notes`` what is to be said of them.
    """

    values: NDArray[Any]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def read_companion(
    row: Companion,
    files: CompanionFiles,
    classes: Sequence[str],
    grid: Grid,
    voxels: NDArray[np.intp] | None,
) -> Volume:
    """The volume of a companion that is no signal.

    Parameters
    ----------
    row
        Of the table.
    files, classes
        What was given: a file with the names of its classes, or a file a class.
    grid
        The scan's.
    voxels
        Of the scan, in file order, that are wanted; the others may be left at the row's fill.

    Raises
    ------
    InputError
        If a file does not fit the scan, or is not of the row's kind.
    """
    if row.kind is Kind.FRACTIONS:
        found = read_tissue(files, classes, grid, voxels)
        return Volume(found.values, found.classes, found.notes)
    if isinstance(files, Mapping):
        raise InputError(f"{row.name}: expected one file, {len(files)} were given")
    if row.kind is Kind.MARKS:
        values, notes = read_mask(place(files), grid)
        return Volume(values, (), tuple(notes))
    return _map(row, place(files), grid, voxels)


def _map(row: Companion, path: Path, grid: Grid, voxels: NDArray[np.intp] | None) -> Volume:
    values, own = read_volume(path)
    if values.ndim != 3:
        raise InputError(f"{path}: {row.name} has 3 dimensions, this has shape {values.shape}")
    if grid.difference(own) is None:
        return Volume(values, (), ())
    check_placed(path, own, grid, f"{row.name} values")
    wanted = np.arange(np.prod(grid.shape)) if voxels is None else voxels
    found, said = on_grid(path, values[..., np.newaxis], own, grid, wanted)
    filled = np.where(np.isnan(found[..., 0]), np.float32(row.fill), found[..., 0])
    return Volume(filled, (), (f"{row.name} {said}",))
