"""Plan a run, do one of its blocks, finish it: everything that needs no scheduler.

A plan is a reference of a few hundred bytes to a result store, which holds the settings and the
basis. Any process that sees the store can do any block, once or many times, in any order: a block
always writes the same bytes into files no other block touches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mrsi_engine.conventions import Status
from mrsi_engine.engine.identity import changes, identity_of, provenance, sha256
from mrsi_engine.engine.recipe import Recipe, recipe_for
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.result_store import (
    ResultStore,
    is_result_store,
    remove_result,
)
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages.base import Stage
from mrsi_engine.stages.pipeline import Pipeline

#: A scan is cut into at least this many blocks, so that workers share it evenly, ...
_LEAST_BLOCKS = 16
#: ... unless blocks would get smaller than this, which batched kernels do not like.
_LEAST_VOXELS = 128

_OPENING = threading.Lock()


@dataclass(frozen=True)
class Plan:
    """A run that can be done block by block; what travels with every task.

    Parameters
    ----------
    result, scan
        Folders of the result store and of the scan store.
    fingerprint
        SHA-256 of everything the maps depend on.
    device
        Where to compute, as torch spells it.
    """

    result: str
    scan: str
    fingerprint: str
    device: str = "cpu"

    @classmethod
    def open(cls, result_path: str | Path, device: str = "cpu") -> Plan:
        """The plan a result store was made for.

        Raises
        ------
        InputError
            If the folder holds no result store, or one of a newer version.
        """
        store = ResultStore.open(result_path)
        attributes = store.attributes
        return cls(
            str(store.path.resolve()), attributes["scan"], attributes["run_fingerprint"], device
        )

    @property
    def store(self) -> ResultStore:
        """The result store, opened anew."""
        return ResultStore.open(self.result)


@dataclass(frozen=True)
class Receipt:
    """What a finished block sends back: ``kernel_seconds`` of its ``seconds`` were spent in stages.

    ``statuses`` counts voxels by status.
    """

    block: int
    voxels: int
    seconds: float
    kernel_seconds: float
    statuses: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Where a run stands: blocks still missing, and how many voxels got which status."""

    result: Path
    voxels: int
    blocks: int
    missing: tuple[int, ...]
    statuses: Mapping[Status, int]

    @property
    def finished(self) -> bool:
        """Whether every block is done."""
        return not self.missing


def plan(
    scan_path: str | Path,
    pipeline: Pipeline,
    basis: Basis | None,
    result_path: str | Path,
    *,
    block_size: int | None = None,
    keep_signals: Sequence[str] = (),
    overwrite: bool = False,
    device: str = "cpu",
) -> Plan:
    """Create the result store of a run, or take up the one that an earlier run left.

    Parameters
    ----------
    scan_path
        Folder of the scan store.
    pipeline, basis
        What to do. The basis is brought onto the scan's axis here.
    result_path
        Folder of the result store.
    block_size
        Voxels a task; by default the pipeline's, less for a scan of few voxels.
    keep_signals
        Names of the ``(voxel, time)`` signals to store.
    overwrite
        Replace the results of another run instead of refusing.

    Raises
    ------
    InputError
        If the scan, the basis and the pipeline do not fit each other, or ``result_path`` holds
        another run (the message says what differs) or something that is no result store.
    DiskFullError
        If the disk is full.
    """
    scan, path = ScanStore.open(scan_path), Path(result_path)
    recipe = recipe_for(scan.acquisition, pipeline, basis, keep_signals, device)
    size = block_size or default_block_size(pipeline, scan.voxels)
    identity = identity_of(scan, pipeline, basis, recipe.signals, size)
    if path.exists() and not _continues(path, identity, overwrite):
        remove_result(path)
    if not path.exists():
        ResultStore.create(
            path,
            scan.coordinates(),
            scan.acquisition,
            recipe.declaration,
            block_size=size,
            signals=recipe.signals,
            basis=recipe.basis,
            attributes={
                **provenance(scan.to_xarray().attrs, pipeline, basis),
                "scan": str(scan.path.resolve()),
                "stage_modules": sorted({type(s).__module__ for s in pipeline.stages}),
                "identity": identity,
                "run_fingerprint": sha256(identity),
            },
        )
    store = ResultStore.open(path)
    if store.attributes["scan"] != str(scan.path.resolve()):
        store.annotate(scan=str(scan.path.resolve()))
    return Plan.open(path, device)


def run_block(plan: Plan, block: int) -> Receipt:
    """Read a block of voxels, run the pipeline on it and write its results, the status last.

    Raises
    ------
    DiskFullError
        If the disk is full; the block does not count as done.
    """
    started = time.perf_counter()
    with _OPENING:
        scan, results, recipe = _opened(plan)
    start, stop = results.region(block)
    arrays, kernel_seconds = recipe.apply(scan.read_fids(start, stop), scan.read_water(start, stop))
    results.write_block(start, arrays)
    return Receipt(
        block=block,
        voxels=stop - start,
        seconds=time.perf_counter() - started,
        kernel_seconds=kernel_seconds,
        statuses={int(s): int(n) for s, n in zip(*np.unique_counts(arrays.status), strict=True)},
    )


def finalise(plan: Plan, timing: Mapping[str, Any] | None = None) -> Summary:
    """Say where a run stands; once every block is done, clean up and mark it finished.

    Parameters
    ----------
    timing
        Figures of this session, appended to the store's ``timings``.
    """
    store = plan.store
    summary = Summary(
        result=store.path,
        voxels=store.voxels,
        blocks=store.blocks,
        missing=tuple(store.missing()),
        statuses=_status_counts(store),
    )
    if summary.finished and (timing or "finished" not in store.attributes):
        store.remove_leftovers()
        store.annotate(
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            status_counts={s.meaning: n for s, n in summary.statuses.items()},
            timings=[*store.attributes.get("timings", []), *([dict(timing)] if timing else [])],
        )
    return summary


def default_block_size(pipeline: Pipeline, voxels: int) -> int:
    """Voxels a block: the pipeline's, or less so that a small scan still makes several blocks."""
    even = -(-voxels // _LEAST_BLOCKS)
    return min(pipeline.block_size, max(even, _LEAST_VOXELS))


def _continues(path: Path, identity: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the run at ``path`` is this one; ``False`` if another one may be replaced."""
    if overwrite and is_result_store(path):
        attributes = _attributes_or_none(path)
        return attributes is not None and attributes["identity"] == identity
    store = ResultStore.open(path)
    differing = list(changes(store.attributes["identity"], identity))
    if differing:
        raise InputError(
            f"{path}: holds the results of another run; changed since: {'; '.join(differing)}. "
            "Use --overwrite to replace them, or another output folder"
        )
    return True


def _attributes_or_none(path: Path) -> Mapping[str, Any] | None:
    try:
        return ResultStore.open(path).attributes
    except InputError:
        return None


@lru_cache(maxsize=4)
def _opened(plan: Plan) -> tuple[ScanStore, ResultStore, Recipe]:
    """Stores and recipe of a plan, once per process; called under the lock."""
    results = ResultStore.open(plan.result)
    if results.attributes["run_fingerprint"] != plan.fingerprint:
        raise RunError(f"{plan.result}: was replaced by another run while this one was going on")
    scan = ScanStore.open(plan.scan)
    recipe = Recipe(
        pipeline=_stored_pipeline(results),
        acquisition=scan.acquisition,
        basis=results.basis(),
        signals=results.signals,
        device=plan.device,
    )
    return scan, results, recipe


def _stored_pipeline(results: ResultStore) -> Pipeline:
    settings = results.attributes["pipeline"]
    # Deriving from Stage registers it, so a worker has to import the modules of its stages.
    if any(table["stage"] not in Stage.registry for table in settings["stages"]):
        for module in results.attributes["stage_modules"]:
            import_module(module)
    return Pipeline.from_settings(settings, str(results.path))


def _status_counts(store: ResultStore) -> dict[Status, int]:
    values, counts = np.unique_counts(store.statuses())
    return {Status(int(v)): int(n) for v, n in zip(values, counts, strict=True)}
