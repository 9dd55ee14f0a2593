"""What the passes of stages over a scan found: ``state/<stage index>/<step>`` of a result store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from mrsi_engine.errors import DamagedError, RunError
from mrsi_engine.io.files import built_aside, make_folder, remove_whole, writable
from mrsi_engine.io.integrity import (
    Damage,
    create_table,
    damaged_chunks,
    listed,
    members_of,
    opened,
    seal,
)
from mrsi_engine.io.objects import is_whole

#: Their folder in the store.
STATE = "state"

_REMEDY = "run the same command again: it does this pass again"


@dataclass(frozen=True)
class States:
    """The states of a result store, each a small sealed Zarr group; ``store`` is its folder."""

    store: Path

    def has(self, stage: int, step: int) -> bool:
        """Whether pass ``step`` of the stage with this index is done."""
        return is_whole(self._folder(stage, step))

    def read(self, stage: int, steps: int) -> dict[str, NDArray[Any]]:
        """What the first ``steps`` passes of a stage found; later ones win.

        Raises
        ------
        RunError
            If one of them is not done.
        DamagedError
            If a file of one is missing or damaged.
        """
        found: dict[str, NDArray[Any]] = {}
        for step in range(steps):
            if not self.has(stage, step):
                raise RunError(
                    f"{self.store}: pass {step + 1} of {steps} of stage {stage + 1} over the scan "
                    "is not done; prepare the run first"
                )
            found |= self._read(self._folder(stage, step))
        return found

    def write(self, stage: int, step: int, state: Mapping[str, NDArray[Any]]) -> None:
        """Keep what a pass found; it appears complete or not at all.

        Raises
        ------
        DiskFullError
            If the disk is full.
        """
        target = self._folder(stage, step)
        with writable(self.store):
            make_folder(target.parent)
            with built_aside(target, self.store) as folder:
                group = zarr.create_group(folder)
                for name, values in state.items():
                    array = np.ascontiguousarray(values).reshape(values.shape)
                    create_table(group, name, array, None)
                seal(folder, group)

    def damaged(self) -> dict[Path, list[Damage]]:
        """Folders of states that are not as they were written, and what is wrong with each."""
        folders = sorted((self.store / STATE).glob("*/*"))
        found = {f: self._damage(f) for f in folders if f.is_dir() and f.name.isdecimal()}
        return {folder: damages for folder, damages in found.items() if damages}

    def forget_damaged(self) -> list[Damage]:
        """Delete what is damaged, so that its pass is done again; says what was wrong."""
        damaged = self.damaged()
        for folder in damaged:
            remove_whole(folder, self.store)
        return [damage for damages in damaged.values() for damage in damages]

    def _read(self, folder: Path) -> dict[str, NDArray[Any]]:
        group, damages = self._inspected(folder)
        if group is None or damages:
            raise DamagedError(f"{self.store}: damaged: {listed(damages)}; {_REMEDY}")
        return {name: np.asarray(array[...]) for name, array in group.arrays()}

    def _damage(self, folder: Path) -> list[Damage]:
        return self._inspected(folder)[1]

    def _inspected(self, folder: Path) -> tuple[zarr.Group | None, list[Damage]]:
        """A state, and what is damaged of it."""
        group, damages = opened(folder, "r")
        if group is not None:
            names = members_of(dict(group.attrs))
            damages = damaged_chunks(folder, [group[name] for name in names])
        inside = folder.relative_to(self.store)
        number, step = int(folder.parent.name) + 1, int(folder.name) + 1
        where = f"pass {step} of stage {number} over the scan"
        return group, [Damage(f"{inside}/{d.file}", d.found, where) for d in damages]

    def _folder(self, stage: int, step: int) -> Path:
        return self.store / STATE / str(stage) / str(step)
