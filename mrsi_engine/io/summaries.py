"""Summaries of parts of a scan on their way to one: files beside the result store, soon gone.

Workers hand summaries on through the file system as they do results: none travels through a
scheduler, and a run that is killed half-way through a pass goes on with the parts that are there.
"""

from __future__ import annotations

import io
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.errors import DamagedError
from mrsi_engine.io.files import writable
from mrsi_engine.io.integrity import checksum, chunk_fault, unchecked
from mrsi_engine.io.result_store import ResultStore


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
                packed = _packed(arrays)
                with aside.open("wb") as file:
                    file.writelines([packed, checksum(packed)])
                os.replace(aside, self._file(part))
            finally:
                aside.unlink(missing_ok=True)

    def read(self, part: int) -> dict[str, NDArray[Any]]:
        """The summary of a part.

        Raises
        ------
        DamagedError
            If its file is missing or damaged.
        """
        file = self._file(part)
        data = unchecked(file.read_bytes()) if file.is_file() else None
        if data is None:
            raise DamagedError(
                f"{file}: {chunk_fault(file)}: the summary of part {part} of a pass over the scan; "
                "run the same command again: it does this part again"
            )
        with np.load(io.BytesIO(data.tobytes()), allow_pickle=False) as stored:
            return {name.removeprefix("_"): stored[name] for name in stored.files}

    def missing(self, parts: int) -> list[int]:
        """Which of so many parts are still to be summarised, ascending; damaged ones are."""
        return [part for part in range(parts) if chunk_fault(self._file(part))]

    def remove(self) -> None:
        """Delete all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, part: int) -> Path:
        return self.folder / f"{part}.npz"


def _packed(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
