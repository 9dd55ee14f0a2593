"""Passes over the whole scan: what stages need to know of it before a block can be done.

A pass cuts the blocks into parts, of which a worker summarises one: so a summary is made of several
blocks and neither a scheduler nor the driver ever holds many. Parts are cut and combined in the
order of the blocks, so that the sum does not depend on who did them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from mrsi_engine.engine.blocks import Receipt
from mrsi_engine.engine.devices import title_of
from mrsi_engine.engine.opening import arrays_of, halfway, opened, read_voxels, tensors
from mrsi_engine.engine.plan import Plan
from mrsi_engine.io.result_store import ResultStore
from mrsi_engine.io.summaries import Summaries

#: A pass over a scan is cut into at most this many parts, each a task and a summary on disk. More
#: would keep more workers busy and the driver longer: it reads them all.
_MOST_PARTS = 64


@dataclass(frozen=True)
class Pass:
    """One reduction over the scan: number ``step`` of ``steps`` of the stage of this index."""

    plan: Plan
    stage: int
    name: str
    step: int
    steps: int
    blocks: int

    @property
    def parts(self) -> list[range]:
        """The blocks of each part."""
        return parts_of(self.blocks)

    def missing(self) -> list[int]:
        """Numbers of the parts that are still to be summarised, ascending."""
        return Summaries.of(self.plan.store, self.stage, self.step).missing(len(self.parts))


def next_pass(plan: Plan) -> Pass | None:
    """The first pass over the scan that is not done; ``None`` if blocks can be.

    Passes have to be done in this order: each sees what the ones before found.
    """
    _, results, procedure = opened(plan)
    for stage, steps in enumerate(procedure.passes):
        for step in range(steps):
            if not results.states.has(stage, step):
                name = procedure.pipeline.stages[stage].stage
                return Pass(plan, stage, name, step, steps, results.blocks)
    return None


def run_part(todo: Pass, part: int) -> Receipt:
    """Summarise the blocks of a part for a pass, one after the other, and keep the summary.

    Raises
    ------
    DiskFullError
        If the disk is full; the part does not count as done.
    """
    started = time.perf_counter()
    scan, results, _ = opened(todo.plan)
    procedure, found = halfway(todo.plan, todo.stage, todo.step)
    total, kernel_seconds, blocks = None, 0.0, todo.parts[part]
    for block in blocks:
        voxels = read_voxels(scan, *results.region(block))
        began = time.perf_counter()
        total = procedure.combine(total, procedure.summarise(voxels, todo.step, found), todo.step)
        kernel_seconds += time.perf_counter() - began
    Summaries.of(results, todo.stage, todo.step).write(part, arrays_of(total or {}))
    start, stop = voxels_of(results, blocks)
    return Receipt(
        part,
        stop - start,
        time.perf_counter() - started,
        kernel_seconds,
        device=title_of(procedure.device_here),
    )


def finish_pass(todo: Pass) -> None:
    """Combine the summaries of all parts, keep what the stage finds in them, and clean up.

    On the CPU: the driver of workers with GPUs may have none. Two summaries are held at a time.

    Raises
    ------
    InputError
        If the stage finds that the scan is not fit for it.
    """
    procedure, found = halfway(todo.plan, todo.stage, todo.step)
    store = todo.plan.store
    summaries = Summaries.of(store, todo.stage, todo.step)
    total = None
    for part in range(len(todo.parts)):
        total = procedure.combine(total, tensors(summaries.read(part)) or None, todo.step)
    store.states.write(todo.stage, todo.step, arrays_of(procedure.finish(total, todo.step, found)))
    summaries.remove()


def prepare(plan: Plan) -> None:
    """Do every pass over the scan that is missing, in this process.

    Raises
    ------
    DiskFullError
        If the disk is full.
    InputError
        If a stage finds that the scan is not fit for it.
    """
    while todo := next_pass(plan):
        for part in todo.missing():
            run_part(todo, part)
        finish_pass(todo)


def parts_of(blocks: int) -> list[range]:
    """The blocks of each part of a pass, in order; depends on nothing but their number."""
    parts = min(blocks, _MOST_PARTS)
    return [range(p * blocks // parts, (p + 1) * blocks // parts) for p in range(parts)]


def voxels_of(results: ResultStore, blocks: range) -> tuple[int, int]:
    """First voxel of consecutive blocks and the one after their last."""
    return results.region(blocks[0])[0], results.region(blocks[-1])[1]
