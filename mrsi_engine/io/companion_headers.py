"""Whether what comes with a scan fits it, as far as headers say: asked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrsi_engine.companions import Companion, CompanionFiles, Kind, companions
from mrsi_engine.errors import InputError
from mrsi_engine.io.import_inputs import matching_signal
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader
from mrsi_engine.io.places import place
from mrsi_engine.io.volumes import check_grid, check_placed, volume_shape


def companion_headers(
    scan: NIfTIMRSHeader,
    files: Mapping[str, CompanionFiles],
    classes: Sequence[str] = (),
    stated: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, NIfTIMRSHeader]:
    """Headers of the signals that come with a scan, once all its companions fit it.

    Parameters
    ----------
    scan
        Its header.
    files
        What comes with it, by the names of :mod:`mrsi_engine.companions`.
    classes
        What the last dimension of a 4-D tissue file holds.
    stated
        Fields said of companions beside their files, by name.

    Raises
    ------
    InputError
        If a file is missing, damaged or not of its kind, lies on another grid than it may, or holds
        other classes.
    """
    signals = {}
    for row in companions():
        given = files.get(row.name)
        if given is None:
            continue
        by_class = given if isinstance(given, Mapping) else {}
        if by_class and row.kind is not Kind.FRACTIONS:
            raise InputError(f"{row.name}: expected one file, {len(by_class)} were given")
        paths = [place(path) for path in by_class.values()] or [place(str(given))]
        if row.kind is Kind.SIGNAL:
            header = matching_signal(paths[0], scan, (stated or {}).get(row.name))
            signals[row.name] = header
            if scan.grid.difference(header.grid) is not None:
                check_placed(header.path, header.grid, scan.grid, f"a {row.name} reference")
        else:
            for path in paths:
                _check_volume(path, row, scan, 1 if by_class else len(classes))
    return signals


def _check_volume(path: Path, row: Companion, scan: NIfTIMRSHeader, classes: int) -> None:
    shape, grid = volume_shape(path)
    found = shape[3] if len(shape) == 4 else 1
    if row.kind is Kind.FRACTIONS and found != classes:
        raise InputError(
            f"{path}: holds {found} tissue classes but {classes} names were given; name each class "
            "in the file's order"
        )
    if row.kind is not Kind.FRACTIONS and found != 1:
        raise InputError(f"{path}: {row.name} has 3 dimensions, this has shape {shape}")
    if not row.resampled:
        check_grid(path, grid, scan.grid, "give a mask on the scan's grid")
    elif scan.grid.difference(grid) is not None:
        check_placed(path, grid, scan.grid, f"{row.name} values")
