"""The files of an import, checked against each other before a sample is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import COIL
from mrsi_engine.errors import InputError
from mrsi_engine.io.dimensions import supported_dimensions
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader, read_header
from mrsi_engine.io.resampling import Resampling
from mrsi_engine.io.tissue import Fractions, Tissue, read_tissue
from mrsi_engine.io.volumes import check_placed, read_mask

# Relative difference within which two files are believed to state the same number.
_SAME = 1e-4

# Parts of a dwell time by which the water may begin later than the scan.
_SAME_START = 1e-2


@dataclass(frozen=True)
class Request:
    """What to import, as the caller said it."""

    scan: Path
    mask: Path | None
    water: Path | None
    tissue: Tissue | None
    tissue_classes: tuple[str, ...]
    scalp: Path | None
    chunk: int
    points: int | None
    keep_personal: bool = False

    @property
    def tissue_files(self) -> Mapping[str, Path]:
        """Files of tissue fractions, by class where each has its own."""
        if self.tissue is None:
            return {}
        files = self.tissue if isinstance(self.tissue, Mapping) else {"": self.tissue}
        return {name: Path(file) for name, file in files.items()}


@dataclass(frozen=True, eq=False)
class Inputs:
    """What was found in the files before a sample is read.

    ``keep`` are voxels in file order, ``scalp`` says of every voxel of the volume whether it is
    kept as scalp, ``resampling`` how the scan's voxels are made of the water's if those differ,
    ``points`` how many samples of a FID are wanted, ``notes`` what had to be assumed.
    """

    scan: NIfTIMRSHeader
    water: NIfTIMRSHeader | None
    resampling: Resampling | None
    keep: NDArray[np.intp] | None
    tissue: Fractions | None
    scalp: NDArray[np.bool_] | None
    points: int
    notes: tuple[str, ...]

    @property
    def headers(self) -> list[NIfTIMRSHeader]:
        """Of the scan and of its water reference, if there is one."""
        return [self.scan] if self.water is None else [self.scan, self.water]


def find_inputs(request: Request) -> Inputs:
    """What an import is made of.

    Raises
    ------
    InputError
        If a file is missing or damaged, or does not fit the scan.
    """
    scan = read_header(request.scan)
    supported_dimensions(scan.path, scan.higher_dimensions)
    mask, notes = None, list(scan.notes)
    if request.mask is not None:
        volume, said = read_mask(request.mask, scan.grid)
        mask, notes = in_file_order(volume), [*notes, *said]
    scalp = None if request.scalp is None else _scalp(request.scalp, scan, mask)
    keep = None if mask is None else np.flatnonzero(mask if scalp is None else mask | scalp)
    points = _wanted_points(scan, request.points)
    water = None if request.water is None else _matching_water(request.water, scan)
    notes += _suppression_notes(scan, water)
    tissue = None
    if request.tissue is not None:
        tissue = read_tissue(request.tissue, request.tissue_classes, scan.grid, keep)
        notes += tissue.notes
    resampling = None if water is None else _water_resampling(water, scan, keep)
    if resampling is not None:
        notes.append(
            f"water reference {resampling.description}; its amplitudes are taken to be on the "
            "scan's scale whatever the size of its voxels"
        )
    return Inputs(scan, water, resampling, keep, tissue, scalp, points, tuple(notes))


def water_dimensions(water: NIfTIMRSHeader, scan: NIfTIMRSHeader) -> dict[str, int]:
    """Lengths of the scan's dimensions in its water reference, 1 for transients averaged before.

    Raises
    ------
    InputError
        If they are not dimensions of the scan, or the coils are others.
    """
    own, expected = water.dimensions, scan.dimensions
    strange = [name for name in own if name not in expected]
    if strange or own.get(COIL) != expected.get(COIL):
        raise InputError(
            f"{water.path}: water reference with dimensions {own or 'none'} between voxel and "
            f"time, the scan has {expected or 'none'}; give a reference of the same coils, with "
            "transients only if the scan has them"
        )
    return {name: own.get(name, 1) for name in expected}


def in_file_order(volume: NDArray[Any]) -> NDArray[Any]:
    """``(x, y, z, ...)`` as rows with x fastest."""
    return volume.reshape(-1, *volume.shape[3:], order="F")


def check_starts(water: NIfTIMRSHeader, own: float, scan: float) -> None:
    """Refuse a water reference whose first sample comes later than the scan's.

    Raises
    ------
    InputError
        Names both times (s from time zero).
    """
    if own - scan > _SAME_START * water.acquisition.dwell_time:
        raise InputError(
            f"{water.path}: the water reference begins {1e3 * own:.4g} ms after time zero, the "
            f"scan {1e3 * scan:.4g} ms; give a reference that begins with the scan or before it, "
            "or correct AcquisitionStartTime"
        )


def _wanted_points(scan: NIfTIMRSHeader, points: int | None) -> int:
    available = scan.acquisition.points
    if points is None:
        return available
    if not 2 <= points <= available:
        raise InputError(
            f"{scan.path}: {points} points wanted, expected 2 to {available}, which is what the "
            "file holds"
        )
    return points


def _scalp(path: Path, scan: NIfTIMRSHeader, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Scalp outside the mask, ``(x*y*z,)`` with x fastest."""
    scalp = in_file_order(read_mask(path, scan.grid)[0])
    outside = scalp if mask is None else scalp & ~mask
    if not outside.any():
        raise InputError(
            f"{path}: every scalp voxel lies in the mask too, where voxels are quantified; give a "
            "scalp mask that reaches beyond the brain mask"
        )
    return np.asarray(outside)


def _matching_water(path: Path, scan: NIfTIMRSHeader) -> NIfTIMRSHeader:
    water = read_header(path)
    water_dimensions(water, scan)
    own, expected = water.acquisition, scan.acquisition
    for name, unit in (("dwell_time", "s"), ("spectrometer_frequency", "MHz")):
        values = getattr(own, name), getattr(expected, name)
        if not math.isclose(*values, rel_tol=_SAME):
            raise InputError(
                f"{path}: water reference with {name} {values[0]:g} {unit}, the scan has "
                f"{values[1]:g} {unit}; give a water reference acquired like the scan"
            )
    check_starts(water, own.start_time, expected.start_time)
    if own.nucleus != expected.nucleus:
        raise InputError(
            f"{path}: water reference of {own.nucleus}, the scan is of {expected.nucleus}"
        )
    return water


def _suppression_notes(scan: NIfTIMRSHeader, water: NIfTIMRSHeader | None) -> list[str]:
    """Whether one of the two files says that it is the other."""
    found = []
    if scan.extension.get("WaterSuppressed") is False:
        found.append("the scan states WaterSuppressed: false; is it a water reference?")
    if water is not None and water.extension.get("WaterSuppressed") is True:
        found.append("the water reference states WaterSuppressed: true; is it the right file?")
    return found


def _water_resampling(
    water: NIfTIMRSHeader, scan: NIfTIMRSHeader, keep: NDArray[np.intp] | None
) -> Resampling | None:
    """How to bring the water onto the scan's grid; ``None`` if it is there."""
    if scan.grid.difference(water.grid) is None:
        return None
    check_placed(water.path, water.grid, scan.grid, "a water reference")
    resampling = Resampling(water.grid, scan.grid)
    everything = np.arange(math.prod(scan.grid.shape))
    if not resampling.needed(everything if keep is None else keep).size:
        raise InputError(
            f"{water.path}: the water reference reaches none of the scan's voxels (its centre is "
            f"at {water.grid.centre} mm, the scan's at {scan.grid.centre} mm); give the one of "
            "this scan, or correct its affine"
        )
    return resampling
