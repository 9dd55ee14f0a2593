"""Summaries of parts of a scan on their way to one: files beside the result store, soon gone.

Workers hand summaries on through the file system as they do results: none travels through a
scheduler, and a run that is killed half-way through a pass goes on with the parts that are there.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.errors import DamagedError
from mrsi_engine.io.files import remove_leftover, replace_file, writable
from mrsi_engine.io.integrity import checksum, chunk_fault, unchecked
from mrsi_engine.io.objects import contents
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
        packed = _packed(arrays)
        with writable(self.folder):
            replace_file(self._file(part), b"".join([packed, checksum(packed)]))

    def read(self, part: int) -> dict[str, NDArray[Any]]:
        """The summary of a part.

        Raises
        ------
        DamagedError
            If its file is missing or damaged.
        """
        (data,) = contents(self.folder, [_name(part)])
        inside = None if data is None else unchecked(data)
        if inside is None:
            raise DamagedError(
                f"{self._file(part)}: {chunk_fault(data)}: the summary of part {part} of a pass "
                "over the scan; run the same command again: it does this part again"
            )
        with np.load(io.BytesIO(inside.tobytes()), allow_pickle=False) as stored:
            return {name.removeprefix("_"): stored[name] for name in stored.files}

    def missing(self, parts: int) -> list[int]:
        """Which of so many parts are still to be summarised, ascending; damaged ones are."""
        names = [_name(part) for part in range(parts)]
        found = enumerate(contents(self.folder, names))
        return [part for part, data in found if chunk_fault(data) is not None]

    def remove(self) -> None:
        """Delete all of them."""
        remove_leftover(self.folder)

    def _file(self, part: int) -> Path:
        return self.folder / _name(part)


def _name(part: int) -> str:
    return f"{part}.npz"


def _packed(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
