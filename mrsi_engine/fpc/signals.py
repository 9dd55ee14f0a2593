"""Signals of a block, voxel by voxel and transient by transient, and where they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from mrsi_engine.fpc.quantities import APPLIED, PHASE, SHIFT, SPREAD
from mrsi_engine.kernels.alignment import Alignment
from mrsi_engine.pipeline.stage import Block, State

#: Where signals ``(signal, time)`` with noise ``(signal,)`` stand.
Find = Callable[[Tensor, Tensor], Alignment]

#: Where the signals ``(signal, time)`` of a block stand.
Align = Callable[[Block, Tensor], Alignment]


@dataclass(frozen=True)
class Signals:
    """Signals of a block outside the scalp: ``fids``, ``noise_sd`` and ``place (signal, 4)``."""

    fids: Tensor
    noise_sd: Tensor
    place: Tensor


def transients_of(block: Block) -> int:
    """Transients a voxel has; one where they were averaged."""
    return block.fids[0].numel() // block.fids.shape[-1] if len(block.fids) else 1


def places(block: Block) -> Tensor:
    """x, y, z and transient of every signal, ``(signal, 4)`` int64."""
    transients = transients_of(block)
    voxels = torch.arange(len(block.fids), device=block.fids.device)
    xyz = voxels[:, None].expand(-1, 3) if block.coordinates is None else block.coordinates
    number = torch.arange(transients, device=xyz.device).repeat(len(xyz))
    return torch.cat([xyz.long().repeat_interleave(transients, 0), number[:, None]], dim=1)


def extent(place: Tensor) -> State:
    """The box that holds all voxels; nothing is in the box that combines with any."""
    nowhere = torch.full((1, 3), torch.inf, dtype=torch.float64, device=place.device)
    xyz = place[:, :3].to(torch.float64)
    return {"low": torch.cat([xyz, nowhere]).amin(0), "high": torch.cat([xyz, -nowhere]).amax(0)}


def extent_of_both(first: State, second: State) -> State:
    """The box that holds the voxels of both."""
    return {
        "low": torch.minimum(first["low"], second["low"]),
        "high": torch.maximum(first["high"], second["high"]),
    }


def over_transients(values: Tensor, block: Block) -> Tensor:
    """Values ``(signal,)`` as ``(voxel, transient)``."""
    return values.view(len(block.fids), -1)


def where_trusted(found: Alignment) -> tuple[Tensor, Tensor]:
    """Shift and phase ``(signal,)``, NaN where a signal looks no more like its model than noise."""
    good = found.trusted
    return torch.where(good, found.shift, torch.nan), torch.where(good, found.phase, torch.nan)


def chosen(found: Alignment, index: Tensor) -> Alignment:
    """The alignments of these signals."""
    return Alignment(*(getattr(found, f.name)[index] for f in fields(found)))


def believed(found: Alignment, block: Block, transients: int) -> Alignment:
    """The alignment, NaN where it is not trusted and on the scalp, which has no such peaks."""
    shift, phase = where_trusted(found)
    if block.scalp is not None:
        scalp = block.scalp.repeat_interleave(transients)
        shift, phase = shift.masked_fill(scalp, torch.nan), phase.masked_fill(scalp, torch.nan)
    return replace(found, shift=shift, phase=phase)


def for_all_transients(found: Alignment, block: Block) -> tuple[Tensor, Tensor]:
    """Shift and phase ``(signal,)``, where there is none of its own the mean of the voxel's."""
    shift, phase = (over_transients(each, block) for each in (found.shift, found.phase))
    mean = torch.polar(torch.isfinite(phase).double(), phase.nan_to_num(0.0)).sum(1, keepdim=True)
    shift = torch.where(torch.isfinite(shift), shift, shift.nanmean(1, keepdim=True))
    phase = torch.where(torch.isfinite(phase), phase, mean.angle())
    return shift.flatten(), phase.flatten()


def write(block: Block, found: Alignment) -> None:
    """Mean shift and phase of each voxel with their SDs, and how transients differ."""
    shift = over_transients(found.shift, block)
    known = torch.isfinite(shift)
    count = known.sum(1)
    turn = torch.polar(known.double(), over_transients(found.phase, block).nan_to_num(0.0))
    mean = turn.sum(1) / count
    block.estimate |= {SHIFT.name: shift.nanmean(1), PHASE.name: mean.angle()}
    for quantity, sd in ((SHIFT, found.shift_sd), (PHASE, found.phase_sd)):
        squares = torch.where(known, over_transients(sd, block).square(), 0.0).sum(1)
        block.sd[quantity.name] = squares.sqrt() / count
    block.measures[APPLIED.name] = known.double().mean(1)
    if block.fids.ndim > 2:
        deviation = torch.where(known, shift - shift.nanmean(1, keepdim=True), 0.0)
        in_hertz, in_phase = SPREAD
        block.measures[in_hertz.name] = (deviation.square().sum(1) / count).sqrt()
        block.measures[in_phase.name] = (-2 * mean.abs().clamp(1e-12, 1.0).log()).sqrt()
