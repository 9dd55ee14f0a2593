"""One block of voxels: read, run through the pipeline, written."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mrsi_engine.engine.devices import title_of
from mrsi_engine.engine.opening import opened, prepared, read_voxels
from mrsi_engine.engine.plan import Plan


@dataclass(frozen=True)
class Receipt:
    """What a finished block sends back: ``kernel_seconds`` of its ``seconds`` were spent in stages.

    Of a part of a pass, ``block`` is the number of the part.

    ``statuses`` counts voxels by status; ``device`` is what computed it: ``cpu``, or the name of
    the GPU.
    """

    block: int
    voxels: int
    seconds: float
    kernel_seconds: float
    statuses: Mapping[int, int] = field(default_factory=dict)
    device: str = "cpu"


def run_block(plan: Plan, block: int) -> Receipt:
    """Read a block of voxels, run the pipeline on it and write its results, the status last.

    Raises
    ------
    DiskFullError
        If the disk is full; the block does not count as done.
    """
    started = time.perf_counter()
    scan, results, _ = opened(plan)
    procedure = prepared(plan)
    start, stop = results.region(block)
    arrays, kernel_seconds = procedure.apply(read_voxels(scan, start, stop))
    results.write_block(start, arrays)
    return Receipt(
        block=block,
        voxels=stop - start,
        seconds=time.perf_counter() - started,
        kernel_seconds=kernel_seconds,
        statuses={int(s): int(n) for s, n in zip(*np.unique_counts(arrays.status), strict=True)},
        device=title_of(procedure.device_here),
    )
