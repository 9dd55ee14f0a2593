"""What is done to the voxels of one scan: the per-block functions every way of running shares."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition, Flag, Status
from mrsi_engine.engine.devices import AUTO, device_here, to_host
from mrsi_engine.engine.identity import sha256
from mrsi_engine.engine.voxels import PLAIN, ScanLayout, Voxels, without_spoilt
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.fit.details import FitDetails, fit_in_detail
from mrsi_engine.io.result_schema import BlockArrays
from mrsi_engine.pipeline.pipeline import (
    Pipeline,
    PreparedPipeline,
    PreparedStage,
    prepare_pipeline,
    prepare_stage,
)
from mrsi_engine.pipeline.stage import Block, Context, Stage, State
from mrsi_engine.pipeline.trace import StageTrace, trace_pipeline
from mrsi_engine.quantities import AMPLITUDES, Declaration, Quantity, signal
from mrsi_engine.spectra.basis import Basis

#: Written by the engine itself where no stage declares it.
CORRECTED = signal("corrected", "FID as the last stage left it")

_BUILDING = threading.Lock()
_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Procedure:
    """What is done to the voxels of one scan: a pipeline bound to its axis, basis and device.

    ``device`` is ``auto``, ``cpu`` or ``cuda``; which it is here says :attr:`device_here`.
    ``states`` are what the passes of its stages over the scan found, one for each of the first
    stages; without all of them only those stages can be run.
    """

    pipeline: Pipeline
    acquisition: Acquisition
    basis: Basis | None = None
    signals: tuple[str, ...] = ()
    device: str = AUTO
    layout: ScanLayout = PLAIN
    states: tuple[State, ...] = ()

    def __eq__(self, other: object) -> bool:
        # The classes too: a notebook may define a stage anew under the same name.
        return (
            isinstance(other, Procedure)
            and self.key == other.key
            and [*map(type, self.pipeline.stages)] == [*map(type, other.pipeline.stages)]
        )

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """SHA-256 of the procedure: two that do the same share their tables in a worker."""
        fingerprint = self.basis.fingerprint if self.basis is not None else None
        parts = [self.pipeline.settings(), dataclasses.asdict(self.acquisition), fingerprint]
        layout, states = dataclasses.asdict(self.layout), [*map(_digest, self.states)]
        return sha256([*parts, self.signals, self.device, layout, states])

    @cached_property
    def tables(self) -> Procedure:
        """What the stages' tables depend on: neither what is kept nor how the device is called."""
        return replace(self, signals=(), device=AUTO)

    @property
    def device_here(self) -> torch.device:
        """Where this process computes.

        Raises
        ------
        RunError
            If that is a GPU and torch sees none.
        """
        return device_here(self.device)

    @property
    def context(self) -> Context:
        """What the first stage may know, wherever it is to compute."""
        return Context(
            self.acquisition,
            self.basis,
            dimensions=tuple(name for name, _ in self.layout.dimensions),
            companions=self.layout.companions,
            classes=self.layout.classes,
            timing=self.layout.timing,
            noise=self.layout.noise,
        )

    @cached_property
    def contexts(self) -> tuple[Context, ...]:
        """What each stage may know, wherever it is to compute."""
        return tuple(self.pipeline.contexts(self.context))

    @property
    def assumptions(self) -> dict[str, Any]:
        """What the numbers rest on and the data do not say, by stage."""
        return self.pipeline.assumptions(self.context)

    @property
    def applied(self) -> list[dict[str, Any]]:
        """Settings of the stages that are not passed over in this scan."""
        return self.pipeline.applied(self.context)

    @property
    def models(self) -> dict[str, dict[str, str]]:
        """Checksums of the trained models that stages take, by stage and name."""
        return self.pipeline.models(self.context)

    @cached_property
    def passes(self) -> tuple[int, ...]:
        """Reductions over the whole scan that each stage needs."""
        pairs = zip(self.pipeline.stages, self.contexts, strict=True)
        return tuple(stage.passes(context) for stage, context in pairs)

    @cached_property
    def declaration(self) -> Declaration:
        """What the pipeline writes, with only those signals that are kept."""
        kept = tuple(q for q in self._declared.signals if q.name in self.signals)
        return replace(self._declared, signals=kept)

    @cached_property
    def signal_dimensions(self) -> dict[str, dict[str, int]]:
        """Of each kept signal, lengths of the dimensions between voxel and time."""
        return {q.name: self._left if q == CORRECTED else {} for q in self.declaration.signals}

    @property
    def written_signals(self) -> tuple[Quantity, ...]:
        """Every signal that can be kept."""
        return self._declared.signals

    @property
    def quantifies(self) -> bool:
        """Whether the pipeline ends in amounts, rather than in clean signals."""
        return any(q.role in AMPLITUDES for q in self._declared.parameters)

    @cached_property
    def _declared(self) -> Declaration:
        declared = self.pipeline.declare(self.context)
        if any(q.name == CORRECTED.name for q in declared.signals):
            return declared
        return declared + Declaration(signals=(CORRECTED,))

    @cached_property
    def _left(self) -> dict[str, int]:
        """Lengths of the dimensions between voxel and time after the last stage."""
        dimensions = self.context.dimensions
        for stage in self.pipeline.stages:
            dimensions = stage.leaves(dimensions)
        return {name: n for name, n in self.layout.dimensions if name in dimensions}

    def check(self) -> Procedure:
        """This procedure, once its stages are known to fit the scan.

        Raises
        ------
        InputError
            If a stage does not fit, two quantities would share a name, a map or a column, or a
            signal to keep is not written.
        """
        self.pipeline.check(self.context)
        declared = self._declared.check()
        written = [q.name for q in declared.signals]
        unknown = [name for name in self.signals if name not in written]
        if unknown:
            raise InputError(
                f"pipeline {self.pipeline.name} writes no signal {unknown}; it writes {written}"
            )
        return self

    def apply(self, voxels: Voxels) -> tuple[BlockArrays, float]:
        """One block of voxels through the pipeline.

        Voxels whose FID holds NaN, Inf or only zeros, and scalp, get status and flag ``NO_FIT`` and
        never reach a stage; zeros are flagged ``NO_SIGNAL``, too.

        Returns
        -------
        arrays
            The results of every voxel.
        kernel_seconds
            Time the stages took, s.

        Raises
        ------
        RunError
            If a stage did not write what it declared, or has passes over the scan still to do.
        """
        arrays = BlockArrays.unfitted(len(voxels.fids), self.declaration, self._signal_shapes())
        arrays.flags[voxels.empty] |= int(Flag.NO_SIGNAL)
        self._check_prepared()
        chosen = voxels.quantifiable
        if not chosen.any():
            return arrays, 0.0
        with _one_torch_thread():
            pipeline = _prepared(self)
            block = voxels.block(chosen, self.device_here, bool(self.signals))
            started = time.perf_counter()
            pipeline(block)
            packed = self._packed(block)
            seconds = time.perf_counter() - started
        for name, values in arrays.values().items():
            values[chosen] = packed.values()[name]
        return arrays, seconds

    def trace(self, voxels: Voxels) -> tuple[StageTrace, ...]:
        """Few voxels through the pipeline, with their FIDs before and after every stage.

        Raises
        ------
        InputError
            If a voxel never reaches a stage: NaN, Inf, only zeros, or scalp.
        RunError
            If a stage has passes over the scan still to do.
        """
        block = self._few(voxels)
        with _one_torch_thread():
            return trace_pipeline(_prepared(self), block)

    def fit_in_detail(self, voxels: Voxels) -> FitDetails:
        """Few voxels through the pipeline up to its least-squares fit, and that taken apart.

        Raises
        ------
        InputError
            If a voxel never reaches a stage: NaN, Inf, only zeros, or scalp; or no stage fits by
            least squares.
        RunError
            If a stage has passes over the scan still to do.
        """
        block = self._few(voxels)
        with _one_torch_thread():
            return fit_in_detail(_prepared(self), block)

    def summarise(self, voxels: Voxels, step: int, found: State) -> State | None:
        """What a block adds to a pass of the first stage without a state; ``None`` if nothing.

        It lies on the CPU: the blocks of a scan may be done on different devices. Voxels with NaN,
        Inf or only zeros, before or after the stages before, are left out; scalp takes part.

        Parameters
        ----------
        voxels
            As read from the scan.
        step
            Which of the stage's passes.
        found
            What its passes before found.
        """
        usable = voxels.usable
        if not usable.any():
            return None
        with _one_torch_thread():
            before, device = _prepared(self), self.device_here
            block = without_spoilt(before(voxels.block(usable, device, False)))
            if len(block.fids) == 0:
                return None
            stage, context = self._next(found, device)
            return _on(stage.summarise(context, block, step), _CPU)

    def combine(self, first: State | None, second: State | None, step: int) -> State | None:
        """Two summaries of that pass as one; their order matters to rounding."""
        if first is None or second is None:
            return first if second is None else second
        return self.pipeline.stages[len(self.states)].combine(first, second, step)

    def finish(self, summary: State | None, step: int, found: State) -> State:
        """What that pass found, on the CPU; nothing if no voxel of the scan was usable."""
        if summary is None:
            return {}
        stage, context = self._next(found, _CPU)
        with _one_torch_thread():
            return stage.finish(context, summary, step)

    def _check_prepared(self) -> None:
        if any(self.passes) and len(self.states) < len(self.passes):
            raise RunError("the passes of the stages over the whole scan are not done yet")

    def _few(self, voxels: Voxels) -> Block:
        """The block of voxels to look into."""
        self._check_prepared()
        lost = np.flatnonzero(~voxels.quantifiable)
        if lost.size:
            raise InputError(
                f"voxels {lost.tolist()} of those given are scalp or hold NaN, Inf or only "
                "zeros, so they reach no stage; choose others"
            )
        return voxels.block(voxels.quantifiable, self.device_here, False)

    def _next(self, found: State, device: torch.device) -> tuple[Stage, Context]:
        index = len(self.states)
        context = replace(self.contexts[index], device=device, state=_on(found, device))
        return self.pipeline.stages[index], context

    def _signal_shapes(self) -> dict[str, tuple[int, ...]]:
        points = self.acquisition.points
        return {n: (*self.signal_dimensions[n].values(), points) for n in self.signals}

    def _packed(self, block: Block) -> BlockArrays:
        declared = self.declaration
        parameters = [q.name for q in declared.parameters]
        if CORRECTED in declared.signals:
            block.signals[CORRECTED.name] = block.fids
        tables = {
            "estimate": _columns(block, "estimate", parameters),
            "sd": _columns(block, "sd", parameters),
            "quality": _columns(block, "measures", [q.name for q in declared.measures]),
            "status": block.status,
            "flags": block.flags,
        }
        signals = {name: _written(block, "signals", name) for name in self.signals}
        packed = BlockArrays(**to_host(tables), signals=to_host(signals))
        if not self.quantifies:
            packed.status[packed.status == Status.NO_FIT] = Status.CORRECTED
        unfitted = packed.status == Status.NO_FIT
        packed.estimate[unfitted] = packed.sd[unfitted] = np.nan
        packed.flags[unfitted] |= int(Flag.NO_FIT)
        return packed


def procedure_for(
    acquisition: Acquisition,
    pipeline: Pipeline,
    basis: Basis | None,
    keep: Sequence[str] = (),
    device: str = AUTO,
    layout: ScanLayout = PLAIN,
) -> Procedure:
    """The checked procedure of a scan, its basis on the scan's axis.

    A pipeline that quantifies nothing keeps the corrected signals unless told what to keep.

    Raises
    ------
    InputError
        If the scan, the basis and the pipeline do not fit each other.
    """
    pipeline.check_nucleus(acquisition)
    matched = basis.matched_to(acquisition) if basis is not None else None
    pipeline = pipeline.resolved(acquisition)
    signals = tuple(dict.fromkeys(keep))
    procedure = Procedure(pipeline, acquisition, matched, signals, device, layout).check()
    if signals or procedure.quantifies:
        return procedure
    return replace(procedure, signals=(CORRECTED.name,))


def _prepared(procedure: Procedure) -> PreparedPipeline:
    with _BUILDING:
        return _built(procedure.tables, procedure.device_here)


@lru_cache(maxsize=4)
def _built(procedure: Procedure, device: torch.device) -> PreparedPipeline:
    """The stages' tables, once per process; called under the lock."""
    context = replace(procedure.context, device=device)
    if context.device.type == "cuda":
        # Else convolutions keep ten bits of a number, and a GPU's estimates are not the CPU's.
        torch.backends.cudnn.allow_tf32 = False
    states = [_on(state, context.device) for state in procedure.states]
    return prepare_pipeline(procedure.pipeline, context, states, _prepared_stage)


def _prepared_stage(stage: Stage, context: Context) -> PreparedStage:
    """A stage with its tables, which scans of one protocol share unless a pass over them made some.

    What a pass found is another thing in every scan, so such a stage is no use to any other.
    """
    if context.state:
        return prepare_stage(stage, context)
    return _shared_stage(_StageAndContext(stage, context))


@lru_cache(maxsize=16)
def _shared_stage(known: _StageAndContext) -> PreparedStage:
    return prepare_stage(known.stage, known.context)


@dataclass(frozen=True, eq=False)
class _StageAndContext:
    """A stage and what it may know, known by their contents."""

    stage: Stage
    context: Context

    @cached_property
    def key(self) -> tuple[object, ...]:
        """All of them in comparable form; the class too, as a notebook may define it anew, and
        checksums of models, as one may be trained anew.
        """
        stage, context = self.stage, self.context
        fields = {f.name: getattr(context, f.name) for f in dataclasses.fields(context)}
        basis = fields.pop("basis")
        about = tuple(sorted((name, repr(value)) for name, value in fields.items()))
        models = tuple(sorted(stage.models(context).items()))
        return type(stage), stage.model_dump_json(), basis and basis.fingerprint, models, about

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _StageAndContext) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Blocks are the parallelism; more threads inside one cost 60 % and change rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        # MKL's number is global: restored from a worker thread it would hit its neighbours.
        if threading.current_thread() is threading.main_thread():
            torch.set_num_threads(before)


def _on(state: State, device: torch.device) -> State:
    return {name: values.to(device) for name, values in state.items()}


def _digest(state: State) -> dict[str, str]:
    return {name: hashlib.sha256(_bytes(values)).hexdigest() for name, values in state.items()}


def _bytes(values: Tensor) -> bytes:
    return values.detach().cpu().contiguous().numpy().tobytes()


def _columns(block: Block, kind: str, names: Sequence[str]) -> Tensor:
    """What was written under some names, side by side, ``(voxel, name)`` float32."""
    if not names:
        return block.status.new_empty((len(block.fids), 0), dtype=torch.float32)
    return torch.stack([_written(block, kind, name).to(torch.float32) for name in names], dim=1)


def _written(block: Block, kind: str, name: str) -> Tensor:
    written: Mapping[str, Tensor] = getattr(block, kind)
    if name not in written:
        raise RunError(f"a stage declared {name!r} but wrote no {kind.removesuffix('s')} of it")
    return written[name]
