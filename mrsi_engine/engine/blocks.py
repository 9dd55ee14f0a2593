"""Plan a run, prepare it, do one of its blocks, finish it: everything that needs no scheduler.

A plan is a reference of a few hundred bytes to a result store, which holds the settings and the
basis. Any process that sees the store can do any block, once or many times, in any order: a block
always writes the same bytes into files no other block touches.

What stages need to know of the whole scan is found before, in passes over it. A pass cuts the
blocks into parts, of which a worker summarises one: so a summary is made of several blocks and
neither a scheduler nor the driver ever holds many. Parts are cut and combined in the order of the
blocks, so that the sum does not depend on who did them.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.conventions import Status
from mrsi_engine.engine.devices import AUTO, title_of
from mrsi_engine.engine.identity import changes, identity_of, provenance, sha256
from mrsi_engine.engine.recipe import Recipe, recipe_for
from mrsi_engine.engine.voxels import PLAIN, Layout, Voxels, joined
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.result_schema import BlockArrays
from mrsi_engine.io.result_store import ResultStore, is_result_store, remove_result
from mrsi_engine.io.scan_store import ScanStore, is_scan_store
from mrsi_engine.io.summaries import Summaries
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages.base import Stage, State
from mrsi_engine.stages.fit_details import FitDetails
from mrsi_engine.stages.pipeline import Pipeline
from mrsi_engine.stages.trace import StageTrace

#: A scan is cut into at least this many blocks, so that workers share it evenly, ...
_LEAST_BLOCKS = 16
#: ... unless blocks would get smaller than this, which batched kernels do not like.
_LEAST_VOXELS = 128

#: A pass over a scan is cut into at most this many parts, each a task and a summary on disk. More
#: would keep more workers busy and the driver longer: it reads them all.
_MOST_PARTS = 64

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
        Where to compute: ``auto``, ``cpu`` or ``cuda``. Every worker sees for itself what that is
        there, and any may go on with what another left: it is no part of the fingerprint.
    """

    result: str
    scan: str
    fingerprint: str
    device: str = AUTO

    @classmethod
    def open(cls, result_path: str | Path, device: str = AUTO) -> Plan:
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
    device: str = AUTO,
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
    device
        Of the workers: ``auto`` takes a GPU where there is one, ``cpu`` or ``cuda``.

    Raises
    ------
    InputError
        If the scan, the basis and the pipeline do not fit each other, or ``result_path`` holds
        another run (the message says what differs) or something that is no result store.
    DiskFullError
        If the disk is full.
    """
    scan, path = ScanStore.open(scan_path), Path(result_path)
    layout = layout_of(scan)
    recipe = recipe_for(scan.acquisition, pipeline, basis, keep_signals, layout=layout)
    size = block_size or default_block_size(pipeline, scan.voxels, layout)
    identity = identity_of(scan, pipeline, basis, recipe.models, recipe.signals, size)
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
            dimensions=recipe.signal_dimensions,
            scalp=scan.read_scalp(0, scan.voxels),
            basis=recipe.basis,
            attributes={
                **provenance(scan.to_xarray().attrs, pipeline, basis),
                "assumptions": recipe.assumptions,
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
        scan, results, _ = _opened(plan)
        recipe = _prepared(plan)
    start, stop = results.region(block)
    arrays, kernel_seconds = recipe.apply(_read(scan, start, stop))
    results.write_block(start, arrays)
    return Receipt(
        block=block,
        voxels=stop - start,
        seconds=time.perf_counter() - started,
        kernel_seconds=kernel_seconds,
        statuses={int(s): int(n) for s, n in zip(*np.unique_counts(arrays.status), strict=True)},
        device=title_of(recipe.device_here),
    )


def make_ready(plan: Plan) -> None:
    """Open the stores and make all tables that :func:`run_block` needs, once a process.

    Raises
    ------
    RunError
        If the plan's run was replaced, or its device is not here.
    """
    with _OPENING:
        recipe = _prepared(plan)
    recipe.make_ready()


def make_ready_for_pass(todo: Pass) -> None:
    """As :func:`make_ready`, for :func:`run_part`."""
    with _OPENING:
        recipe, _ = _halfway(todo.plan, todo.stage, todo.step)
    recipe.make_ready()


def next_pass(plan: Plan) -> Pass | None:
    """The first pass over the scan that is not done; ``None`` if blocks can be.

    Passes have to be done in this order: each sees what the ones before found.
    """
    with _OPENING:
        _, results, recipe = _opened(plan)
    for stage, steps in enumerate(recipe.passes):
        for step in range(steps):
            if not results.states.has(stage, step):
                name = recipe.pipeline.stages[stage].stage
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
    with _OPENING:
        scan, results, _ = _opened(todo.plan)
        recipe, found = _halfway(todo.plan, todo.stage, todo.step)
    total, kernel_seconds, blocks = None, 0.0, todo.parts[part]
    for block in blocks:
        voxels = _read(scan, *results.region(block))
        began = time.perf_counter()
        total = recipe.combine(total, recipe.summarise(voxels, todo.step, found), todo.step)
        kernel_seconds += time.perf_counter() - began
    Summaries.of(results, todo.stage, todo.step).write(part, _arrays(total or {}))
    start, stop = voxels_of(results, blocks)
    return Receipt(
        part,
        stop - start,
        time.perf_counter() - started,
        kernel_seconds,
        device=title_of(recipe.device_here),
    )


def finish_pass(todo: Pass) -> None:
    """Combine the summaries of all parts, keep what the stage finds in them, and clean up.

    On the CPU: the driver of workers with GPUs may have none. Two summaries are held at a time.

    Raises
    ------
    InputError
        If the stage finds that the scan is not fit for it.
    """
    with _OPENING:
        recipe, found = _halfway(todo.plan, todo.stage, todo.step)
    store = todo.plan.store
    summaries = Summaries.of(store, todo.stage, todo.step)
    total = None
    for part in range(len(todo.parts)):
        total = recipe.combine(total, _tensors(summaries.read(part)) or None, todo.step)
    store.states.write(todo.stage, todo.step, _arrays(recipe.finish(total, todo.step, found)))
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


def repeat_voxels(result: ResultStore, scan: ScanStore, voxels: Sequence[int]) -> BlockArrays:
    """Single voxels of a finished run once more, with every signal its pipeline writes.

    Parameters
    ----------
    voxels
        Their indices in the store.
    """
    recipe = _finished(result, scan)
    written = tuple(q.name for q in recipe.written_signals)
    arrays, _ = replace(recipe, signals=written).apply(_single(scan, voxels))
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


def scan_of(result: ResultStore) -> ScanStore:
    """The scan store that results are of: where the run read it, or else beside them.

    Raises
    ------
    InputError
        If there is none, or it is of another scan or mask.
    """
    known = Path(result.attributes["scan"])
    beside = result.path.resolve().parent / known.name
    found = next((path for path in (known, beside) if is_scan_store(path)), None)
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
        _review(store)
        store.remove_leftovers()
        store.annotate(
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            status_counts={s.meaning: n for s, n in summary.statuses.items()},
            timings=[*store.attributes.get("timings", []), *([dict(timing)] if timing else [])],
        )
    return summary


def default_block_size(pipeline: Pipeline, voxels: int, layout: Layout = PLAIN) -> int:
    """Voxels a block: the pipeline's, or less so that a small scan still makes several blocks.

    Where a voxel has several FIDs, a block has as many of them, not of voxels.
    """
    even = -(-voxels // _LEAST_BLOCKS)
    signals = math.prod(length for _, length in layout.dimensions)
    return max(1, min(pipeline.block_size, max(even, _LEAST_VOXELS)) // signals)


def parts_of(blocks: int) -> list[range]:
    """The blocks of each part of a pass, in order; depends on nothing but their number."""
    parts = min(blocks, _MOST_PARTS)
    return [range(p * blocks // parts, (p + 1) * blocks // parts) for p in range(parts)]


def voxels_of(results: ResultStore, blocks: range) -> tuple[int, int]:
    """First voxel of consecutive blocks and the one after their last."""
    return results.region(blocks[0])[0], results.region(blocks[-1])[1]


def layout_of(scan: ScanStore) -> Layout:
    """What a scan store holds beside its axis."""
    return Layout(
        tuple(scan.dimensions.items()),
        scan.has_water,
        scan.has_scalp,
        scan.tissue_classes,
        scan.water_timing.get("echo_time"),
        scan.water_timing.get("repetition_time"),
    )


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
    return scan, results, _recipe_of(results, scan, plan.device)


@lru_cache(maxsize=4)
def _prepared(plan: Plan) -> Recipe:
    """The recipe with what all passes found; called under the lock."""
    _, results, recipe = _opened(plan)
    return replace(recipe, states=_states(results, recipe.passes))


@lru_cache(maxsize=4)
def _halfway(plan: Plan, stage: int, step: int) -> tuple[Recipe, State]:
    """The recipe up to a stage, and what its first passes found; called under the lock."""
    _, results, recipe = _opened(plan)
    before = replace(recipe, states=_states(results, recipe.passes[:stage]))
    return before, _tensors(results.states.read(stage, step))


def _states(results: ResultStore, passes: Sequence[int]) -> tuple[State, ...]:
    return tuple(_tensors(results.states.read(stage, steps)) for stage, steps in enumerate(passes))


def _tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def _arrays(state: State) -> dict[str, NDArray[Any]]:
    return {name: values.detach().cpu().numpy() for name, values in state.items()}


def _finished(results: ResultStore, scan: ScanStore) -> Recipe:
    """The recipe of a finished run, on this machine's CPU."""
    recipe = _recipe_of(results, scan, "cpu")
    return replace(recipe, states=_states(results, recipe.passes))


def _single(scan: ScanStore, voxels: Sequence[int]) -> Voxels:
    return joined([_read(scan, voxel, voxel + 1) for voxel in voxels])


def _recipe_of(results: ResultStore, scan: ScanStore, device: str) -> Recipe:
    return Recipe(
        pipeline=_stored_pipeline(results),
        acquisition=scan.acquisition,
        basis=results.basis(),
        signals=results.signals,
        device=device,
        layout=layout_of(scan),
    )


def _read(scan: ScanStore, start: int, stop: int) -> Voxels:
    return Voxels(
        scan.read_fids(start, stop),
        scan.read_water(start, stop),
        scan.coordinates(start, stop),
        scan.read_scalp(start, stop),
        scan.read_tissue(start, stop),
    )


def _review(store: ResultStore) -> None:
    """Let the stages flag what only the finished result can tell."""
    stages = _stored_pipeline(store).stages
    if all(type(stage).review is Stage.review for stage in stages):
        return
    known: dict[str, NDArray[Any]] = {**store.estimates(), "status": store.statuses()}
    for stage in stages:
        flags = store.flags()
        added = stage.review(_tensors({**known, "flags": flags}))
        if added is not None and added.any():
            store.write_flags(flags | added.numpy())


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
