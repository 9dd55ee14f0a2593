"""The files of an import, checked against each other before a sample is read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.companions import Companion, CompanionFiles, Kind, companions
from mrsi_engine.dimensions import COIL
from mrsi_engine.errors import InputError
from mrsi_engine.io.companion_files import Volume, read_companion
from mrsi_engine.io.dimensions import supported_dimensions
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader, read_header
from mrsi_engine.io.places import place
from mrsi_engine.io.resampling import Resampling
from mrsi_engine.io.volumes import check_placed, read_mask

# Relative difference within which two files are believed to state the same number.
_SAME = 1e-4

# Parts of a dwell time by which the water may begin later than the scan.
_SAME_START = 1e-2


@dataclass(frozen=True)
class Request:
    """What to import, as the caller said it.

    ``files`` are those of each companion by its name, ``classes`` what the last dimension of a
    4-D file holds, ``stated`` fields of NIfTI-MRS that are said of ``scan`` or a companion (by its
    name) beside its file.
    """

    scan: Path
    files: Mapping[str, CompanionFiles]
    classes: tuple[str, ...]
    chunk: int
    points: int | None
    keep_personal: bool = False
    stated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of_kind(self, *kinds: Kind) -> Iterator[tuple[Companion, CompanionFiles]]:
        """Rows of the table that files were given of, and these files."""
        for row in companions(*kinds):
            if row.name in self.files:
                yield row, self.files[row.name]

    def paths(self, name: str) -> dict[str, Path]:
        """Files of a companion, by class where each has its own."""
        files = self.files[name]
        listed = files if isinstance(files, Mapping) else {"": files}
        return {key: place(file) for key, file in listed.items()}

    def path(self, name: str) -> Path:
        """The one file of a companion.

        Raises
        ------
        InputError
            If there are several.
        """
        found = self.paths(name)
        if list(found) != [""]:
            raise InputError(f"{name}: expected one file, {len(found)} were given")
        return found[""]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What was found in the files before a sample is read.

    ``signals`` and ``volumes`` are what came with the scan by name, ``resamplings`` how the scan's
    voxels are made of a signal's where those differ. ``keep`` are voxels in file order, ``marked``
    says of every voxel of the volume whether it is kept as one that is not quantified, ``points``
    how many samples of a FID are wanted, ``notes`` what had to be assumed.
    """

    scan: NIfTIMRSHeader
    signals: Mapping[str, NIfTIMRSHeader]
    resamplings: Mapping[str, Resampling]
    volumes: Mapping[str, Volume]
    keep: NDArray[np.intp] | None
    marked: NDArray[np.bool_] | None
    points: int
    notes: tuple[str, ...]

    @property
    def headers(self) -> list[NIfTIMRSHeader]:
        """Of the scan and of the signals that came with it."""
        return [self.scan, *self.signals.values()]

    def name_of(self, header: NIfTIMRSHeader) -> str:
        """Name of the companion that a header is of; empty for the scan's own."""
        return next((name for name, own in self.signals.items() if own is header), "")


def find_inputs(request: Request) -> Inputs:
    """What an import is made of.

    Raises
    ------
    InputError
        If a file is missing or damaged, or does not fit the scan.
    """
    scan = read_header(request.scan, request.stated.get("scan"))
    supported_dimensions(scan.path, scan.higher_dimensions)
    mask, notes = None, list(scan.notes)
    for row, _ in request.of_kind(Kind.SELECTION):
        volume, said = read_mask(request.path(row.name), scan.grid)
        mask, notes = in_file_order(volume), [*notes, *said]
    volumes, marked = {}, None
    for row, files in request.of_kind(Kind.MARKS):
        volumes[row.name] = read_companion(row, files, (), scan.grid, None)
        outside = _outside(request.path(row.name), row, volumes[row.name], mask)
        marked = outside if marked is None else marked | outside
    keep = None if mask is None else np.flatnonzero(mask if marked is None else mask | marked)
    signals = {
        row.name: matching_signal(request.path(row.name), scan, request.stated.get(row.name))
        for row, _ in request.of_kind(Kind.SIGNAL)
    }
    for row, files in request.of_kind(Kind.FRACTIONS, Kind.MAP):
        volumes[row.name] = read_companion(row, files, request.classes, scan.grid, keep)
    found = {name: _resampling(header, scan, keep) for name, header in signals.items()}
    resamplings = {name: one for name, one in found.items() if one is not None}
    return Inputs(
        scan=scan,
        signals=signals,
        resamplings=resamplings,
        volumes=volumes,
        keep=keep,
        marked=marked,
        points=_wanted_points(scan, request.points),
        notes=(*notes, *_notes(scan, signals, resamplings, volumes)),
    )


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


def _outside(
    path: Path, row: Companion, volume: Volume, mask: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Marked voxels outside the mask, ``(x*y*z,)`` with x fastest."""
    marked = in_file_order(volume.values)
    outside = marked if mask is None else marked & ~mask
    if not outside.any():
        raise InputError(
            f"{path}: every {row.name} voxel lies in the mask too, where voxels are quantified; "
            f"give a {row.name} mask that reaches beyond the brain mask"
        )
    return np.asarray(outside)


def matching_signal(
    path: Path, scan: NIfTIMRSHeader, stated: Mapping[str, Any] | None = None
) -> NIfTIMRSHeader:
    """The header of a signal that comes with a scan, once it is known to be acquired like it.

    Raises
    ------
    InputError
        If it is not.
    """
    water = read_header(path, stated)
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


def _notes(
    scan: NIfTIMRSHeader,
    signals: Mapping[str, NIfTIMRSHeader],
    resamplings: Mapping[str, Resampling],
    volumes: Mapping[str, Volume],
) -> Iterator[str]:
    """What is to be said of what came with a scan."""
    if scan.extension.get("WaterSuppressed") is False:
        yield "the scan states WaterSuppressed: false; is it a water reference?"
    for name, header in signals.items():
        if header.extension.get("WaterSuppressed") is True:
            yield f"the {name} reference states WaterSuppressed: true; is it the right file?"
        if scan.grid.has_position and not header.grid.has_position:
            yield f"the {name} reference states no position and was matched by shape alone"
        if header.acquisition.echo_time == 0 and scan.acquisition.echo_time:
            yield f"the {name} reference states an EchoTime of 0 s, which is taken as it is"
    for volume in volumes.values():
        yield from volume.notes
    for name, resampling in resamplings.items():
        yield (
            f"{name} reference {resampling.description}; its amplitudes are taken to be on the "
            "scan's scale whatever the size of its voxels"
        )


def _resampling(
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
