"""Maps as mosaics of slices: one view a scan, so that every picture lines up with every other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.io.map_files import position_code, volume

#: Most slices a mosaic shows; more are thinned evenly.
MAX_SLICES = 8

#: Pixels of a PNG across; shown at half that, so crisp on a dense screen.
PIXELS_ACROSS = 1096

#: Pixels of a PNG down at most, and of a tile at least: a row of voxels must stay visible.
_PIXELS_DOWN, _THINNEST = 800, 24

_Number = TypeVar("_Number", bound=np.generic)

_GAP = 6
_MARGIN = 1
_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}
_PLANES = {"S": ("axial", "LPS"), "A": ("coronal", "LIA"), "L": ("sagittal", "PIL")}

#: Ends of the logarithmic colour scale that all CRLB maps share, percent.
CRLB_SCALE = (1.0, 100.0)

_ORDERS = {
    "axial": "inferior to superior",
    "coronal": "posterior to anterior",
    "sagittal": "right to left",
}
_DIRECTIONS = {
    "L": "the patient's left",
    "R": "the patient's right",
    "A": "anterior",
    "P": "posterior",
    "S": "superior",
    "I": "inferior",
}


@dataclass(frozen=True, eq=False)
class View:
    """How volumes of one scan are laid out on a page.

    Images have the patient's right (or anterior, in a sagittal view) on their left; ``letters``
    are the directions at the left, right, top and bottom edge; empty where the scan states no
    position, so that ``placed`` is false. ``pixel`` is a voxel's height and
    width in mm. ``slices`` count from the right, posterior or inferior end; ``numbers`` says which
    slice each of them is along ``axis`` (x, y or z) of the stored volume.
    """

    transform: NDArray[np.float64]
    plane: str
    letters: tuple[str, str, str, str]
    slices: tuple[int, ...]
    slice_count: int
    rows: slice
    columns: slice
    pixel: tuple[float, float]
    axis: str
    numbers: tuple[int, ...]

    @property
    def placed(self) -> bool:
        """Whether it is known where the sides of the images lie."""
        return any(self.letters)

    @property
    def across(self) -> int:
        """Tiles in a row of the mosaic."""
        count = len(self.slices)
        return count if count <= 3 else math.ceil(count / 2)

    def showing(self, numbers: Sequence[int]) -> View:
        """The same with other slices, given as they are stored, in this order.

        Raises
        ------
        InputError
            If there is no such slice.
        """
        wrong = [n for n in numbers if n not in self.numbers]
        if wrong or not numbers:
            raise InputError(
                f"slices = {list(numbers)}: the volume has {self.plane} slices 0 to "
                f"{len(self.numbers) - 1}"
            )
        return replace(self, slices=tuple(self.numbers.index(n) for n in numbers))

    @property
    def caption(self) -> str:
        """Orientation and slices in one sentence each."""
        shown = f"all {self.slice_count} slices" if self.slice_count > 1 else "the only slice"
        if len(self.slices) < self.slice_count:
            shown = f"{len(self.slices)} of {self.slice_count} slices"
        if not self.placed:
            return (
                "The scan states no position: which side is left, anterior or superior is not "
                f"known. Slices along {self.axis} of the stored volume, {shown} with data. "
                "One square is one voxel; nothing is interpolated."
            )
        left, right, top, bottom = (_DIRECTIONS[letter] for letter in self.letters)
        convention = "" if self.plane == "sagittal" else "Radiological convention: "
        across = f"{left} on the left of each image, {right} on its right"
        edges = f"{across}, {top} at the top, {bottom} at the bottom"
        order = f", from {_ORDERS[self.plane]}, row by row" if len(self.slices) > 1 else ""
        return (
            f"{convention}{edges}. {self.plane.capitalize()} view, {shown} with data{order}. "
            "One square is one voxel; nothing is interpolated."
        )

    def tiles(self, values: NDArray[_Number]) -> list[NDArray[_Number]]:
        """Cropped slices ``(row, column)`` of a volume ``(x, y, z)``."""
        turned = self._turned(values)
        return [turned[self.columns, self.rows, k].T for k in self.slices]

    def mosaic(self, shades: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """All tiles of a volume of shades on one canvas ``(row, column)`` of pixels.

        Shade 0, which is that of no number, is between and around them.
        """
        tiles = self.tiles(shades)
        row_index, column_index = self._pixel_index
        height, width = len(row_index), len(column_index)
        down = math.ceil(len(tiles) / self.across)
        shape = (down * (height + _GAP) + _GAP, self.across * (width + _GAP) + _GAP)
        canvas = np.zeros(shape, np.uint8)
        for n, tile in enumerate(tiles):
            top = _GAP + (n // self.across) * (height + _GAP)
            left = _GAP + (n % self.across) * (width + _GAP)
            canvas[top : top + height, left : left + width] = tile[row_index][:, column_index]
        return canvas

    def _turned(self, values: NDArray[_Number]) -> NDArray[_Number]:
        return np.asarray(nib.orientations.apply_orientation(values, self.transform))

    @cached_property
    def _pixel_index(self) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
        rows, columns = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        width = (PIXELS_ACROSS - (self.across + 1) * _GAP) / self.across
        height = width * rows * self.pixel[0] / (columns * self.pixel[1])
        shrink = min(1.0, _PIXELS_DOWN / math.ceil(len(self.slices) / self.across) / height)
        width, height = (max(round(side * shrink), _THINNEST) for side in (width, height))
        return np.arange(height) * rows // height, np.arange(width) * columns // width


def view_of(result: xr.Dataset, most: int = MAX_SLICES) -> View:
    """The view of a scan: nearest anatomical plane, cropped to the mask with a margin.

    Slices are axial unless the volume is a slab in another plane (fewer than half as many slices
    there).
    """
    affine = np.asarray(result.attrs["affine"], float)
    inside = volume(result, np.ones(result.sizes["voxel"]), 0.0)
    plane, codes = _PLANES[_slice_direction(affine, inside.shape)]
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = np.asarray(nib.orientations.apply_orientation(inside, turn))
    zooms = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]
    across = int(np.flatnonzero(turn[:, 0] == 2)[0])
    filled = np.flatnonzero(turned.any(axis=(0, 1)))
    right, bottom = codes[0], codes[1]
    letters = (_OPPOSITE[right], right, _OPPOSITE[bottom], bottom)
    return View(
        transform=turn,
        plane=plane,
        letters=letters if position_code(result) else ("", "", "", ""),
        slices=tuple(int(k) for k in _thinned(filled, most)),
        slice_count=len(filled),
        rows=_bounds(turned.max(axis=(0, 2)) > 0),
        columns=_bounds(turned.max(axis=(1, 2)) > 0),
        pixel=(float(zooms[1]), float(zooms[0])),
        axis="xyz"[across],
        numbers=tuple(range(inside.shape[across])[:: int(turn[across, 1])]),
    )


def _slice_direction(affine: NDArray[np.float64], shape: tuple[int, ...]) -> str:
    anatomical = np.argsort(nib.orientations.io_orientation(affine)[:, 0])
    counts = dict(zip("LAS", (shape[axis] for axis in anatomical), strict=True))
    thinnest = min(("A", "L"), key=counts.__getitem__)
    return thinnest if 2 * counts[thinnest] < counts["S"] else "S"


def _thinned(filled: NDArray[np.int_], most: int) -> NDArray[np.int_]:
    chosen = np.linspace(0, len(filled) - 1, min(most, len(filled))).round().astype(int)
    return filled[chosen]


def _bounds(occupied: NDArray[np.bool_]) -> slice:
    index = np.flatnonzero(occupied)
    return slice(max(index[0] - _MARGIN, 0), min(index[-1] + _MARGIN + 1, len(occupied)))


def robust_range(values: NDArray[np.floating], kind: str) -> tuple[float, float]:
    """Colour limits: 1st to 99th percentile; amplitudes from 0, signed ones about 0.

    A free fit makes some amplitudes negative; a scale that followed the worst of them would hide
    the rest.
    """
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(known, [1, 99]))
    if kind == "signed":
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    elif kind == "amplitude":
        low = 0.0
    return (low, high) if high > low else (low, low + (abs(low) or 1.0))
