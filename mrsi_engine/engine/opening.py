"""Stores and procedure of a plan, opened once a process, under one lock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.engine.plan import Plan, layout_of
from mrsi_engine.engine.procedure import Procedure
from mrsi_engine.engine.voxels import Voxels
from mrsi_engine.errors import RunError
from mrsi_engine.io.result_store import ResultStore
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Stage, State

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")

_OPENING = threading.RLock()


def _once_a_process(function: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """Keeps the last few results; threads that ask for the same wait for the first."""
    cached: Callable[_Given, _Found] = lru_cache(maxsize=4)(function)  # type: ignore[assignment]

    @wraps(function)
    def locked(*given: _Given.args, **named: _Given.kwargs) -> _Found:
        with _OPENING:
            return cached(*given, **named)

    return locked


@_once_a_process
def opened(plan: Plan) -> tuple[ScanStore, ResultStore, Procedure]:
    """Stores and procedure of a plan.

    Raises
    ------
    RunError
        If the plan's run was replaced.
    """
    results = ResultStore.open(plan.result)
    if results.attributes["run_fingerprint"] != plan.fingerprint:
        raise RunError(f"{plan.result}: was replaced by another run while this one was going on")
    scan = ScanStore.open(plan.scan)
    return scan, results, procedure_of(results, scan, plan.device)


@_once_a_process
def prepared(plan: Plan) -> Procedure:
    """The procedure with what all passes found."""
    _, results, procedure = opened(plan)
    return replace(procedure, states=states(results, procedure.passes))


@_once_a_process
def halfway(plan: Plan, stage: int, step: int) -> tuple[Procedure, State]:
    """The procedure up to a stage, and what its first passes found."""
    _, results, procedure = opened(plan)
    before = replace(procedure, states=states(results, procedure.passes[:stage]))
    return before, tensors(results.states.read(stage, step))


def procedure_of(results: ResultStore, scan: ScanStore, device: str) -> Procedure:
    """What a result store says was done to the voxels of a scan."""
    return Procedure(
        pipeline=stored_pipeline(results),
        acquisition=scan.acquisition,
        basis=results.basis(),
        signals=results.signals,
        device=device,
        layout=layout_of(scan),
    )


def states(results: ResultStore, passes: Sequence[int]) -> tuple[State, ...]:
    """What the passes of every stage found, as far as they are done."""
    return tuple(tensors(results.states.read(stage, steps)) for stage, steps in enumerate(passes))


def stored_pipeline(results: ResultStore) -> Pipeline:
    """The pipeline that results are of."""
    settings, modules = results.attributes["pipeline"], results.attributes["stage_modules"]
    return pipeline_of(settings, modules, str(results.path))


def pipeline_of(settings: Mapping[str, Any], modules: Iterable[str], source: str) -> Pipeline:
    """A pipeline from its settings, in a process that may not know its stages yet.

    Parameters
    ----------
    modules
        Where its stages are defined.
    source
        Where the settings come from, for messages.

    Raises
    ------
    InputError
        If the settings are wrong.
    """
    # Deriving from Stage registers it, so a worker has to import the modules of its stages.
    if any(table["stage"] not in Stage.registry for table in settings["stages"]):
        for module in modules:
            import_module(module)
    return Pipeline.from_settings(settings, source)


def read_voxels(scan: ScanStore, start: int, stop: int) -> Voxels:
    """Voxels ``start`` to ``stop`` and what belongs to them."""
    found = {name: scan.read(name, start, stop) for name in scan.companions}
    beside = {name: values for name, values in found.items() if values is not None}
    return Voxels(scan.read_fids(start, stop), beside, scan.coordinates(start, stop))


def tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """What a store holds, as stages take it."""
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def arrays_of(state: State) -> dict[str, NDArray[Any]]:
    """What stages found, as a store takes it."""
    return {name: values.detach().cpu().numpy() for name, values in state.items()}
