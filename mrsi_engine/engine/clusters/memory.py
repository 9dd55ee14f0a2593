"""How much memory a worker needs, computed from what it is to do.

The figures are upper bounds of peaks of whole processes that were measured with the shipped
pipelines (1H, 512 to 4096 points, 128 to 4096 signals a block, 5 and 20 metabolites; whole scans of
28 to 784 voxels); see ``tests/engine/test_clusters_memory.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

_MIB = 1 << 20

#: A process that has imported everything.
_PROCESS = 420 * _MIB

#: Copies of a block that its stages hold at the same time; more while dimensions are combined.
_COPIES, _COPIES_COMBINED = 17, 30

#: Tables of a metabolite by the point, bytes; those of a small basis are no smaller.
_TABLES, _FEWEST = 3300, 20

#: What import, tables, maps and report of a scan take beside it, and copies of its signals.
_AROUND_A_SCAN, _COPIES_OF_A_SCAN = 80 * _MIB, 35

_COMPLEX64 = 8


def least_bytes() -> int:
    """What a worker needs to do anything at all."""
    return _PROCESS


def bytes_needed(
    points: int,
    block_size: int,
    dimensions: Iterable[int] = (),
    metabolites: int = 0,
    threads: int = 1,
) -> int:
    """Most memory of a worker process that does blocks of a scan, itself included.

    Parameters
    ----------
    points
        Of a FID.
    block_size
        Voxels a block.
    dimensions
        Lengths of the FIDs' dimensions between voxel and time.
    metabolites
        Of the basis.
    threads
        Blocks that the worker does at once.
    """
    signals = math.prod(dimensions)
    block = block_size * signals * points * _COMPLEX64
    tables = max(metabolites, _FEWEST) * points * _TABLES
    copies = _COPIES if signals == 1 else _COPIES_COMBINED
    return _PROCESS + tables + threads * copies * block


def bytes_of_scan(
    points: int,
    voxels: int,
    dimensions: Iterable[int] = (),
    metabolites: int = 0,
    threads: int = 1,
) -> int:
    """As :func:`bytes_needed`, of a worker that does a whole scan, from import to report."""
    signals = voxels * math.prod(dimensions) * points * _COMPLEX64
    whole = threads * (_AROUND_A_SCAN + _COPIES_OF_A_SCAN * signals)
    return bytes_needed(points, 0, (), metabolites) + whole
