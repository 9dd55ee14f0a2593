"""From one grid to another by the affines: water references and tissue fractions.

Where the source's voxels are as large as the target's or larger (a water reference of 22 x 22 x 13
voxels for a scan of 44 x 44 x 25), a target voxel gets what trilinear interpolation gives at its
centre. Where they are smaller (tissue fractions of 1 mm), it gets the mean over its own box. At the
rim of the source, where interpolation lacks a neighbour, the neighbours there are count alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from mrsi_engine.io.volumes import Grid

#: Least share of a target voxel's weights that must be on known source voxels.
LEAST_KNOWN = 0.5

# Source voxels of up to this share of the target's edge are interpolated, smaller ones averaged.
_AVERAGED_FROM = 1.5
# Places inside a target voxel along an axis: two a source voxel, within reason.
_PLACES_A_VOXEL, _MOST_PLACES = 2, 16
# Weights made at a time.
_AT_ONCE = 500_000


@dataclass(frozen=True, eq=False)
class Resampling:
    """How the voxels of ``target`` are made of those of ``source``.

    Voxels are counted in file order: x runs fastest, then y, then z.
    """

    source: Grid
    target: Grid

    @property
    def averages(self) -> bool:
        """Whether target voxels are means over their box, not interpolated at their centre."""
        return bool(self._steps.max() > _AVERAGED_FROM)

    @property
    def description(self) -> str:
        """What was done, for whoever reads the results."""
        grids = (
            f"from {' x '.join(map(str, self.source.shape))} to "
            f"{' x '.join(map(str, self.target.shape))} voxels by the affines"
        )
        how = "averaged over each voxel's box" if self.averages else "trilinearly interpolated"
        return f"{how} {grids}"

    @property
    def reduction(self) -> int:
        """Source voxels a target voxel, at least 1."""
        return max(1, round(float(np.prod(self._steps))))

    def weights(self, voxels: NDArray[np.intp]) -> csr_array:
        """Shares ``(voxel, source voxel)`` of target voxels; rows sum to at most 1.

        What lies outside the source has no share.
        """
        return csr_array(vstack([self._of(group) for group in self.groups(voxels)], format="csr"))

    def groups(self, voxels: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """The voxels in groups whose weights take little memory."""
        entries = len(self._places) * (1 if self.averages else 8)
        size = max(1, _AT_ONCE // entries)
        return [voxels[start : start + size] for start in range(0, len(voxels), size)]

    def needed(self, voxels: NDArray[np.intp]) -> NDArray[np.intp]:
        """Source voxels that have a share in these target voxels, ascending."""
        found = np.zeros(self._sources, bool)
        for group in self.groups(voxels):
            found[self._of(group).indices] = True
        return np.flatnonzero(found)

    @property
    def _sources(self) -> int:
        return int(np.prod(self.source.shape))

    @cached_property
    def _to_source(self) -> NDArray[np.float64]:
        """Voxel index of the target to that of the source, ``(4, 4)``."""
        return np.asarray(np.linalg.solve(self.source.affine, self.target.affine))

    @property
    def _steps(self) -> NDArray[np.float64]:
        """Length of a target voxel's edges in source voxels, ``(3,)``."""
        return np.asarray(np.linalg.norm(self._to_source[:3, :3], axis=0))

    @cached_property
    def _places(self) -> NDArray[np.float64]:
        """Where a target voxel is looked at, ``(place, 3)`` in its own edges from its centre."""
        if not self.averages:
            return np.zeros((1, 3))
        counts = np.clip(np.ceil(_PLACES_A_VOXEL * self._steps), 1, _MOST_PLACES).astype(int)
        axes = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
        return np.array(list(product(*axes)))

    def _of(self, voxels: NDArray[np.intp]) -> csr_array:
        index = np.stack(np.unravel_index(voxels, self.target.shape, order="F"), axis=1)
        turn = self._to_source[:3, :3].T
        centres = index @ turn + self._to_source[:3, 3]
        at = (centres[:, None] + self._places @ turn).reshape(-1, 3)
        limits = np.array(self.source.shape)
        inside = ((at >= -0.5) & (at <= limits - 0.5)).all(1) / len(self._places)
        strides = np.cumprod([1, *limits[:2]])
        near = list(self._neighbours(at))
        columns = np.stack([np.clip(to, 0, limits - 1) @ strides for to, _ in near], axis=1)
        # Sums of thousands of equal shares need more digits than those of eight, and are of less.
        kind = np.float64 if self.averages else np.float32
        shares = np.stack([(share * inside).astype(kind) for _, share in near], axis=1)
        # Every target voxel has as many entries, so their order is the format already.
        starts = np.arange(len(voxels) + 1) * (columns.size // len(voxels))
        table = csr_array((shares.ravel(), columns.ravel(), starts), (len(voxels), self._sources))
        table.eliminate_zeros()
        return table

    def _neighbours(
        self, at: NDArray[np.float64]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Source voxels ``(place, 3)`` at or around places, and their shares."""
        if self.averages:
            yield np.rint(at).astype(np.intp), np.ones(len(at))
            return
        low = np.floor(at).astype(np.intp)
        part = at - low
        for corner in product((0, 1), repeat=3):
            yield low + corner, np.where(corner, part, 1 - part).prod(1)


def resampled(
    weights: csr_array, values: NDArray[np.inexact], known: NDArray[np.bool_], missing: complex
) -> NDArray[np.inexact]:
    """``values (source voxel, ...)`` on the target; ``missing`` where too little of it is known.

    Parameters
    ----------
    weights
        Of :meth:`Resampling.weights`, its columns those of ``values``.
    known
        Source voxels that count; the shares of the others fall to their neighbours.
    missing
        For target voxels of which less than :data:`LEAST_KNOWN` is known.
    """
    total = weights @ known.astype(weights.dtype)
    enough = total >= LEAST_KNOWN
    flat = values.reshape(len(values), -1)
    if not known.all():
        flat = np.where(known[:, None], flat, 0).astype(values.dtype)
    out = (weights @ flat) / np.where(enough, total, 1)[:, None]
    out[~enough] = missing
    return np.asarray(out.astype(values.dtype).reshape(len(out), *values.shape[1:]))
