"""Tissue fractions that come with a scan, brought onto its grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.companions import CompanionFiles
from mrsi_engine.errors import InputError
from mrsi_engine.io.places import place
from mrsi_engine.io.resampling import Resampling, resampled
from mrsi_engine.io.volumes import Grid, check_placed, read_volume

_FRACTION_TOLERANCE = 0.01

# Sums of a voxel's fractions beyond which classes count twice or are missing, and the share of
# voxels that may be so at the rim of a registered segmentation.
_MOST_SUM, _LEAST_SUM, _FEW = 1.05, 0.9, 0.05


@dataclass(frozen=True, eq=False)
class Fractions:
    """Tissue of the voxels of a scan.

    Parameters
    ----------
    classes
        Names of the tissues.
    values
        ``(x, y, z, class)`` float32, NaN where the files do not reach.
    notes
        How they came onto the scan's grid, if they were on another.
    """

    classes: tuple[str, ...]
    values: NDArray[np.float32]
    notes: tuple[str, ...]


def read_tissue(
    tissue: CompanionFiles,
    classes: Sequence[str],
    grid: Grid,
    voxels: NDArray[np.intp] | None = None,
) -> Fractions:
    """Fractions of tissue on the scan's grid.

    Files on another grid are resampled by the affines
    (:class:`~mrsi_engine.io.resampling.Resampling`).

    Parameters
    ----------
    tissue
        A 4-D NIfTI whose last dimension ``classes`` names, or one 3-D file a class.
    voxels
        Of the scan, in file order, that are wanted; the others may be left NaN. All by default.

    Raises
    ------
    InputError
        If a file cannot be placed on the scan's grid or does not reach any wanted voxel, names and
        classes do not match, a name stands twice, a value is no fraction, or fractions of a voxel
        are more than the whole.
    """
    wanted = np.arange(np.prod(grid.shape)) if voxels is None else voxels
    if isinstance(tissue, Mapping):
        volumes = [_read_fraction(place(path), grid, wanted) for path in tissue.values()]
        values = np.concatenate([values for values, _ in volumes], axis=-1)
        where = ", ".join(map(str, tissue.values()))
        notes = (*(n for _, n in volumes if n), *_sums(where, values, wanted))
        return Fractions(tuple(tissue), values, tuple(dict.fromkeys(notes)))
    path = place(tissue)
    values, note = _read_fraction(path, grid, wanted)
    if values.shape[3] != len(classes):
        raise InputError(
            f"{path}: holds {values.shape[3]} tissue classes but {len(classes)} names were given "
            f"({', '.join(classes) or 'none'}); name each class in the file's order"
        )
    if len(set(classes)) < len(classes):
        raise InputError(f"{path}: tissue classes {', '.join(classes)}: a name stands twice")
    notes = (*((note,) if note else ()), *_sums(str(path), values, wanted))
    return Fractions(tuple(classes), values, notes)


def _sums(where: str, values: NDArray[np.float32], voxels: NDArray[np.intp]) -> Iterator[str]:
    """What is to be said of the sums of fractions ``(x, y, z, class)`` in the wanted voxels."""
    sums = values.reshape(-1, values.shape[3], order="F")[voxels].sum(1)
    known = sums[np.isfinite(sums)]
    over, under = int((known > _MOST_SUM).sum()), int((known < _LEAST_SUM).sum())
    if over > _FEW * known.size:
        raise InputError(
            f"{where}: tissue fractions of a voxel sum to up to {known.max():.3g}, to more than 1 "
            f"in {over} of {known.size} voxels; give classes that do not overlap"
        )
    if over:
        yield f"tissue fractions sum to up to {known.max():.3g} in {over} voxels"
    if under > _FEW * known.size:
        yield (
            f"tissue fractions sum to less than {_LEAST_SUM:g} in {under} of {known.size} voxels: "
            "what is missing counts as neither water nor metabolites"
        )
    if known.size < sums.size:
        yield f"tissue fractions are not known in {sums.size - known.size} of {sums.size} voxels"


def _read_fraction(
    path: Path, grid: Grid, voxels: NDArray[np.intp]
) -> tuple[NDArray[np.float32], str]:
    values, own = read_volume(path)
    low, high = float(np.nanmin(values, initial=0)), float(np.nanmax(values, initial=0))
    if low < -_FRACTION_TOLERANCE or high > 1 + _FRACTION_TOLERANCE:
        raise InputError(
            f"{path}: values from {low:g} to {high:g}, expected fractions of 0 to 1 "
            "(divide percent by 100)"
        )
    values = values if values.ndim == 4 else values[..., np.newaxis]
    if grid.difference(own) is None:
        return values, ""
    check_placed(path, own, grid, "tissue fractions")
    found, said = on_grid(path, values, own, grid, voxels)
    return found, f"tissue fractions {said}"


def on_grid(
    path: Path,
    values: NDArray[np.float32],
    own: Grid,
    grid: Grid,
    voxels: NDArray[np.intp],
) -> tuple[NDArray[np.float32], str]:
    """Values ``(x, y, z, class)`` brought from their own grid onto the scan's, and how.

    Those of the wanted ``voxels`` (in file order) only, NaN elsewhere and where they do not reach.

    Raises
    ------
    InputError
        If they reach none of these voxels.
    """
    resampling = Resampling(own, grid)
    shape, classes = resampling.target.shape, values.shape[3]
    source = values.reshape(-1, classes, order="F")
    known = np.asarray(np.isfinite(source).all(axis=1))
    parts = [
        resampled(resampling.weights(group), source, known, np.nan)
        for group in resampling.groups(voxels)
    ]
    found = np.concatenate(parts)
    if np.isnan(found).all():
        raise InputError(
            f"{path}: reaches none of the scan's voxels; check that it was registered to the scan"
        )
    out = np.full((int(np.prod(shape)), classes), np.nan, np.float32)
    out[voxels] = found
    return out.reshape(*shape, classes, order="F"), resampling.description
