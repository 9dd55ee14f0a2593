"""What is done to the voxels of one scan: the per-block function every way of running shares."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.conventions import Acquisition, Declaration, Status
from mrsi_engine.engine.identity import sha256
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.result_store import BlockArrays
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages.base import Block, Context
from mrsi_engine.stages.pipeline import Pipeline, prepare_pipeline

_BUILDING = threading.Lock()


@dataclass(frozen=True, eq=False)
class Recipe:
    """What is done to the voxels of one scan: a pipeline bound to its axis, basis and device."""

    pipeline: Pipeline
    acquisition: Acquisition
    basis: Basis | None = None
    signals: tuple[str, ...] = ()
    device: str = "cpu"

    def __eq__(self, other: object) -> bool:
        # The classes too: a notebook may define a stage anew under the same name.
        return (
            isinstance(other, Recipe)
            and self.key == other.key
            and [*map(type, self.pipeline.stages)] == [*map(type, other.pipeline.stages)]
        )

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """SHA-256 of the recipe: two that do the same share their tables in a worker."""
        fingerprint = self.basis.fingerprint if self.basis is not None else None
        parts = [self.pipeline.settings(), dataclasses.asdict(self.acquisition), fingerprint]
        return sha256([*parts, self.signals, self.device])

    @property
    def context(self) -> Context:
        """What the stages may know."""
        return Context(self.acquisition, self.basis, torch.device(self.device))

    @cached_property
    def declaration(self) -> Declaration:
        """What the pipeline writes, with only those signals that are kept."""
        declared = self.pipeline.declare(self.context)
        kept = tuple(q for q in declared.signals if q.name in self.signals)
        return dataclasses.replace(declared, signals=kept)

    def check(self) -> Recipe:
        """This recipe, once its stages are known to fit the scan.

        Raises
        ------
        InputError
            If a stage does not fit, two write the same name, or a signal to keep is not written.
        """
        self.pipeline.check(self.context)
        declared = self.pipeline.declare(self.context)
        for kind in ("parameters", "measures", "signals"):
            names = Counter(q.name for q in getattr(declared, kind))
            twice = [name for name, count in names.items() if count > 1]
            if twice:
                raise InputError(
                    f"pipeline {self.pipeline.name}: more than one stage writes the {kind} {twice}"
                )
        written = [q.name for q in declared.signals]
        unknown = [name for name in self.signals if name not in written]
        if unknown:
            raise InputError(
                f"pipeline {self.pipeline.name} writes no signal {unknown}; it writes {written}"
            )
        return self

    def apply(
        self, fids: NDArray[np.complex64], water: NDArray[np.complex64] | None = None
    ) -> tuple[BlockArrays, float]:
        """One block of voxels through the pipeline.

        Parameters
        ----------
        fids, water
            ``(voxel, time)`` complex64. Voxels whose FID holds NaN, Inf or only zeros get status
            ``NO_FIT`` and never reach a stage; a water FID with NaN or Inf counts as no signal.

        Returns
        -------
        arrays
            The results of every voxel.
        kernel_seconds
            Time the stages took, s.

        Raises
        ------
        RunError
            If a stage did not write what it declared.
        """
        voxels, points = fids.shape
        arrays = BlockArrays.unfitted(voxels, points, self.declaration, self.signals)
        usable = _usable(fids)
        if not usable.any():
            return arrays, 0.0
        pipeline = _prepared(self)
        block = self._block(fids[usable], None if water is None else water[usable])
        with _one_torch_thread():
            started = time.perf_counter()
            pipeline(block)
            packed = self._packed(block)
            seconds = time.perf_counter() - started
        for name, values in arrays.values().items():
            values[usable] = packed.values()[name]
        return arrays, seconds

    def _block(self, fids: NDArray[np.complex64], water: NDArray[np.complex64] | None) -> Block:
        device = torch.device(self.device)
        if water is not None:
            water = np.where(np.isfinite(water).all(axis=1, keepdims=True), water, 0)
        return Block(
            torch.from_numpy(fids).to(device),
            None if water is None else torch.from_numpy(water).to(device),
            keep_signals=bool(self.signals),
        )

    def _packed(self, block: Block) -> BlockArrays:
        declared = self.declaration
        parameters = [q.name for q in declared.parameters]
        estimate = _columns(block.estimate, parameters, "estimate", len(block.fids))
        sd = _columns(block.sd, parameters, "sd", len(block.fids))
        status = block.status.cpu().numpy()
        unfitted = status == Status.NO_FIT
        estimate[unfitted] = sd[unfitted] = np.nan
        return BlockArrays(
            estimate=estimate,
            sd=sd,
            quality=_columns(
                block.measures, [q.name for q in declared.measures], "measure", len(block.fids)
            ),
            status=status,
            signals={n: _written(block.signals, n, "signal").cpu().numpy() for n in self.signals},
        )


def recipe_for(
    acquisition: Acquisition,
    pipeline: Pipeline,
    basis: Basis | None,
    keep_signals: Sequence[str] = (),
    device: str = "cpu",
) -> Recipe:
    """The checked recipe of a scan, its basis on the scan's axis.

    Raises
    ------
    InputError
        If the scan, the basis and the pipeline do not fit each other.
    """
    matched = basis.matched_to(acquisition) if basis is not None else None
    signals = tuple(dict.fromkeys(keep_signals))
    return Recipe(pipeline, acquisition, matched, signals, device).check()


def _prepared(recipe: Recipe) -> Callable[[Block], Block]:
    with _BUILDING:
        return _built(recipe)


@lru_cache(maxsize=4)
def _built(recipe: Recipe) -> Callable[[Block], Block]:
    """The stages' tables, once per process; called under the lock."""
    return prepare_pipeline(recipe.pipeline, recipe.context)


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


def _usable(fids: NDArray[np.complex64]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(fids).all(axis=1) & fids.any(axis=1))


def _columns(
    written: Mapping[str, Tensor], names: Sequence[str], what: str, voxels: int
) -> NDArray[np.float32]:
    if not names:
        return np.empty((voxels, 0), np.float32)
    columns = [_written(written, name, what) for name in names]
    return torch.stack([c.to(torch.float32) for c in columns], dim=1).cpu().numpy()


def _written(written: Mapping[str, Tensor], name: str, what: str) -> Tensor:
    if name not in written:
        raise RunError(f"a stage declared {name!r} but wrote no {what} of it")
    return written[name]
