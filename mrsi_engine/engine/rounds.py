"""What of a scan can be done in any order now: the parts of a pass over it, or its blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from mrsi_engine.engine.blocks import run_block
from mrsi_engine.engine.passes import Pass, next_pass, run_part, voxels_of
from mrsi_engine.engine.plan import Plan
from mrsi_engine.engine.window import Task
from mrsi_engine.io.result_store import ResultStore


@dataclass(frozen=True)
class Round:
    """The missing parts of a pass over a scan or, without one, its missing blocks.

    ``missing`` are the voxels of each by its number.
    """

    plan: Plan
    todo: Pass | None
    missing: Mapping[int, int]

    def tasks(self) -> Iterator[Task]:
        """A task for each, which returns a receipt; its source knows it by its number."""
        known = self.plan.fingerprint[:8]
        for number, voxels in self.missing.items():
            if self.todo is None:
                do, kind, name = partial(run_block, self.plan, number), "block", f"{known}-{number}"
            else:
                stage = f"{self.todo.stage}-{self.todo.step}"
                do, kind = partial(run_part, self.todo, number), "prepare"
                name = f"{known}-{stage}-{number}"
            yield Task(kind, name, do, voxels, number, begun=True)

    def region(self, store: ResultStore, number: int) -> tuple[int, int]:
        """First voxel of one of them and the one after its last."""
        return _region(store, self.todo, number)


def next_round(plan: Plan) -> Round:
    """What is to be done next; its blocks once all passes are done, none if they are, too."""
    store, todo = plan.store, next_pass(plan)
    missing = store.missing() if todo is None else todo.missing()
    regions = {number: _region(store, todo, number) for number in missing}
    return Round(plan, todo, {number: stop - start for number, (start, stop) in regions.items()})


def _region(store: ResultStore, todo: Pass | None, number: int) -> tuple[int, int]:
    return store.region(number) if todo is None else voxels_of(store, todo.parts[number])
