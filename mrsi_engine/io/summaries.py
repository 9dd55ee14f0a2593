"""Summaries of parts of a scan on their way to one: files beside the result store, soon gone.

Workers hand summaries on through the file system as they do results: none travels through a
scheduler, and a run that is killed half-way through a pass goes on with the parts that are there.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.io.result_store import ResultStore, writable


@dataclass(frozen=True)
class Summaries:
    """The summaries of one pass, by part; ``folder`` is made when the first is written."""

    folder: Path

    @classmethod
    def of(cls, store: ResultStore, stage: int, step: int) -> Summaries:
        """Those of pass ``step`` of the stage with this index in a run."""
        run = str(store.attributes.get("run_fingerprint", ""))[:16]
        # A leftover for ResultStore.remove_leftovers should nobody come back for it.
        name = f".{store.path.name}.{run}-{stage}-{step}.partial"
        return cls(store.path.parent / name)

    def write(self, part: int, summary: Mapping[str, NDArray[Any]]) -> None:
        """Keep the summary of a part; an empty one says that it has no voxel to speak of.

        Raises
        ------
        DiskFullError
            If the disk is full.
        """
        # Prefixed, for savez has arguments of its own.
        arrays: dict[str, Any] = {f"_{name}": values for name, values in summary.items()}
        aside = self.folder / f".{part}.{uuid.uuid4().hex}"
        with writable(self.folder):
            self.folder.mkdir(exist_ok=True)
            try:
                with aside.open("wb") as file:
                    np.savez(file, **arrays)
                os.replace(aside, self._file(part))
            finally:
                aside.unlink(missing_ok=True)

    def read(self, part: int) -> dict[str, NDArray[Any]]:
        """The summary of a part."""
        with np.load(self._file(part), allow_pickle=False) as stored:
            return {name.removeprefix("_"): stored[name] for name in stored.files}

    def missing(self, parts: int) -> list[int]:
        """Which of so many parts are still to be summarised, ascending."""
        return [part for part in range(parts) if not self._file(part).is_file()]

    def remove(self) -> None:
        """Delete all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, part: int) -> Path:
        return self.folder / f"{part}.npz"
