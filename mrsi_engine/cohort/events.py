"""What happens to the scans of a cohort, as typed events; the ledger and displays are sinks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Step(StrEnum):
    """Steps of the life of a scan, in their order."""

    IMPORT = "import"
    PREPARE = "prepare"
    PROCESS = "process"
    FINISH = "finish"


@dataclass(frozen=True)
class CohortStarted:
    """Work begins: ``pending`` scans are to be run, ``finished`` are from earlier sessions."""

    pending: int
    finished: int = 0
    refused: int = 0


@dataclass(frozen=True)
class ScanStarted:
    """The first task of a scan was sent, for the ``attempt``-th time in this session."""

    scan: str
    attempt: int


@dataclass(frozen=True)
class ScanAdvanced:
    """A step of a scan is done: on which workers, and how long they took together (s)."""

    scan: str
    step: Step
    seconds: float
    kernel_seconds: float = 0.0
    voxels: int = 0
    workers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScanFinished:
    """A scan is done; ``summary`` is its row of the group table."""

    scan: str
    voxels: int
    accepted: bool
    verdict: str
    summary: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanFailed:
    """A scan failed in a step; ``error`` is for users, ``refused`` whether its input is wrong.

    ``again`` says that it will be tried once more, ``blocks`` how many of its blocks failed.
    """

    scan: str
    step: Step
    error: str
    traceback: str = ""
    worker: str | None = None
    refused: bool = False
    again: bool = False
    blocks: int = 0


CohortEvent = CohortStarted | ScanStarted | ScanAdvanced | ScanFinished | ScanFailed

#: Called with every event, in the thread of the driver.
CohortSink = Callable[[CohortEvent], None]
