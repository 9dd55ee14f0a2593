"""Whether there is room for what a file announces, before anything is written."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from mrsi_engine.errors import InputError
from mrsi_engine.io.import_inputs import Inputs
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader
from mrsi_engine.io.places import is_remote

_ITEM = np.dtype(np.complex64).itemsize

# Deflate makes a byte of at most 1032.
_MOST_COMPRESSED = 1032

# FIDs hardly compress: a large file that shrinks by more than this is nearly all zeros.
_SUSPECT_COMPRESSION, _SUSPECT_SIZE = 100, 4 << 30

# Share of the free space that an import may take, and of the memory that a time point may.
_OF_THE_DISK, _OF_THE_MEMORY = 0.9, 0.25


def check_room(inputs: Inputs, folder: Path, memory_budget: int) -> None:
    """Refuse files that hold less than their headers announce, or more than there is room for.

    Parameters
    ----------
    inputs
        What was found in the files.
    folder
        Where scratch files and store go; it may not exist yet.
    memory_budget
        Bytes of samples that are held in memory rather than in a scratch file.

    Raises
    ------
    InputError
        Names what the file announces, what there is, and what to do.
    """
    needed = 0
    for header in inputs.headers:
        _check_announced(header)
        kept = math.prod(header.grid.shape) if inputs.keep is None else len(inputs.keep)
        table = kept * min(header.points_in_file, inputs.points) * header.signals * _ITEM
        scratch = table if table > memory_budget // len(inputs.headers) else 0
        needed += table + scratch
    there = Path(tempfile.gettempdir()) if is_remote(folder) else folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed > _OF_THE_DISK * free:
        raise InputError(
            f"{inputs.scan.path}: announces {_shape(inputs.scan)} samples, for which an import "
            f"needs up to {readable(needed)} at {there} (scratch file and store), where "
            f"{readable(free)} are free; give a mask, fewer --points, or an --out with more space"
        )


def _check_announced(header: NIfTIMRSHeader) -> None:
    samples = math.prod(header.shape) * header.dtype.itemsize
    on_disk = header.path.stat().st_size
    announced = header.offset + samples
    if announced > on_disk * (_MOST_COMPRESSED if header.compressed else 1):
        raise InputError(
            f"{header.path}: truncated or damaged: the header announces {_shape(header)} samples, "
            f"{announced} bytes ({readable(announced)}), more than a file of {on_disk} bytes can "
            "hold; copy or convert it again"
        )
    if announced > max(_SUSPECT_SIZE, _SUSPECT_COMPRESSION * on_disk):
        raise InputError(
            f"{header.path}: {readable(on_disk)} on disk announce {readable(announced)} "
            f"({_shape(header)} samples): such a file holds next to nothing but zeros; if it is "
            "meant to, decompress it (gunzip) and give that"
        )
    plane = math.prod(header.grid.shape) * header.dtype.itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if plane > _OF_THE_MEMORY * memory:
        raise InputError(
            f"{header.path}: announces {_shape(header)} samples: one time point takes "
            f"{readable(plane)} of the {readable(memory)} of memory here; cut the volume"
        )


def _shape(header: NIfTIMRSHeader) -> str:
    return " x ".join(map(str, header.shape))


def readable(size: float) -> str:
    """Bytes in a unit that suits them, three digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
