"""Tissue fractions of the scan that a result was made from, where its store is still there."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.companions import TISSUE
from mrsi_engine.io.places import followed, place
from mrsi_engine.io.scan_store import SCAN_STORE, ScanStore


def stored_tissue(result: xr.Dataset) -> dict[str, NDArray[np.float32]]:
    """Fractions ``(voxel,)`` by class, of a result that was opened whole; empty without any.

    Raises
    ------
    DamagedError
        If the scan store is damaged.
    """
    source, scan = result.encoding.get("source"), result.attrs.get("scan")
    if not source or not scan:
        return {}
    path = followed(place(source), scan)
    if not SCAN_STORE.holds(path):
        return {}
    return tissue_of(ScanStore.open(path), result.sizes["voxel"])


def tissue_of(scan: ScanStore, voxels: int) -> dict[str, NDArray[np.float32]]:
    """Fractions ``(voxel,)`` by class; empty without any, or for another number of voxels."""
    fractions = scan.read(TISSUE.name, 0, scan.voxels)
    if fractions is None or len(fractions) != voxels:
        return {}
    return dict(zip(scan.classes[TISSUE.name], fractions.T, strict=True))
