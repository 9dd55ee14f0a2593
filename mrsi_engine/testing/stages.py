"""What every stage owes to the engine, as a test class: derive from it and say which stage.

class TestApodise(StageTests):
    @pytest.fixture
    def case(self) -> StageCase:
        return StageCase(Apodise(), Context(axis), Block(fids))
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mrsi_engine.pipeline.describe import described
from mrsi_engine.pipeline.pipeline import Pipeline, prepare_stage
from mrsi_engine.pipeline.stage import Block, Context, Stage, State
from mrsi_engine.testing.pretend_device import pretend_device

#: What a block holds that is no result.
_GIVEN = ("fids", "companions", "coordinates", "noise_sd")


@dataclass(frozen=True)
class StageCase:
    """A stage and a scan for it.

    Parameters
    ----------
    stage
        With the settings to be tested.
    context
        What it may know, as it is when FIDs reach it; its state is found by the tests.
    block
        All voxels of the scan, four or more, on the CPU; with what the stages before wrote, if the
        stage reads that.
    """

    stage: Stage
    context: Context
    block: Block


class StageTests:
    """Derive from this, and give a fixture ``case``; see :class:`StageCase`.

    Numbers of two ways to compute the same may differ by ``tolerance`` of the largest there is of
    a name: another batch or device rounds otherwise. Where an iteration amplifies that, say more.
    """

    tolerance: float = 1e-4

    @pytest.fixture
    def case(self) -> StageCase:
        """The stage to be tested."""
        raise NotImplementedError("give a fixture `case` that returns a StageCase")

    def test_it_is_registered_and_described(self, case: StageCase) -> None:
        """Pipelines find it by its key, and users what it may be told."""
        assert Stage.registry.get(case.stage.stage) is type(case.stage)
        assert (type(case.stage).__doc__ or "").strip()
        lacking = [row.key for row in described(type(case.stage)) if not row.description]
        assert not lacking, f"settings without a description: {lacking}"

    def test_its_settings_come_back(self, case: StageCase) -> None:
        """From a file, and in another process."""
        pipeline = Pipeline(name="one", stages=(case.stage,))
        settings = json.loads(json.dumps(pipeline.settings()))
        assert Pipeline.from_settings(settings) == pipeline
        assert pickle.loads(pickle.dumps(case.stage)) == case.stage

    def test_it_fits_the_scan(self, case: StageCase) -> None:
        """It says yes to the scan, and the same of it each time."""
        assert case.stage.check(case.context) is not None
        assert case.stage.declare(case.context) == case.stage.declare(case.context)
        json.dumps([case.stage.assumptions(case.context), case.stage.models(case.context)])

    def test_it_writes_what_it_declares(self, case: StageCase) -> None:
        """Names and shapes of everything it adds, and no NaN or Inf into a FID."""
        declared = case.stage.declare(case.context)
        before, after = case.block, applied(case, states_of(case))
        count = len(before.fids)
        for kind, quantities in (
            ("estimate", declared.parameters),
            ("sd", declared.parameters),
            ("measures", declared.measures),
        ):
            values = getattr(after, kind)
            added = set(values) - set(getattr(before, kind))
            assert added == {q.name for q in quantities}, kind
            assert all(values[name].shape == (count,) for name in added), kind
            assert all(values[name].is_floating_point() for name in added), kind
        added = set(after.signals) - set(before.signals)
        assert added == {q.name for q in declared.signals}
        assert all(after.signals[name].shape[0] == count for name in added)
        left = case.stage.leaves(case.context.dimensions)
        assert after.fids.dtype == torch.complex64
        assert (len(after.fids), after.fids.dim()) == (count, 2 + len(left))
        assert torch.isfinite(torch.view_as_real(after.fids)).all()
        assert (after.status.shape, after.flags.shape) == ((count,), (count,))

    @pytest.mark.parametrize("size", [1, 3])
    def test_blocks_do_not_matter(self, case: StageCase, size: int) -> None:
        """The same numbers, in whatever blocks voxels come."""
        states = states_of(case)
        whole = applied(case, states)
        self.assert_same([applied(case, states, rows) for rows in _cut(case, size)], whole)

    def test_blocks_do_not_matter_to_its_passes(self, case: StageCase) -> None:
        """The state is the same, in whatever blocks voxels were summarised."""
        whole, parts = states_of(case), states_of(case, size=3)
        assert whole.keys() == parts.keys()
        for name, values in whole.items():
            self._assert_close(parts[name], values, name)

    def test_no_voxel_and_one(self, case: StageCase) -> None:
        """It survives a block of none, and one is what it is among others."""
        states = states_of(case)
        whole, none = applied(case, states), applied(case, states, slice(0, 0))
        assert _declarable(none) == _declarable(whole)
        assert none.fids.shape == (0, *whole.fids.shape[1:])
        self.assert_same([applied(case, states, slice(1, 2))], rows_of(whole, slice(1, 2)))

    def test_what_a_voxel_lacks_is_its_own_matter(self, case: StageCase) -> None:
        """A voxel without water and of unknown tissue leaves the others as they are."""
        states = states_of(case)
        poor = rows_of(case.block, slice(None))
        if poor.water is not None:
            poor.water[0] = 0
        if poor.tissue is not None:
            poor.tissue[0] = torch.nan
        found = applied(replace(case, block=poor), states)
        others = slice(1, None)
        self.assert_same([rows_of(found, others)], rows_of(applied(case, states), others))
        assert torch.isfinite(torch.view_as_real(found.fids)).all()

    def test_any_device(self, case: StageCase) -> None:
        """On another device no tensor is made on the CPU, and numbers are the same."""
        states = states_of(case)
        here = applied(case, states)
        with pretend_device() as device:
            there = applied(case, states, device=device)
            assert there.fids.device == device
            self.assert_same([_moved(there, torch.device("cpu"))], here)

    def assert_same(self, parts: Sequence[Block], whole: Block) -> None:
        """That blocks one after the other hold the numbers of a whole."""
        pairs = zip(*(list(tensors_of(block)) for block in (*parts, whole)), strict=True)
        for named in pairs:
            *found, (name, expected) = named
            assert {other for other, _ in found} == {name}
            self._assert_close(torch.cat([values for _, values in found]), expected, name)

    def _assert_close(self, found: Tensor, expected: Tensor, name: str) -> None:
        wanted = expected.numpy()
        finite = np.abs(wanted[np.isfinite(wanted)])
        least = self.tolerance * float(finite.max(initial=0.0))
        np.testing.assert_allclose(
            found.numpy(), wanted, rtol=self.tolerance, atol=least, err_msg=name
        )


def states_of(case: StageCase, size: int | None = None) -> State:
    """What the passes of a stage find in its scan, cut into blocks of ``size`` voxels."""
    found: State = dict(case.context.state)
    for step in range(case.stage.passes(case.context)):
        known = replace(case.context, state=found)
        parts = [
            case.stage.summarise(known, rows_of(case.block, rows), step)
            for rows in _cut(case, size or len(case.block.fids))
        ]
        total = reduce(_combining(case.stage, step), parts)
        found = {**found, **case.stage.finish(known, total, step)}
    return found


def applied(
    case: StageCase,
    state: State,
    rows: slice = slice(None),
    device: torch.device | None = None,
) -> Block:
    """Some voxels of a case after its stage, every signal kept."""
    where = device or torch.device("cpu")
    block = _moved(rows_of(case.block, rows), where)
    block.keep_signals = True
    there = {name: values.to(where) for name, values in state.items()}
    prepare_stage(case.stage, replace(case.context, state=there, device=where))(block)
    return block


def rows_of(block: Block, rows: slice) -> Block:
    """Some voxels of a block, copied with all that was written of them."""
    return _each(block, lambda values: values[rows].clone())


def _declarable(block: Block) -> set[str]:
    """Names of all that is in a block but what no stage declares."""
    undeclared = ("noise_sd", "covariance_with")
    return {name for name, _ in tensors_of(block) if not name.startswith(undeclared)}


def _combining(stage: Stage, step: int) -> Callable[[State, State], State]:
    return lambda first, second: stage.combine(first, second, step)


def _moved(block: Block, device: torch.device) -> Block:
    return _each(block, lambda values: values.to(device))


def _each(block: Block, change: Callable[[Tensor], Tensor]) -> Block:
    def changed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, Mapping):
            return {name: changed(v) for name, v in value.items()}
        return value

    made = Block(**{name: changed(getattr(block, name)) for name in _GIVEN})
    for part in fields(Block):
        setattr(made, part.name, changed(getattr(block, part.name)))
    return made


def _cut(case: StageCase, size: int) -> Iterator[slice]:
    for start in range(0, len(case.block.fids), size):
        yield slice(start, start + size)


def tensors_of(block: Block) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a block by name, in an order of names."""

    def named(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            for key in sorted(value):
                yield from named(f"{name} {key}", value[key])

    for part in fields(Block):
        yield from named(part.name, getattr(block, part.name))
