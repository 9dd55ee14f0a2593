"""The conformance tests find what is wrong with a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Block, Context, Stage, State
from mrsi_engine.quantities import Declaration, quality
from mrsi_engine.testing import StageCase, StageTests

AXIS = Acquisition(16, 1e-3, 123.0)


class Halve(Stage):
    """Half of every FID, and its energy."""

    stage: ClassVar[str] = ""

    share: float = setting(0.5, "What stays.", gt=0)

    def declare(self, context: Context) -> Declaration:
        return Declaration(measures=(quality("energy", "1", "energy"),))

    def build(self, context: Context) -> Apply:
        def apply(block: Block) -> None:
            block.fids = self.share * block.fids
            block.measures["energy"] = self.energy(block.fids)

        return apply

    def energy(self, fids: torch.Tensor) -> torch.Tensor:
        return fids.abs().square().sum(1)


class OfTheBlock(Halve):
    """Compares voxels with their neighbours."""

    def energy(self, fids: torch.Tensor) -> torch.Tensor:
        return super().energy(fids) / super().energy(fids).sum()


class Forgetful(Halve):
    """Declares another name than it writes."""

    def declare(self, context: Context) -> Declaration:
        return Declaration(measures=(quality("energie", "1", "energy"),))


class OfTheCpu(Halve):
    """Makes a tensor on the CPU."""

    def energy(self, fids: torch.Tensor) -> torch.Tensor:
        return (fids * torch.ones(fids.shape)).abs().square().sum(1)


class Nan(Halve):
    """Divides by water that may be none."""

    def build(self, context: Context) -> Apply:
        inner = super().build(context)

        def apply(block: Block) -> None:
            inner(block)
            assert block.water is not None
            block.fids = block.fids / block.water

        return apply


class LastBlock(Halve):
    """Learns from the last block alone."""

    def passes(self, context: Context) -> int:
        return 1

    def summarise(self, context: Context, block: Block, step: int) -> State:
        return {"mean": block.fids.mean(0)}

    def combine(self, first: State, second: State, step: int) -> State:
        return second


class Undescribed(Halve):
    """Has a setting of which nothing is said."""

    other: float = 1.0


@pytest.fixture
def case_of() -> Iterator[Callable[[type[Halve]], StageCase]]:
    before = dict(Stage.registry)

    def made(kind: type[Halve]) -> StageCase:
        kind.stage = "halve"
        Stage.registry["halve"] = kind
        fids = torch.randn(6, 16, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
        water = torch.zeros_like(fids)
        water[1:] = 1
        return StageCase(
            kind(), Context(AXIS, companions=("water",)), Block(fids, {"water": water})
        )

    yield made
    Stage.registry.clear()
    Stage.registry.update(before)


TESTS: dict[str, Callable[[StageTests, StageCase], None]] = {
    name: test
    for name, test in vars(StageTests).items()
    if name.startswith("test_") and name != "test_blocks_do_not_matter"
} | {"test_blocks_do_not_matter": lambda self, case: self.test_blocks_do_not_matter(case, 2)}


def failing(case: StageCase) -> set[str]:
    found = set()
    for name, test in TESTS.items():
        try:
            test(StageTests(), case)
        except (AssertionError, RuntimeError):
            found.add(name.removeprefix("test_"))
    return found


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Halve, set()),
        (OfTheBlock, {"blocks_do_not_matter", "no_voxel_and_one"}),
        (Forgetful, {"it_writes_what_it_declares", "no_voxel_and_one"}),
        (OfTheCpu, {"any_device"}),
        (LastBlock, {"blocks_do_not_matter_to_its_passes"}),
        (Undescribed, {"it_is_registered_and_described"}),
    ],
)
def test_what_is_wrong_is_found(
    kind: type[Halve], expected: set[str], case_of: Callable[[type[Halve]], StageCase]
) -> None:
    assert failing(case_of(kind)) == expected


def test_a_nan_is_found(case_of: Callable[[type[Halve]], StageCase]) -> None:
    assert "it_writes_what_it_declares" in failing(case_of(Nan))
