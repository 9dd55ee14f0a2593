"""Voxels as they are read from a scan, and as the stages take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.companions import Kind, companions
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
    companions
        Names of what came with it, see :mod:`mrsi_engine.companions`.
    classes
        Names of the classes of companions that have some.
    timing
        ``echo_time`` and ``repetition_time`` of signals that came with it, s.
    noise
        What is known of the noise.
    """

    dimensions: tuple[tuple[str, int], ...] = ()
    companions: tuple[str, ...] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timing: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    noise: ScanNoise = WHITE


#: One FID a voxel and nothing beside it.
PLAIN = ScanLayout()


@dataclass(frozen=True, eq=False)
class Voxels:
    """Some voxels of a scan as they are read.

    ``fids`` are ``(voxel, [coil,] [dynamic,] time)`` complex64, ``companions`` what came with them,
    ``(voxel, ...)`` by name, ``coordinates`` ``(voxel, 3)`` int32.
    """

    fids: NDArray[np.complex64]
    companions: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    coordinates: NDArray[np.int32] | None = None

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
        """Usable voxels that are not marked as ones never to be quantified, ``(voxel,)``."""
        chosen = self.usable
        for row in companions(Kind.MARKS):
            if row.name in self.companions:
                chosen = chosen & ~self.companions[row.name]
        return chosen

    def taken(self, rows: Sequence[int]) -> Voxels:
        """Some of them, in this order."""
        return Voxels(
            self.fids[rows],
            {name: values[rows] for name, values in self.companions.items()},
            None if self.coordinates is None else self.coordinates[rows],
        )

    def block(self, chosen: NDArray[np.bool_], device: torch.device, keep_signals: bool) -> Block:
        """Chosen voxels as stages take them; a signal with NaN or Inf counts as none."""

        def tensor(values: NDArray[Any]) -> Tensor:
            return rows_to_device(values, chosen, device)

        beside = dict(self.companions)
        for row in companions(Kind.SIGNAL):
            if row.name in beside:
                fids = beside[row.name]
                beside[row.name] = np.where(np.isfinite(fids).all(axis=-1, keepdims=True), fids, 0)
        return Block(
            tensor(self.fids),
            {name: tensor(values) for name, values in beside.items()},
            coordinates=None if self.coordinates is None else tensor(self.coordinates),
            keep_signals=keep_signals,
        )


def joined(single: Sequence[Voxels]) -> Voxels:
    """Voxels read part by part as one set."""
    places = [voxel.coordinates for voxel in single if voxel.coordinates is not None]
    names = single[0].companions
    return Voxels(
        np.concatenate([voxel.fids for voxel in single]),
        {name: np.concatenate([voxel.companions[name] for voxel in single]) for name in names},
        np.concatenate(places) if places else None,
    )


def without_spoilt(block: Block) -> Block:
    """The block without voxels that a stage left with NaN, Inf or nothing."""
    samples = block.fids.flatten(1)
    good = torch.isfinite(torch.view_as_real(samples)).all(-1).all(-1) & (samples != 0).any(-1)
    if good.all():
        return block
    return Block(
        block.fids[good],
        {name: values[good] for name, values in block.companions.items()},
        coordinates=None if block.coordinates is None else block.coordinates[good],
        noise_sd=None if block.noise_sd is None else block.noise_sd[good],
    )
