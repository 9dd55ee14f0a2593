"""Single voxels of a finished run once more: what a report draws and a user looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.engine.opening import procedure_of, read_voxels, states
from mrsi_engine.engine.plan import scan_folder_of
from mrsi_engine.engine.procedure import Procedure
from mrsi_engine.engine.voxels import Voxels, joined
from mrsi_engine.errors import InputError
from mrsi_engine.fit.details import FitDetails
from mrsi_engine.io.result_schema import BlockArrays
from mrsi_engine.io.result_store import ResultStore
from mrsi_engine.io.scan_store import SCAN_STORE, ScanStore
from mrsi_engine.pipeline.trace import StageTrace
from mrsi_engine.stages.quantify import Quantify

#: SD of the prior on a delay that is looked for; it may be six times as much.
_DELAY_SD_MS = 0.5


def repeat_voxels(result: ResultStore, scan: ScanStore, voxels: Sequence[int]) -> BlockArrays:
    """Single voxels of a finished run once more, with every signal its pipeline writes.

    Parameters
    ----------
    voxels
        Their indices in the store.
    """
    procedure = _finished(result, scan)
    written = tuple(q.name for q in procedure.written_signals)
    arrays, _ = replace(procedure, signals=written).apply(_single(scan, voxels))
    return arrays


def trace_voxels(
    result: ResultStore, scan: ScanStore, voxels: Sequence[int]
) -> tuple[StageTrace, ...]:
    """Single voxels of a finished run once more, with their FIDs before and after every stage.

    Parameters
    ----------
    voxels
        Their indices in the store.

    Raises
    ------
    InputError
        If a voxel never reaches a stage: NaN, Inf, only zeros, or scalp.
    RunError
        If the passes of its stages over the scan are not all done.
    """
    return _finished(result, scan).trace(_single(scan, voxels))


def detail_voxels(result: ResultStore, scan: ScanStore, voxels: Sequence[int]) -> FitDetails:
    """Single voxels of a finished run fitted once more: every column's signal, and covariances.

    Parameters
    ----------
    voxels
        Their indices in the store; few, as each takes a signal for every column of the basis.

    Raises
    ------
    InputError
        If a voxel never reaches the fit, or the pipeline does not fit by least squares.
    RunError
        If the passes of its stages over the scan are not all done.
    """
    return _finished(result, scan).fit_in_detail(_single(scan, voxels))


def fitted_delays(
    result: ResultStore, scan: ScanStore, voxels: Sequence[int]
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """How much later FIDs begin than header and basis say, as a fit that may choose finds it.

    Parameters
    ----------
    voxels
        Their indices in the store.

    Returns
    -------
    delays, sds
        ms, ``(voxel,)`` each; empty where the pipeline does not quantify, or fits a delay anyway.

    Raises
    ------
    RunError
        If the passes of its stages over the scan are not all done.
    """
    procedure = _finished(result, scan)
    stages = procedure.pipeline.stages
    fits = [s for s in stages if isinstance(s, Quantify) and not s.first_order_phase.sd_ms]
    if not fits:
        return np.zeros(0), np.zeros(0)
    free = tuple(_with_free_delay(s) if s in fits else s for s in stages)
    pipeline = procedure.pipeline.model_copy(update={"stages": free})
    freed = replace(procedure, pipeline=pipeline, signals=())
    arrays, _ = freed.apply(_single(scan, voxels))
    at = [q.name for q in freed.declaration.parameters].index("delay")
    return arrays.estimate[:, at] - fits[0].first_order_phase.delay_ms, arrays.sd[:, at]


def _with_free_delay(stage: Quantify) -> Quantify:
    fitted = stage.with_setting("first_order_phase.sd_ms", _DELAY_SD_MS)
    return fitted.with_setting("method", "least-squares")


def scan_of(result: ResultStore) -> ScanStore:
    """The scan store that results are of: where the run read it, or else beside them.

    Raises
    ------
    InputError
        If there is none, or it is of another scan or mask.
    """
    known = scan_folder_of(result)
    beside = result.path.resolve().parent / known.name
    found = next((path for path in (known, beside) if SCAN_STORE.holds(path)), None)
    if found is None:
        raise InputError(
            f"{result.path}: its scan store is needed, and is neither at {known} nor at {beside}; "
            "move it back, or import the scan there again with `mrsi import`"
        )
    scan = ScanStore.open(found)
    same = scan.checksum == result.attributes["checksum"]
    if not same or not np.array_equal(scan.coordinates(), result.coordinates()):
        raise InputError(
            f"{found}: not the scan that {result.path} was made of (another file or mask); put "
            "that one back, or process this one anew"
        )
    return scan


@lru_cache(maxsize=1)
def _finished(results: ResultStore, scan: ScanStore) -> Procedure:
    """The procedure of a finished run, on this machine's CPU; once for stores opened once."""
    procedure = procedure_of(results, scan, "cpu")
    return replace(procedure, states=states(results, procedure.passes))


def _single(scan: ScanStore, voxels: Sequence[int]) -> Voxels:
    """Single voxels; those of a chunk, which is read as a whole for any of them, together."""
    order = sorted(voxels)
    parts = []
    for _, some in groupby(order, lambda voxel: voxel // scan.chunk):
        chosen = list(some)
        start = chosen[0]
        read = read_voxels(scan, start, chosen[-1] + 1)
        parts.append(read.taken([voxel - start for voxel in chosen]))
    return joined(parts).taken([order.index(voxel) for voxel in voxels])
