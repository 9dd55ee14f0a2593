"""The network of stage ``fpc``: loaded once a process, refused where it is not for the scan."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.networks.fpc import TEMPLATE, Corrector
from mrsi_engine.networks.model import Model, load_model


def suited_model(source: str, acquisition: Acquisition) -> Model:
    """A model by folder or name, once it is known to be for the scan.

    Raises
    ------
    InputError
        If there is no such model, it is of another kind or for another acquisition (named).
    """
    return _loaded(source, "cpu").model.check_scan(acquisition)


def corrector(source: str, device: str) -> Corrector:
    """The model made ready on a device."""
    return _loaded(source, device)


def model_template(source: str) -> Tensor:
    """The template that shifts and phases of the model are relative to, ``(time,)`` complex64."""
    return _loaded(source, "cpu").model.tensors[TEMPLATE]


@lru_cache(maxsize=4)
def _loaded(source: str, device: str) -> Corrector:
    return Corrector.of(load_model(source, "fpc"), device)
