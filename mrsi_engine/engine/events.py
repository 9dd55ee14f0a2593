"""What happens during a run, as typed events. Progress bars and logs are sinks of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mrsi_engine.engine.blocks import Receipt
from mrsi_engine.engine.window import Failure


@dataclass(frozen=True)
class DamageFound:
    """Files of a store were not as they were written; what they held is done again."""

    store: Path
    files: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """What to tell a user, a line a file."""
        return [f"damaged, done again: {self.store}: {file}" for file in self.files]


@dataclass(frozen=True)
class ClusterTold:
    """A line on what the cluster of a run is doing: how many workers it has, what it waits for."""

    line: str


@dataclass(frozen=True)
class RunStarted:
    """Work begins: ``pending`` blocks of ``pending_voxels`` voxels are still to be done.

    ``dashboard`` is the link to the Dask dashboard, if there is one.
    """

    result: Path
    voxels: int
    blocks: int
    pending: int
    pending_voxels: int
    workers: int
    dashboard: str | None = None


@dataclass(frozen=True)
class PassStarted:
    """A pass over the whole scan begins: number ``step`` of ``steps`` (from 1) of a stage.

    ``pending`` parts of ``pending_voxels`` voxels are still to be summarised.
    """

    result: Path
    stage: str
    step: int
    steps: int
    pending: int
    pending_voxels: int


@dataclass(frozen=True)
class PartDone:
    """The summary of a part of a pass is safely written."""

    receipt: Receipt
    start: int
    stop: int


@dataclass(frozen=True)
class PassFinished:
    """What a pass was to find is found."""

    result: Path
    stage: str
    step: int
    seconds: float


@dataclass(frozen=True)
class BlockDone:
    """A block is safely written."""

    receipt: Receipt
    start: int
    stop: int


@dataclass(frozen=True)
class BlockFailed:
    """A block failed for good; the rest of the scan goes on."""

    block: int
    failure: Failure
    start: int
    stop: int


@dataclass(frozen=True)
class RunFinished:
    """Work ended, well or not: ``done`` blocks in this session, ``failed`` for good."""

    result: Path
    done: int
    failed: int
    voxels: int
    seconds: float
    kernel_seconds: float


Event = (
    DamageFound
    | ClusterTold
    | RunStarted
    | PassStarted
    | PartDone
    | PassFinished
    | BlockDone
    | BlockFailed
    | RunFinished
)

#: Whatever wants to know: called with every event, in the thread of the driver.
Sink = Callable[[Event], None]
