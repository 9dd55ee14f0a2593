"""Runs a pipeline over a scan in memory, block by block, as the engine does from stores."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.pipeline.pipeline import Pipeline, prepare_pipeline
from mrsi_engine.pipeline.stage import Block, Context, Stage, State
from mrsi_engine.spectra.basis import Basis


@dataclass(frozen=True)
class Scan:
    """What the engine would read: ``fids (voxel, [coil,] [dynamic,] time)`` and what goes along."""

    acquisition: Acquisition
    fids: Tensor
    water: Tensor | None = None
    scalp: Tensor | None = None
    dimensions: tuple[str, ...] = ()
    basis: Basis | None = field(default=None)
    coordinates: Tensor | None = None

    @property
    def context(self) -> Context:
        return Context(
            self.acquisition,
            self.basis,
            dimensions=self.dimensions,
            companions=tuple(self.companions),
        )

    @property
    def companions(self) -> dict[str, Tensor]:
        named = {"water": self.water, "scalp": self.scalp}
        return {name: values for name, values in named.items() if values is not None}

    def blocks(self, size: int) -> list[Block]:
        parts = [slice(start, start + size) for start in range(0, len(self.fids), size)]
        place = torch.nn.functional.pad(torch.arange(len(self.fids))[:, None], (0, 2))
        place = (place if self.coordinates is None else self.coordinates).int()
        return [
            Block(
                self.fids[p].clone(),
                {name: values[p].clone() for name, values in self.companions.items()},
                coordinates=place[p],
            )
            for p in parts
        ]


def prepared_states(pipeline: Pipeline, scan: Scan, size: int) -> list[State]:
    """What the passes of every stage find."""
    states: list[State] = []
    for stage, context in zip(pipeline.stages, pipeline.contexts(scan.context), strict=True):
        before, state = prepare_pipeline(pipeline, scan.context, states), {}
        for step in range(stage.passes(context)):
            known = replace(context, state=state)
            parts = [stage.summarise(known, before(b), step) for b in scan.blocks(size)]
            total = reduce(lambda a, b, s=stage, n=step: s.combine(a, b, n), parts)
            state = {**state, **stage.finish(known, total, step)}
        states.append(state)
    return states


def run(stages: Stage | tuple[Stage, ...], scan: Scan, size: int = 1000) -> Block:
    """The whole scan after the stages, as one block."""
    several = stages if isinstance(stages, tuple) else (stages,)
    pipeline = Pipeline(name="test", stages=several).check(scan.context)
    apply = prepare_pipeline(pipeline, scan.context, prepared_states(pipeline, scan, size))
    done = [apply(block) for block in scan.blocks(size)]
    whole = Block(torch.cat([b.fids for b in done]))
    whole.companions = {
        name: torch.cat([b.companions[name] for b in done]) for name in done[0].companions
    }
    whole.noise_sd = None if done[0].noise_sd is None else torch.cat([b.noise_sd for b in done])
    for kind in ("estimate", "sd", "measures"):
        names = getattr(done[0], kind)
        getattr(whole, kind).update(
            {n: torch.cat([getattr(b, kind)[n] for b in done]) for n in names}
        )
    declared = pipeline.declare(scan.context)
    assert {q.name for q in declared.parameters} == set(whole.estimate) == set(whole.sd)
    assert {q.name for q in declared.measures} == set(whole.measures)
    return whole
