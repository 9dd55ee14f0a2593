"""mrsi_engine: MR spectroscopic imaging volumes to metabolite and uncertainty maps, at scale.

    import mrsi_engine as me

    scan = me.open_scan("scan.zarr")
    result = me.quantify(scan, me.load_basis("press-3t-te30", scan))

``result`` is a lazy :class:`xarray.Dataset` that computes on whatever Dask scheduler is active.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# A voxel's maps must not depend on its neighbours in a block. MKL picks its kernels by the
# alignment of each matrix unless told otherwise, before it is first used; it costs no time here.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mrsi_engine import plot
    from mrsi_engine.api import (
        load_basis,
        load_pipeline,
        open_result,
        open_scan,
        quantify,
        run_cohort,
    )

__all__ = [
    "load_basis",
    "load_pipeline",
    "open_result",
    "open_scan",
    "plot",
    "quantify",
    "run_cohort",
]


def __getattr__(name: str) -> Any:
    # The public functions need torch, Dask and Zarr, whose import takes seconds: only on use.
    if name == "plot":
        return import_module("mrsi_engine.plot")
    if name in __all__:
        from mrsi_engine import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
