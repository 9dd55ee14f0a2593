"""The result store: what a run found, as a Zarr v3 group written block by block.

What it holds stands in :mod:`~mrsi_engine.io.result_schema`. A chunk is a block: no two writers
touch the same file, and a block written twice is the same twice. ``status`` is written last, so the
chunks of ``status`` that exist are the ledger of what is done; whether a block that counts as done
is whole, every file says itself (:mod:`~mrsi_engine.io.integrity`). The basis the run used stands
in the subgroup ``basis``; what the passes of its stages over the whole scan found, in ``state``
(:mod:`~mrsi_engine.io.states`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import (
    built_aside,
    leftovers,
    put_back,
    remove_leftover,
    remove_whole,
    scratch_beside,
    stands,
    writable,
)
from mrsi_engine.io.integrity import (
    INTEGRITY,
    METADATA,
    Damage,
    annotate,
    array_of,
    damaged_chunks,
    group_of,
    members_of,
    open_sealed,
    read,
    read_metadata,
    refuse_damaged,
    seal,
)
from mrsi_engine.io.objects import names_in
from mrsi_engine.io.places import is_remote, place
from mrsi_engine.io.result_schema import (
    BASIS,
    BASIS_FIDS,
    SCHEMA,
    SCHEMA_VERSION,
    VARIABLES,
    BlockArrays,
    create_basis,
    create_coordinates,
    create_results,
    create_signals,
    result_attributes,
    result_coordinates,
)
from mrsi_engine.io.states import STATE, States
from mrsi_engine.io.store_kinds import StoreKind
from mrsi_engine.quantities import Declaration
from mrsi_engine.spectra.basis import Basis

if TYPE_CHECKING:
    # Workers of blocks do without: it brings pandas, and takes 0.4 s.
    import xarray as xr

_AGAIN = "run the same command again: it does again what is damaged and keeps the rest"
_ANEW = (
    "what it holds cannot be told without it: put the file back from a copy, run the scan again "
    "into another folder, or replace this one with --overwrite"
)

#: What a result store is known by.
RESULT_STORE = StoreKind(
    name="result store",
    schema=SCHEMA,
    version=SCHEMA_VERSION,
    parts=("status", "estimate", "quality"),
    origin="give the folder a run wrote",
    renewal="use the version that wrote it, or run the scan again into another folder",
    remedy=_ANEW,
)


@dataclass(frozen=True, eq=False)
class ResultStore:
    """The results of one run; made by :meth:`open` or :meth:`create`.

    Parameters
    ----------
    path
        Folder of the Zarr group.
    voxels
        Length of dimension ``voxel``.
    block_size
        Voxels a block, which is a chunk.
    signals
        Names of the ``(voxel, time)`` signals that are kept.
    attributes
        The group's attributes: provenance of the scan, settings of the run.
    """

    path: Path
    voxels: int
    block_size: int
    signals: tuple[str, ...]
    attributes: Mapping[str, Any]
    _group: zarr.Group = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> ResultStore:
        """The result store of a folder, ready for reading and for writing blocks.

        Raises
        ------
        InputError
            If there is none, it is of another version, or its metadata are damaged.
        """
        path = place(path)
        attributes = RESULT_STORE.attributes(path)
        group = open_sealed(path, "r+", _AGAIN)
        status = group["status"]
        return cls(
            path=path,
            voxels=status.shape[0],
            block_size=status.chunks[0],
            signals=tuple(attributes["signals"]),
            attributes=attributes,
            _group=group,
        )

    @classmethod
    def create(
        cls,
        path: str | Path,
        coordinates: NDArray[np.int32],
        acquisition: Acquisition,
        declaration: Declaration,
        *,
        block_size: int,
        signals: Sequence[str] = (),
        dimensions: Mapping[str, Mapping[str, int]] | None = None,
        scalp: NDArray[np.bool_] | None = None,
        basis: Basis | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> ResultStore:
        """A new store without results; it appears at ``path`` complete or not at all.

        Parameters
        ----------
        coordinates
            ``(voxel, 3)`` voxel indices x, y, z.
        declaration
            What the pipeline writes.
        dimensions
            For each signal that has any, lengths of its dimensions between voxel and time.
        scalp
            ``(voxel,)`` which voxels are scalp.
        basis
            The basis as the run uses it, on the scan's axis.
        attributes
            Provenance and settings; the schema's own attributes are added.

        Raises
        ------
        InputError
            If something stands at ``path`` already, or it cannot be written there.
        DiskFullError
            If the disk is full.
        """
        path = place(path)
        if stands(path):
            raise InputError(f"{path}: exists already; choose another output folder")
        with writable(path), built_aside(path) as folder:
            given = result_attributes(acquisition, declaration, signals, attributes or {})
            group = zarr.create_group(folder)
            create_results(group, len(coordinates), block_size, declaration)
            sizes = {name: (dimensions or {}).get(name, {}) for name in signals}
            create_signals(group, len(coordinates), block_size, acquisition, declaration, sizes)
            tables = result_coordinates(coordinates, declaration, scalp)
            named = create_coordinates(group, tables)
            if basis is not None:
                create_basis(group, basis)
            group.create_group(STATE)
            seal(folder, group, {**given, **named})
        return cls.open(path)

    @property
    def zarr_store(self) -> Any:
        """What Zarr reads it from."""
        return self._group.store

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.voxels // self.block_size)

    def region(self, block: int) -> tuple[int, int]:
        """First voxel of a block and the one after its last."""
        start = block * self.block_size
        return start, min(start + self.block_size, self.voxels)

    def done(self) -> frozenset[int]:
        """Indices of the blocks that are safely written."""
        names = names_in(self.path / "status" / "c")
        found = (int(name) for name in names if name.isdecimal())
        return frozenset(block for block in found if block < self.blocks)

    def missing(self) -> list[int]:
        """Indices of the blocks still to be done, ascending."""
        done = self.done()
        return [block for block in range(self.blocks) if block not in done]

    def write_block(self, start: int, arrays: BlockArrays) -> None:
        """Write a block from voxel ``start`` on, its status last.

        Raises
        ------
        ValueError
            If the voxels are not exactly one chunk: Zarr would silently lose its neighbours.
        DiskFullError
            If the disk is full; the block then does not count as done.
        """
        stop = start + len(arrays.status)
        if (start, stop) != self.region(start // self.block_size):
            raise ValueError(f"voxels {start} to {stop} are not a block of {self.block_size}")
        with writable(self.path):
            for name, values in arrays.values().items():
                if values.size:
                    self._arrays[name][start:stop] = values

    def coordinates(self) -> NDArray[np.int32]:
        """Voxel indices x, y, z in the volume, ``(voxel, 3)``."""
        return np.stack([self._table(axis) for axis in "xyz"], axis=1)

    def statuses(self) -> NDArray[np.uint8]:
        """Status of every voxel, ``(voxel,)``."""
        return np.asarray(self._arrays["status"][:])

    def flags(self) -> NDArray[np.uint16]:
        """Flags of every voxel, ``(voxel,)``; once no block is missing."""
        return self._checked("flags")

    def write_flags(self, flags: NDArray[np.uint16]) -> None:
        """Replace the flags of every voxel ``(voxel,)``; only once no block is missing.

        Raises
        ------
        DiskFullError
            If the disk is full.
        """
        with writable(self.path):
            self._arrays["flags"][:] = flags

    def estimates(self) -> dict[str, NDArray[np.float32]]:
        """Of every parameter ``NAME`` and ``NAME_sd``, ``(voxel,)``; once no block is missing."""
        names = [q["name"] for q in self.attributes["declaration"]["parameters"]]
        estimate, sd = (self._checked(name).T for name in ("estimate", "sd"))
        errors = [f"{name}_sd" for name in names]
        return {**dict(zip(names, estimate, strict=True)), **dict(zip(errors, sd, strict=True))}

    def basis(self) -> Basis | None:
        """The basis the run uses, on the scan's axis; ``None`` if it has none."""
        if BASIS not in members_of(self.attributes):
            return None
        attributes = dict(self._group[BASIS].attrs)
        return Basis(
            names=tuple(attributes["names"]),
            fids=self._table(f"{BASIS}/{BASIS_FIDS}"),
            acquisition=Acquisition(**attributes["acquisition"]),
            sequence=attributes["sequence"],
            source=attributes["source"],
        )

    @property
    def states(self) -> States:
        """What the passes over the scan found."""
        return States(self.path)

    def damaged_blocks(self, *, signals: bool = True) -> dict[int, list[Damage]]:
        """Blocks that count as done but have a chunk that is missing or not what was written.

        Of a finished run every block counts. A block is looked at once its ``status`` is there,
        so one that is being written is never among them.

        Parameters
        ----------
        signals
            Whether to read the signals, which can be large; else only missing chunks are found.
        """
        blocks = range(self.blocks) if self.attributes.get("finished") else sorted(self.done())
        found = {block: self._damage(block, signals) for block in blocks}
        return {block: damages for block, damages in found.items() if damages}

    def _damage(self, block: int, signals: bool) -> list[Damage]:
        start, stop = self.region(block)
        where = f"block {block}, voxels {start} to {stop - 1}"
        left = () if signals else self.signals
        looked_at = [array for name, array in self._arrays.items() if name not in left]
        counted = [array for name, array in self._arrays.items() if name in left]
        missing = damaged_chunks(self.path, counted, start, stop, content=False, where=where)
        return [*damaged_chunks(self.path, looked_at, start, stop, where=where), *missing]

    def forget_damaged(self) -> tuple[ResultStore, list[Damage]]:
        """The store without what is damaged, which is done again then, and what that was.

        Nothing is deleted but the ledger's word on damaged blocks, and damaged states: whoever
        writes at the same time loses nothing but the time to write it again.
        """
        damages = self.states.forget_damaged()
        blocks = self.damaged_blocks()
        if not blocks:
            return self, damages
        # Before the ledger: a run that is killed in between is reviewed again all the same.
        store = self.annotate(finished=None)
        for block in blocks:
            (self.path / "status" / "c" / str(block)).unlink(missing_ok=True)
        return store, [*damages, *(damage for found in blocks.values() for damage in found)]

    def check(self, *, signals: bool = True) -> None:
        """See that everything that counts as done is as it was written.

        Parameters
        ----------
        signals
            As in :meth:`damaged_blocks`.

        Raises
        ------
        DamagedError
            If a file is missing or damaged: names it, its block and voxels.
        """
        blocks = self.damaged_blocks(signals=signals)
        refuse_damaged(
            self.path,
            [*damaged_frame(self.path), *(d for damages in blocks.values() for d in damages)],
            _AGAIN,
        )

    def annotate(self, **attributes: Any) -> ResultStore:
        """The store with attributes replaced, on disk too."""
        with writable(self.path):
            annotate(self._group, attributes)
        return dataclasses.replace(self, attributes=dict(self._group.attrs))

    def remove_leftovers(self) -> int:
        """Delete what killed writers left behind; only once nobody writes any more.

        Returns
        -------
        int
            Number of files and folders removed.
        """
        found = leftovers(self.path)
        for path in found:
            remove_leftover(path)
        return len(found)

    def to_xarray(self) -> xr.Dataset:
        """The results as a lazily indexed Dataset; its ``encoding["source"]`` is the folder."""
        import xarray as xr

        dataset = xr.open_zarr(
            self.zarr_store,
            chunks=None,
            consolidated=False,
            zarr_format=3,
            decode_times=False,
            mask_and_scale=False,
        )
        for name, variable in dataset.variables.items():
            variable.attrs.pop("_FillValue", None)
            if is_remote(self.path) and name not in self.signals:
                # Every part of it that is asked for would be a request.
                variable.load()
        del dataset.attrs[INTEGRITY]
        dataset.encoding["source"] = str(self.path.resolve())
        return dataset

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array]:
        return {name: array_of(self._group, name) for name in _written(self.attributes)}

    def _table(self, name: str) -> NDArray[Any]:
        return read(self.path, self._group[name], 0, self._group[name].shape[0], _AGAIN)

    def _checked(self, name: str) -> NDArray[Any]:
        return read(self.path, self._arrays[name], 0, self.voxels, _AGAIN)


def _written(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Variables that blocks write, in that order."""
    *others, status = VARIABLES
    return (*others, *attributes["signals"], status)


def damaged_frame(path: str | Path) -> list[Damage]:
    """What is damaged of what a store holds before its first block: metadata, tables, basis."""
    path = place(path)
    attributes = RESULT_STORE.attributes(path)
    files, damages = read_metadata(path)
    unreadable = {damage.file.removesuffix(f"/{METADATA}") for damage in damages}
    tables = set(members_of(attributes)) - unreadable - set(_written(attributes))
    group = group_of(path, files, "r")
    members = (group[name] for name in sorted(tables))
    return [*damages, *damaged_chunks(path, [m for m in members if isinstance(m, zarr.Array)])]


def mend_frame(path: str | Path, create: Callable[[Path], object]) -> list[Damage]:
    """Put back what is damaged of what a store holds before its first block, and say what it was.

    Parameters
    ----------
    create
        Makes the same store anew, without results, at the path it is given.

    Raises
    ------
    DamagedError
        If what it makes is not what was there.
    """
    path = place(path)
    known: list[Damage] = []
    if damaged_frame(path):
        with scratch_beside(path) as folder, writable(path):
            create(folder / path.name)
            # Chunks are only looked for once the metadata that tell of them are back.
            while left := damaged_frame(path):
                refuse_damaged(path, [d for d in left if d in known], _ANEW)
                for damage in left:
                    put_back(folder / path.name / damage.file, path / damage.file)
                known += left
    return known


def open_result(path: str | Path) -> xr.Dataset:
    """The results of a run as a lazily indexed Dataset; its ``encoding["source"]`` is the folder.

    Raises
    ------
    InputError
        If the folder holds no result store, or one of another version.
    DamagedError
        If a file of it is missing or damaged; signals are only seen to be there.
    """
    store = ResultStore.open(path)
    store.check(signals=False)
    return store.to_xarray()


def in_memory(result: xr.Dataset) -> xr.Dataset:
    """The same result with all that is not a signal read: who needs every map reads it once."""
    signals = set(result.attrs["signals"])
    for name, variable in result.variables.items():
        if name not in signals:
            variable.load()
    return result


def remove_result(path: str | Path) -> None:
    """Delete a result store, and only that.

    Raises
    ------
    InputError
        If the folder is something else.
    """
    path = place(path)
    if not RESULT_STORE.holds(path):
        raise InputError(f"{path}: not a result store, so it is not overwritten; move it away")
    remove_whole(path)
