"""Plain NIfTI volumes that come with a scan, masks first of all, and the grids they lie on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.input_files import check_input_file
from mrsi_engine.io.bounds import check_announced_volume, check_beginning
from mrsi_engine.io.images import image_at

#: A mask of fractions counts a voxel from here on.
MASK_THRESHOLD = 0.5

# How far a value may lie from a whole number and be one, and the largest that is still a label.
_WHOLE, _LARGEST_LABEL = 1e-3, 10.0

#: How far (in the smallest voxel edge) corners of two volumes may lie apart on one grid.
GRID_TOLERANCE = 0.05

# How far (in the smallest voxel edge) corners by qform and sform may lie apart and be the same.
_SHEAR = 0.01

# Volume of a voxel over the product of its edges below which its axes lie in a plane.
_LEAST_VOLUME = 1e-6

# spec2nii and the NIfTI-MRS examples write voxels of 10 m where the source states no position.
_NO_POSITION_MM = 1e4


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume are: ``shape`` (x, y, z) and ``affine`` (4, 4) in mm.

    ``code`` is that of the sform or qform the affine came from: which space its coordinates are of
    (1 scanner, 2 aligned, ...). With 0 the file says nothing of position.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    code: int = 1

    @property
    def voxel_edges(self) -> NDArray[np.float64]:
        """Voxel size along x, y, z, mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def has_position(self) -> bool:
        """Whether the file says where the volume is: voxels of 10 m stand for "unknown", too."""
        return self.code > 0 and not self.voxel_edges.min() >= _NO_POSITION_MM

    @property
    def spans_space(self) -> bool:
        """Whether the affine is a finite one whose axes do not lie in a plane."""
        edges = self.voxel_edges
        if not np.isfinite(self.affine).all() or (edges == 0).any():
            return False
        return bool(abs(np.linalg.det(self.affine[:3, :3] / edges)) >= _LEAST_VOLUME)

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

        Corners must agree within :data:`GRID_TOLERANCE` of the smallest voxel edge. Where one of
        the two states no position they are compared by shape alone.
        """
        if self.shape != other.shape:
            return f"its shape is {other.shape}, the scan's is {self.shape}"
        distance, edge = self.distance(other), float(self.voxel_edges.min())
        placed = self.has_position and other.has_position
        if placed and not distance <= GRID_TOLERANCE * edge:
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
    check_input_file(path)
    # By the name nibabel would unpack other things, too: some hold a million times their size.
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(f"{path}: expected NIfTI, a file that ends in .nii or .nii.gz")
    check_beginning(path)
    try:
        image = image_at(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: not a NIfTI file, or damaged: {error}") from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path}: {type(image).__name__}, expected NIfTI (.nii or .nii.gz)")
    return image


def grid_of(image: Any) -> tuple[Grid, list[str]]:
    """The grid of a NIfTI image, and what is to be said of it.

    The affine is the sform where its code is above 0, else the qform.
    """
    codes = int(image.header["sform_code"]), int(image.header["qform_code"])
    code = codes[0] or codes[1]
    shape = (*image.shape, 1, 1, 1)[:3]
    grid = Grid(shape, np.asarray(image.affine, dtype=np.float64), code)
    if not grid.has_position:
        why = "voxels of 10 m" if code else "sform and qform codes are 0"
        said = f"{why}: the file states no position, files are matched by shape and maps claim none"
        return grid, [said]
    if all(codes):
        qform = Grid(grid.shape, np.asarray(image.get_qform(), dtype=np.float64))
        apart = grid.distance(qform)
        if not apart <= GRID_TOLERANCE * float(grid.voxel_edges.min()):
            return grid, [f"sform and qform lie up to {apart:.3g} mm apart: the sform is used"]
    return grid, []


def set_position(image: Any, affine: NDArray[np.float64], code: int) -> None:
    """Say in a NIfTI image where its voxels are.

    A qform cannot hold shear: its code is 0 where it would say another place than the sform. With
    ``code`` 0 nothing is claimed.
    """
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code, strip_shears=True)
    grid = Grid(tuple(image.shape[:3]), affine)
    apart = grid.distance(Grid(grid.shape, image.get_qform()))
    if not apart <= _SHEAR * float(grid.voxel_edges.min()):
        image.header["qform_code"] = 0


def read_volume(path: Path) -> tuple[NDArray[np.float32], Grid]:
    """A real volume ``(x, y, z)`` or ``(x, y, z, class)`` and its grid.

    Raises
    ------
    InputError
        If the file is not NIfTI, truncated, complex or not of 3 or 4 dimensions.
    """
    image, shape, grid = _open_volume(path)
    return _values(path, image, shape), grid


def _values(path: Path, image: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        values = image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise InputError(f"{path}: truncated or damaged: {error}; copy the file again") from error
    return values.reshape(shape)


def volume_shape(path: Path) -> tuple[tuple[int, ...], Grid]:
    """What :func:`read_volume` would return the shape and grid of; no value is read.

    Raises
    ------
    InputError
        If the file is not NIfTI, complex or not of 3 or 4 dimensions.
    """
    return _open_volume(path)[1:]


def _open_volume(path: Path) -> tuple[Any, tuple[int, ...], Grid]:
    """A real image whose values are still on disk, their shape and their grid."""
    image = load_image(path)
    stored = image.get_data_dtype()
    if stored.kind not in "iuf":
        raise InputError(f"{path}: holds {stored} data, expected real numbers")
    check_announced_volume(path, image.shape, stored.itemsize, int(image.dataobj.offset))
    shape = tuple(image.shape) + (1,) * (3 - len(image.shape))
    if len(shape) not in (3, 4):
        raise InputError(f"{path}: has {len(shape)} dimensions {shape}, expected 3 or 4")
    shape = shape[:3] if shape[3:] == (1,) else shape
    return image, shape, replace(grid_of(image)[0], shape=(shape[0], shape[1], shape[2]))


def read_mask(path: Path, grid: Grid) -> tuple[NDArray[np.bool_], list[str]]:
    """A mask ``(x, y, z)`` on the scan's grid, and what is to be said of it.

    Of whole numbers (0 and 1, 0 and 255, labels) those above 0 count. Where values lie between them
    (a resampled mask, a probability) a voxel counts from :data:`MASK_THRESHOLD` on, times the
    largest value where that is no fraction and no label either (percents, 255).

    Raises
    ------
    InputError
        If it lies on another grid, has a fourth dimension or selects no voxel.
    """
    image, shape, own = _open_volume(path)
    # A mask on another grid is refused before it is read, be it ever so large.
    check_grid(path, own, grid, "give a mask on the scan's grid")
    if len(shape) != 3:
        raise InputError(f"{path}: a mask has 3 dimensions, this has shape {shape}")
    values = np.nan_to_num(_values(path, image, shape))
    fractions = bool((np.abs(values - values.round()) > _WHOLE).any())
    largest = float(values.max())
    threshold = MASK_THRESHOLD * (largest if largest > _LARGEST_LABEL else 1.0)
    mask = values >= threshold if fractions else values > _WHOLE
    if not mask.any():
        found = f"none reaches {threshold:g} (the largest is {largest:g}): scale or threshold it"
        why = f"of its fractions {found}" if fractions else "no value is above zero"
        raise InputError(f"{path}: the mask selects no voxel; {why}")
    notes = []
    if fractions:
        notes.append(
            f"mask of fractions: {int(mask.sum())} voxels of {threshold:g} and more count, "
            f"{int(((values > 0) & ~mask).sum())} below do not"
        )
    if grid.has_position and not own.has_position:
        notes.append("the mask states no position and was matched by shape alone")
    return mask, notes


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
        if not grid.spans_space:
            raise InputError(
                f"{path}: not on the scan's grid, and {whose} affine {grid.affine.tolist()} places "
                f"no volume in space; {remedy}"
            )
