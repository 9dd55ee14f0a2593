"""A finished run whose stores are opened once for all that is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.io.result_store import ResultStore, in_memory
from mrsi_engine.io.scan_store import SCAN_STORE, ScanStore
from mrsi_engine.io.stored_tissue import tissue_of
from mrsi_engine.runs.folder import check_links, result_folder, scan_folder


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run's folder with its stores; made by :func:`open_run`.

    ``result`` has its numbers in memory, signals are read when they are asked for.
    """

    folder: Path
    store: ResultStore
    result: xr.Dataset

    @cached_property
    def scan(self) -> ScanStore:
        """The scan store.

        Raises
        ------
        InputError, DamagedError
            As :meth:`~mrsi_engine.io.scan_store.ScanStore.open`.
        """
        return ScanStore.open(scan_folder(self.folder))

    @cached_property
    def tissue(self) -> dict[str, NDArray[np.float32]]:
        """Tissue fractions ``(voxel,)`` by class; empty without any, or without the scan store."""
        if not SCAN_STORE.holds(scan_folder(self.folder)):
            return {}
        return tissue_of(self.scan, self.store.voxels)

    def annotate(self, **attributes: Any) -> None:
        """Replace attributes of the result, here and, where they are not the same, on disk."""
        known = self.result.attrs
        if any(known.get(name) != value for name, value in attributes.items()):
            self.store.annotate(**attributes)
        self.result.attrs.update(attributes)


def open_run(folder: Path, *, signals: bool = False) -> OpenedRun:
    """A finished run, once its results are known to be as they were written.

    Parameters
    ----------
    signals
        Whether kept signals are looked at, too; else they are only seen to be there.

    Raises
    ------
    InputError
        If the folder holds no result store, or a link leads out of it.
    DamagedError
        If a file of the result store is missing or damaged.
    """
    check_links(folder)
    store = ResultStore.open(result_folder(folder))
    store.check(signals=signals)
    return OpenedRun(folder, store, in_memory(store.to_xarray()))
