"""What passes over the scan find, as the small tensors of a state."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.even_sample import EvenSample
from mrsi_engine.kernels.shift_field import FieldSums, ShiftField
from mrsi_engine.kernels.template import Pick, TemplateSums, combine_picks, summarise_pick
from mrsi_engine.pipeline.stage import State


def state_of(record: Pick | TemplateSums | FieldSums | EvenSample) -> dict[str, Tensor]:
    """The tensors of a record by name."""
    return {f.name: getattr(record, f.name) for f in fields(record)}


def pick(fids: Tensor, noise: Tensor, band: Band) -> State:
    """The best of these signals; of none, one that any other is better than."""
    if len(fids):
        return state_of(summarise_pick(fids, noise, band))
    nothing = torch.full((), -torch.inf, dtype=torch.float64, device=fids.device)
    return state_of(Pick(fids.new_zeros(fids.shape[1]), nothing, noise.new_ones(())))


def better(first: State, second: State) -> State:
    """The better one of two picks."""
    names = [f.name for f in fields(Pick)]
    picks = (Pick(**{name: state[name] for name in names}) for state in (first, second))
    return state_of(combine_picks(*picks))


def sample_state(sample: EvenSample) -> State:
    """A sample of signals beside other tensors of a state."""
    return {f"sample_{name}": values for name, values in state_of(sample).items()}


def sample_of(state: State) -> EvenSample:
    """The sample that a state holds."""
    return EvenSample(*(state[f"sample_{f.name}"] for f in fields(EvenSample)))


def field_state(field: ShiftField) -> State:
    """What is known of the smooth field."""
    return {n: getattr(field, n) for n in ("coefficients", "covariance", "variance")}
