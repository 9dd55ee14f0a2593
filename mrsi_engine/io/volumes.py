"""Plain NIfTI volumes that come with a scan, masks first of all, and the grids they lie on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from mrsi_engine.errors import InputError

#: How far (in the smallest voxel edge) corners of two volumes may lie apart on one grid.
GRID_TOLERANCE = 0.05

# Volume of a voxel over the product of its edges below which its axes lie in a plane.
_LEAST_VOLUME = 1e-6

# spec2nii and the NIfTI-MRS examples write voxels of 10 m where the source states no position.
_NO_POSITION_MM = 1e4


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume are: ``shape`` (x, y, z) and ``affine`` (4, 4) in mm."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def voxel_edges(self) -> NDArray[np.float64]:
        """Voxel size along x, y, z, mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def has_position(self) -> bool:
        """Whether the affine says where the volume is: voxels of 10 m stand for "unknown"."""
        return bool(self.voxel_edges.min() < _NO_POSITION_MM)

    @property
    def centre(self) -> tuple[float, ...]:
        """Middle of the volume, mm, to a tenth."""
        middle = [(n - 1) / 2 for n in self.shape]
        return tuple((self.affine[:3] @ [*middle, 1]).round(1).tolist())

    def distance(self, other: Grid) -> float:
        """Largest distance (mm) between corners of two volumes of the same shape."""
        corners = np.array([(*c, 1) for c in product(*((0, n) for n in self.shape))], dtype=float)
        apart = corners @ (self.affine - other.affine).T
        return float(np.linalg.norm(apart[:, :3], axis=1).max())

    def difference(self, other: Grid) -> str | None:
        """What sets another grid apart, in words; ``None`` if it is the same.

        Corners must agree within :data:`GRID_TOLERANCE` of the smallest voxel edge. A scan that
        states no position is compared by shape alone.
        """
        if self.shape != other.shape:
            return f"its shape is {other.shape}, the scan's is {self.shape}"
        distance, edge = self.distance(other), float(self.voxel_edges.min())
        if self.has_position and not distance <= GRID_TOLERANCE * edge:
            return (
                f"its affine places it up to {distance:.3g} mm from the scan's voxels (allowed: "
                f"{GRID_TOLERANCE:g} of the smallest voxel edge, {edge:.3g} mm)"
            )
        return None


def load_image(path: Path) -> Any:
    """A NIfTI-1 or NIfTI-2 image whose samples are still on disk.

    Raises
    ------
    InputError
        If the file is missing, unreadable or not NIfTI.
    """
    _check_readable(path)
    try:
        image = nib.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: not a NIfTI file, or damaged: {error}") from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path}: {type(image).__name__}, expected NIfTI (.nii or .nii.gz)")
    return image


def _check_readable(path: Path) -> None:
    # nibabel reports a file it may not read like one it does not know.
    try:
        path.open("rb").close()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read this file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def read_volume(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """A real volume ``(x, y, z)`` or ``(x, y, z, class)`` and its grid.

    Raises
    ------
    InputError
        If the file is not NIfTI, truncated, complex or not of 3 or 4 dimensions.
    """
    image = load_image(path)
    if image.get_data_dtype().kind not in "iuf":
        raise InputError(f"{path}: holds {image.get_data_dtype()} data, expected real numbers")
    try:
        values = image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: truncated or damaged: {error}; copy the file again") from error
    values = values.reshape(values.shape + (1,) * (3 - values.ndim))
    values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    if values.ndim not in (3, 4):
        raise InputError(f"{path}: has {values.ndim} dimensions {values.shape}, expected 3 or 4")
    return values, Grid(values.shape[:3], np.asarray(image.affine, dtype=np.float64))


def read_mask(path: Path, grid: Grid) -> NDArray[np.bool_]:
    """A mask ``(x, y, z)`` on the scan's grid: voxels that are not zero.

    Raises
    ------
    InputError
        If it lies on another grid, has a fourth dimension or selects no voxel.
    """
    values, own = read_volume(path)
    check_grid(path, own, grid, "give a mask on the scan's grid")
    if values.ndim != 3:
        raise InputError(f"{path}: a mask has 3 dimensions, this has shape {values.shape}")
    mask = np.nan_to_num(values) != 0
    if not mask.any():
        raise InputError(f"{path}: the mask selects no voxel; every value is zero or NaN")
    return mask


def check_grid(path: Path, own: Grid, scan: Grid, remedy: str) -> None:
    """Refuse a volume on another grid than the scan's.

    Raises
    ------
    InputError
        Names the file, the difference and the remedy.
    """
    difference = scan.difference(own)
    if difference is not None:
        raise InputError(f"{path}: not on the scan's grid: {difference}; {remedy}")


def check_placed(path: Path, own: Grid, scan: Grid, what: str) -> None:
    """Refuse a volume that cannot be brought onto the scan's grid by the affines.

    Raises
    ------
    InputError
        If one of the two states no position or an affine has no inverse.
    """
    remedy = f"give {what} on the scan's grid, or files that state their position"
    if not (own.has_position and scan.has_position):
        check_grid(path, own, scan, remedy)
    for grid, whose in ((own, "its"), (scan, "the scan's")):
        directions = grid.affine[:3, :3] / grid.voxel_edges
        if not np.isfinite(grid.affine).all() or abs(np.linalg.det(directions)) < _LEAST_VOLUME:
            raise InputError(
                f"{path}: not on the scan's grid, and {whose} affine {grid.affine.tolist()} places "
                f"no volume in space; {remedy}"
            )
