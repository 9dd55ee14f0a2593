"""How much memory a worker needs, computed from what it is to do."""

from __future__ import annotations

_MIB = 1 << 20

#: A process that has imported everything, with the tables of the largest shipped pipeline.
_PROCESS = 500 * _MIB


def least_bytes() -> int:
    """What a worker needs to do anything at all."""
    return _PROCESS
