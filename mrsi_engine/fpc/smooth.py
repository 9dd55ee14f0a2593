"""Shifts combined with a smooth field over the scan."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mrsi_engine.fpc.registration import registration
from mrsi_engine.fpc.settings import FpcSettings
from mrsi_engine.fpc.signals import Align, Find, Signals, places
from mrsi_engine.fpc.states import state_of
from mrsi_engine.kernels.alignment import Alignment
from mrsi_engine.kernels.registration import hold
from mrsi_engine.kernels.shift_field import Grid, ShiftField
from mrsi_engine.pipeline.stage import Block, Context, State

#: Signals make the field where noise looks like them this rarely.
_SURE = 1e-6


def field_of(settings: FpcSettings, context: Context) -> ShiftField:
    """The field found so far."""
    grid = Grid(context.state["low"], context.state["high"], settings.smooth_order)
    if "coefficients" not in context.state:
        return ShiftField.unknown(grid, settings.max_shift_hz)
    parts = (context.state[name] for name in ("coefficients", "covariance", "variance"))
    return ShiftField(grid, *parts)


def field_sums(settings: FpcSettings, context: Context, signals: Signals, find: Find) -> State:
    """What signals add to the fit of the field."""
    found = find(signals.fids, signals.noise_sd)
    # A false peak is far from the field, but would widen it.
    good = found.trusted & (found.chance < _SURE) & torch.isfinite(found.shift_sd)
    place = signals.place[good, :3]
    sums = field_of(settings, context).summarise(place, found.shift[good], found.shift_sd[good])
    return state_of(sums)


def smoothed(settings: FpcSettings, context: Context, find: Find) -> Align:
    """Alignments whose shift is that of voxel and field together."""
    ready, field = registration(settings, context), field_of(settings, context)

    def align(block: Block, fids: Tensor) -> Alignment:
        noise, place = settings.noise_of(fids, context), places(block)[:, :3]
        own = find(fids, noise)
        shift = torch.where(own.trusted, own.shift, torch.nan)
        best, sd = field.combined(place, shift, own.shift_sd, own.chance)
        held = hold(ready, fids, noise, best, sd, own.damping.nan_to_num(0.0))
        return replace(held, searched=own.searched)

    return align
