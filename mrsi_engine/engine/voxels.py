"""Voxels as they are read from a scan, and as the stages take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.conventions import WHITE, ScanNoise
from mrsi_engine.engine.devices import rows_to_device
from mrsi_engine.pipeline.stage import Block


@dataclass(frozen=True)
class ScanLayout:
    """What a scan holds beside its axis.

    Parameters
    ----------
    dimensions
        Name and length of the FIDs' dimensions between voxel and time.
    water, scalp
        Whether it has a water reference, and voxels marked as scalp.
    tissue_classes
        Names of its tissue fractions.
    water_echo_time, water_repetition_time
        Of the water reference, s.
    noise
        What is known of the noise.
    """

    dimensions: tuple[tuple[str, int], ...] = ()
    water: bool = False
    scalp: bool = False
    tissue_classes: tuple[str, ...] = ()
    water_echo_time: float | None = None
    water_repetition_time: float | None = None
    noise: ScanNoise = WHITE


#: One FID a voxel and nothing beside it.
PLAIN = ScanLayout()


@dataclass(frozen=True, eq=False)
class Voxels:
    """Some voxels of a scan as they are read.

    ``fids`` and ``water`` are ``(voxel, [coil,] [dynamic,] time)`` complex64, ``coordinates``
    ``(voxel, 3)`` int32, ``scalp`` ``(voxel,)`` bool, ``tissue`` ``(voxel, class)`` float32.
    """

    fids: NDArray[np.complex64]
    water: NDArray[np.complex64] | None = None
    coordinates: NDArray[np.int32] | None = None
    scalp: NDArray[np.bool_] | None = None
    tissue: NDArray[np.float32] | None = None

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Voxels whose samples are finite and not all zero, ``(voxel,)``."""
        samples = self.fids.reshape(len(self.fids), -1)
        return np.asarray(np.isfinite(samples).all(axis=1) & samples.any(axis=1))

    @property
    def empty(self) -> NDArray[np.bool_]:
        """Voxels with nothing but zeros, ``(voxel,)``."""
        return np.asarray(~self.fids.reshape(len(self.fids), -1).any(axis=1))

    @property
    def quantifiable(self) -> NDArray[np.bool_]:
        """Usable voxels that are no scalp, ``(voxel,)``."""
        return self.usable if self.scalp is None else self.usable & ~self.scalp

    def block(self, chosen: NDArray[np.bool_], device: torch.device, keep_signals: bool) -> Block:
        """Chosen voxels as stages take them; a water FID with NaN or Inf counts as no signal."""

        def tensor(values: NDArray[Any] | None) -> Tensor | None:
            return None if values is None else rows_to_device(values, chosen, device)

        water = self.water
        if water is not None:
            water = np.where(np.isfinite(water).all(axis=-1, keepdims=True), water, 0)
        return Block(
            rows_to_device(self.fids, chosen, device),
            tensor(water),
            tensor(self.coordinates),
            tensor(self.scalp),
            tissue=tensor(self.tissue),
            keep_signals=keep_signals,
        )


def joined(single: Sequence[Voxels]) -> Voxels:
    """Voxels read one by one as one set."""

    def column(name: str) -> NDArray[Any] | None:
        values = [getattr(voxel, name) for voxel in single]
        return None if values[0] is None else np.concatenate(values)

    fids = np.concatenate([voxel.fids for voxel in single])
    names = ("water", "coordinates", "scalp", "tissue")
    return Voxels(fids, *(column(name) for name in names))


def without_spoilt(block: Block) -> Block:
    """The block without voxels that a stage left with NaN, Inf or nothing."""
    samples = block.fids.flatten(1)
    good = torch.isfinite(torch.view_as_real(samples)).all(-1).all(-1) & (samples != 0).any(-1)
    if good.all():
        return block

    def kept(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[good]

    return Block(
        block.fids[good],
        kept(block.water),
        kept(block.coordinates),
        kept(block.scalp),
        kept(block.noise_sd),
        kept(block.tissue),
    )
