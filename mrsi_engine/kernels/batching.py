"""How many voxels to work on together: what a core's cache holds, or what a GPU's memory allows.

Results do not depend on it but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

#: Share of a GPU's free memory that a batch may take: two threads of a worker fit.
_SHARE = 0.4

#: A GPU is busy with so many voxels; more would only take memory from others.
_MOST = 1 << 16

T = TypeVar("T")


def batch_size(device: torch.device, bytes_a_voxel: float, *, on_cpu: int) -> int:
    """Voxels of a batch: ``on_cpu``, or on CUDA the largest power of two that fits free memory.

    Parameters
    ----------
    device
        Where the batch is worked on.
    bytes_a_voxel
        Most memory that the work on one voxel takes at a time; rather too much than too little.
    on_cpu
        Voxels that fit a core's cache; on CUDA the least.
    """
    if device.type != "cuda":
        return on_cpu
    fit = int(_SHARE * _free_bytes(device) / bytes_a_voxel)
    return max(on_cpu, min(_MOST, 1 << max(fit.bit_length() - 1, 0)))


def in_batches(work: Callable[[slice], T], voxels: int, size: int) -> list[T]:
    """What ``work`` makes of all voxels, ``size`` at a time; of fewer where a GPU's memory is full.

    Parameters
    ----------
    work
        Called with the voxels of a batch; must leave nothing behind when it fails.
    voxels, size
        How many there are, and how many to begin with at a time. None make one empty batch.
    """
    parts: list[T] = []
    start = 0
    while start < voxels or not parts:
        stop = min(start + size, voxels)
        try:
            parts.append(work(slice(start, stop)))
        except torch.cuda.OutOfMemoryError:
            if stop - start <= 1:
                raise
            size = (stop - start) // 2
        else:
            start = stop
            continue
        # Only here is what the failed work held let go of, with its traceback.
        torch.cuda.empty_cache()
    return parts


def _free_bytes(device: torch.device) -> int:
    """Memory of a GPU that nobody uses, with what torch keeps for its next tensors."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
