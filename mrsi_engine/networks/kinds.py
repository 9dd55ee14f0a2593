"""Kinds of networks: each is a file of this room that says how it is trained and made ready.

A new kind is a file that defines ``KIND`` and a row of :mod:`~mrsi_engine.networks.kind_names`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.networks.kind_names import MODULES
from mrsi_engine.networks.model import Model
from mrsi_engine.networks.recipe_files import RecipeFile
from mrsi_engine.networks.training import TrainingProgress
from mrsi_engine.spectra.basis import Basis


@dataclass(frozen=True)
class RealSignals:
    """Signals of a scan to learn from without labels: ``fids (signal, time)``, where from."""

    fids: NDArray[np.complex64]
    source: str


@dataclass(frozen=True)
class GivenBasis:
    """The basis a user named, not read yet.

    Parameters
    ----------
    own_axis
        Reads the axis that it has when no scan says otherwise.
    on
        Reads it, or simulates it, for an axis.
    """

    own_axis: Callable[[], Acquisition]
    on: Callable[[Acquisition], Basis]


@dataclass(frozen=True)
class GivenScan:
    """The scan a user named to learn from, not read yet; ``name`` is for messages."""

    name: str
    read: Callable[[], tuple[RealSignals, Acquisition]]


@dataclass(frozen=True)
class Given:
    """What a training is given beside its recipe.

    Parameters
    ----------
    folder
        New or empty, or of the training that is to go on.
    basis, scan
        Where they were named.
    start
        Folder or name of a model whose weights to begin with.
    resume
        Go on from the folder's checkpoint.
    device, on_point
        Where; and what is told of the progress.
    """

    folder: Path
    basis: GivenBasis | None = None
    scan: GivenScan | None = None
    start: str | None = None
    resume: bool = False
    device: str | torch.device = "cpu"
    on_point: Callable[[TrainingProgress], None] | None = None


@dataclass(frozen=True)
class NetworkKind:
    """What the engine goes by.

    Parameters
    ----------
    name
        As recipes and cards say it.
    recipe
        The model of its recipe files.
    train
        Trains a model by a recipe and writes its folder.
    ready
        A loaded model made ready to be asked, on a device.
    """

    name: str
    recipe: type[RecipeFile]
    train: Callable[[Any, Given], tuple[Model, TrainingProgress]]
    ready: Callable[[Model, str | torch.device], Any]


def network_kind(name: str) -> NetworkKind:
    """The kind of this name.

    Raises
    ------
    KeyError
        If there is none.
    """
    kind: NetworkKind = import_module(MODULES[name]).KIND
    return kind
