"""What a stage is: settings, what it writes, and a function on one block of voxels.

A stage is a frozen pydantic model; its fields are the settings a pipeline file may name. Deriving
from :class:`Stage` registers it under its ``stage`` key, so a new step of the pipeline is one file.

Some stages need the whole scan at once: a template, a subspace, a lipid basis. They say how to
``summarise`` a block, how to ``combine`` two summaries and how to ``finish`` them into a small
state; the engine runs that reduction over all blocks, as they leave the stages before, and hands
the state back in the context.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mrsi_engine.companions import SCALP, TISSUE, WATER
from mrsi_engine.conventions import WHITE, Acquisition, ScanNoise, Status
from mrsi_engine.pipeline.settings import Settings
from mrsi_engine.quantities import Declaration, Quantity
from mrsi_engine.spectra.basis import Basis

#: Small named tensors: what a block says of itself for a reduction, or what a reduction found.
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Context:
    """What a stage may know before it sees a voxel.

    Parameters
    ----------
    acquisition, basis, device
        The axis of the FIDs, the basis on it, and where to compute.
    dimensions
        Of the FIDs between voxel and time as they reach the stage, e.g. ``("coil", "dynamic")``.
    companions
        Names of what came with the scan, see :mod:`mrsi_engine.companions`.
    classes
        Names of the classes of companions that have some, in the order of :attr:`Block.companions`.
    timing
        ``echo_time`` and ``repetition_time`` of signals that came with it, s, as far as their files
        say.
    state
        What the stage's own passes over the scan found, by name.
    written
        Parameters that the stages before write.
    noise
        What is known of the noise.
    """

    acquisition: Acquisition
    basis: Basis | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dimensions: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    timing: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    state: State = field(default_factory=dict)
    written: tuple[Quantity, ...] = ()
    noise: ScanNoise = WHITE

    @property
    def has_water(self) -> bool:
        """Whether the scan has a water reference."""
        return WATER.name in self.companions

    @property
    def has_scalp(self) -> bool:
        """Whether voxels are marked as scalp."""
        return SCALP.name in self.companions

    @property
    def tissue_classes(self) -> tuple[str, ...]:
        """Names of the tissue fractions, empty without them."""
        return self.classes.get(TISSUE.name, ())

    @property
    def water_echo_time(self) -> float | None:
        """Of the water reference, s; ``None`` where its file does not say."""
        return self.timing.get(WATER.name, {}).get("echo_time")

    @property
    def water_repetition_time(self) -> float | None:
        """Of the water reference, s; ``None`` where its file does not say."""
        return self.timing.get(WATER.name, {}).get("repetition_time")


@dataclass
class Block:
    """A run of voxels on its way through the pipeline; stages replace ``fids`` and add results.

    ``fids`` are ``(voxel, [coil,] [dynamic,] time)`` complex64; which dimensions stand between
    voxel and time is what the context of each stage says. They hold finite numbers only: voxels
    with NaN, Inf or nothing but zeros never reach a stage. ``coordinates (voxel, 3)`` int32 say
    where a voxel lies, ``companions`` what came with the scan, ``(voxel, ...)`` by its name in
    :mod:`mrsi_engine.companions`; ``water``, ``scalp`` and ``tissue`` are short for three of them.
    Everything in the other dictionaries is keyed by the declared name: ``estimate``, ``sd`` and
    ``measures`` hold ``(voxel,)`` float tensors, ``signals`` ``(voxel, time)`` complex64 ones.

    ``noise_sd (voxel,)`` is set by a stage that changes the noise (denoising) to what it was
    before, and is then what error bars are computed from.

    ``covariance_with`` holds what the SD of a ratio needs: by reference (every sum of metabolites
    that is written, and what ``ratio_to`` of the fit names) and parameter, the covariance of the
    two amplitudes ``(voxel,)`` float64 in data units squared; NaN where it is not known.
    """

    fids: Tensor
    companions: dict[str, Tensor] = field(default_factory=dict)
    coordinates: Tensor | None = None
    noise_sd: Tensor | None = None
    keep_signals: bool = False
    status: Tensor = field(init=False)
    flags: Tensor = field(init=False)
    estimate: dict[str, Tensor] = field(default_factory=dict)
    sd: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, Tensor] = field(default_factory=dict)
    signals: dict[str, Tensor] = field(default_factory=dict)
    covariance_with: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.status = torch.full(
            (len(self.fids),), Status.NO_FIT, dtype=torch.uint8, device=self.fids.device
        )
        self.flags = torch.zeros_like(self.status, dtype=torch.int32)

    @property
    def water(self) -> Tensor | None:
        """The water reference, dimensions as those of ``fids``; ``None`` without one."""
        return self.companions.get(WATER.name)

    @water.setter
    def water(self, fids: Tensor) -> None:
        self.companions[WATER.name] = fids

    @property
    def scalp(self) -> Tensor | None:
        """Which voxels are scalp, ``(voxel,)`` bool; ``None`` if none is marked."""
        return self.companions.get(SCALP.name)

    @property
    def tissue(self) -> Tensor | None:
        """Fractions ``(voxel, class)`` float32, NaN or 0 where they are not known."""
        return self.companions.get(TISSUE.name)


#: A stage made ready for one scan: changes the block in place.
Apply = Callable[[Block], None]


class Stage(Settings):
    """Base of all stages. Subclass, set ``stage``, add fields, and implement two methods."""

    stage: ClassVar[str] = ""
    #: Raised whenever the numbers of the stage change: a run goes on only with results of the same.
    #: A stage that states none is known by the version of the package it comes from.
    revision: ClassVar[int | None] = None
    #: What NIfTI-MRS calls such a step in ``ProcessingApplied``; the key of the stage by default.
    processing_method: ClassVar[str] = ""
    registry: ClassVar[dict[str, type[Stage]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if cls.stage:
            Stage.registry[cls.stage] = cls

    @abstractmethod
    def declare(self, context: Context) -> Declaration:
        """What this stage writes for this scan."""

    @abstractmethod
    def build(self, context: Context) -> Apply:
        """Tables made once per scan and worker, bound into the function that does a block."""

    def assumptions(self, context: Context) -> Mapping[str, Any]:
        """What the numbers of this stage rest on and the data do not say; for sidecars."""
        return {}

    def models(self, context: Context) -> Mapping[str, str]:
        """SHA-256 of the trained models that this stage takes for this scan, by their name.

        A run is known by them, as by its settings.
        """
        return {}

    def skipped(self, context: Context) -> bool:
        """Whether the stage does nothing in this scan, because that lacks what it needs."""
        return False

    def leaves(self, dimensions: tuple[str, ...]) -> tuple[str, ...]:
        """Dimensions of the FIDs after this stage, given those before it."""
        return dimensions

    def passes(self, context: Context) -> int:
        """How many reductions over the whole scan this stage needs before it can be built."""
        return 0

    def summarise(self, context: Context, block: Block, step: int) -> State:
        """What a block adds to reduction ``step``: tensors whose size does not grow with voxels.

        The context holds what the steps before found.
        """
        raise NotImplementedError(f"stage {self.stage!r} has no passes over the scan")

    def combine(self, first: State, second: State, step: int) -> State:
        """Two summaries as one; their sum unless overridden. Must be associative."""
        return {name: first[name] + second[name] for name in first}

    def finish(self, context: Context, summary: State, step: int) -> State:
        """What reduction ``step`` found, added to the state the next step and ``build`` see."""
        return summary

    def review(self, found: State) -> Tensor | None:
        """What only the finished result can tell: flags to add, ``(voxel,)`` int32; else ``None``.

        ``found`` holds ``status``, ``flags`` and, by parameter, ``NAME`` and ``NAME_sd``, each
        ``(voxel,)``. Called again on the same result it must say the same.
        """
        return None

    def check(self, context: Context) -> Self:
        """This stage, once it is known to fit the scan; override to refuse one that does not.

        Raises
        ------
        InputError
            If the scan or the basis lacks what the stage needs.
        """
        return self
