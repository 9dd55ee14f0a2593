"""Whether there is room for what a file announces, before anything is written."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path

import numpy as np

from mrsi_engine.errors import InputError
from mrsi_engine.io.bounds import in_words, readable
from mrsi_engine.io.import_inputs import Inputs
from mrsi_engine.io.places import is_remote

_ITEM = np.dtype(np.complex64).itemsize

# Share of the free space that an import may take.
_OF_THE_DISK = 0.9


def check_room(inputs: Inputs, folder: Path, memory_budget: int) -> None:
    """Refuse files that announce more than there is room for.

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
            f"{inputs.scan.path}: announces {in_words(inputs.scan.shape)} samples, for which an "
            f"import needs up to {readable(needed)} at {there} (scratch file and store), where "
            f"{readable(free)} are free; give a mask, fewer --points, or an --out with more space"
        )
