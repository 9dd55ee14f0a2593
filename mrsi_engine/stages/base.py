"""What a stage is: settings, what it writes, and a function on one block of voxels.

A stage is a frozen pydantic model; its fields are the settings a pipeline file may name. Deriving
from :class:`Stage` registers it under its ``stage`` key, so a new step of the pipeline is one file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from mrsi_engine.conventions import Acquisition, Declaration, Status
from mrsi_engine.spectra.basis import Basis


@dataclass(frozen=True)
class Context:
    """What a stage may know before it sees a voxel: the axis, the basis and where to compute."""

    acquisition: Acquisition
    basis: Basis | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass
class Block:
    """A run of voxels on its way through the pipeline; stages replace ``fids`` and add results.

    ``fids`` is ``(voxel, time)`` complex64 and holds finite numbers only: voxels with NaN, Inf or
    nothing but zeros never reach a stage. Everything in the dictionaries is keyed by the declared
    name: ``estimate``, ``sd`` and ``measures`` hold ``(voxel,)`` float tensors, ``signals``
    ``(voxel, time)`` complex64 ones.
    """

    fids: Tensor
    water: Tensor | None = None
    keep_signals: bool = False
    status: Tensor = field(init=False)
    estimate: dict[str, Tensor] = field(default_factory=dict)
    sd: dict[str, Tensor] = field(default_factory=dict)
    measures: dict[str, Tensor] = field(default_factory=dict)
    signals: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.status = torch.full(
            (len(self.fids),), Status.NO_FIT, dtype=torch.uint8, device=self.fids.device
        )


#: A stage made ready for one scan: changes the block in place.
Apply = Callable[[Block], None]


class Stage(BaseModel):
    """Base of all stages. Subclass, set ``stage``, add fields, and implement two methods."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stage: ClassVar[str] = ""
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

    def check(self, context: Context) -> Self:
        """This stage, once it is known to fit the scan; override to refuse one that does not.

        Raises
        ------
        InputError
            If the scan or the basis lacks what the stage needs.
        """
        return self
