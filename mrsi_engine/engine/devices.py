"""Which device a process computes on, and how arrays get there and back.

A run says ``auto``, ``cpu`` or ``cuda``. What ``auto`` is, every process finds for itself: with a
scheduler elsewhere its workers may have GPUs where the driver has none, or the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.choices import AUTO
from mrsi_engine.errors import InputError, RunError


def check_device(name: str, *, here: bool) -> str:
    """The name of a device, once it is known to be one; ``here`` if this process computes on it.

    Raises
    ------
    InputError
        If there is no such device, or this machine has none and is to compute on it.
    """
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", name) is None:
        raise InputError(f"device is {name!r}, expected auto, cpu or cuda")
    if here and not _is_here(name):
        raise InputError(f"device is {name!r}, but {_found()} on this machine; use auto or cpu")
    return name


def device_here(name: str) -> torch.device:
    """The device of that name in this process.

    Raises
    ------
    RunError
        If it is a GPU that torch does not see.
    """
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not _is_here(name):
        raise RunError(
            f"device is {name!r}, but {_found()} in this worker; start workers that have one, or "
            "use --device auto"
        )
    return torch.device(name)


def title_of(device: torch.device) -> str:
    """What a device is called where it is reported: ``cpu``, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def gpus_here(name: str) -> int:
    """GPUs of this machine that a run may use: all unless its device is a certain one."""
    if name == "cpu" or not torch.cuda.is_available():
        return 0
    return 1 if ":" in name else torch.cuda.device_count()


def gpu_workers(name: str, workers: int | None) -> int:
    """Processes of a local run that each get a GPU of their own; 0 if none needs that.

    Raises
    ------
    InputError
        If more workers are asked for than there are GPUs, or what hands them out is missing.
    """
    gpus = gpus_here(name)
    if gpus < 2 or workers in (0, 1):
        return 0
    if workers is not None and workers > gpus:
        raise InputError(
            f"workers is {workers}, but torch sees {gpus} GPUs and each gets one process; give at "
            f"most {gpus}, or --device cpu"
        )
    try:
        import_module("dask_cuda")
    except ImportError as error:
        raise InputError(
            f"torch sees {gpus} GPUs, and one process for each needs dask-cuda ({error}): install "
            "it with pip install 'mrsi-engine[cuda]', or use one GPU with --workers 1"
        ) from error
    return workers or gpus


def rows_to_device(values: NDArray[Any], chosen: NDArray[np.bool_], device: torch.device) -> Tensor:
    """The chosen rows of an array as a tensor on a device.

    To a GPU they go through page-locked memory, from where the copy runs beside the host.
    """
    if device.type != "cuda":
        return torch.from_numpy(values[chosen]).to(device)
    shape = (int(chosen.sum()), *values.shape[1:])
    staged = _page_locked(shape, torch.from_numpy(values[:0]).dtype)
    np.compress(chosen, values, axis=0, out=staged.numpy())
    return staged.to(device, non_blocking=True)


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors of one device as arrays, copied from a GPU together; from the CPU not at all."""
    copies = {name: _begun_copy(tensor.detach()) for name, tensor in tensors.items()}
    for device in {t.device for t in tensors.values() if t.device.type == "cuda"}:
        torch.cuda.current_stream(device).synchronize()
    return {name: copy.numpy() for name, copy in copies.items()}


def _begun_copy(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.cpu()
    staged = _page_locked(tensor.shape, tensor.dtype)
    return staged.copy_(tensor, non_blocking=True)


def _page_locked(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    # torch keeps such memory for the next copy; asking the system for it anew would take longer
    # than what is gained.
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def _is_here(name: str) -> bool:
    if not name.startswith("cuda"):
        return True
    index = int(name.partition(":")[2] or 0)
    return torch.cuda.is_available() and index < torch.cuda.device_count()


def _found() -> str:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"torch sees {count or 'no'} GPU{'s' if count > 1 else ''}"
