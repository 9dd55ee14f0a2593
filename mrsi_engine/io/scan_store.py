"""The scan store: one scan as a Zarr v3 group, a table of masked voxels ready for blocks.

What it holds stands in :mod:`~mrsi_engine.io.scan_schema`. Every file says itself whether it is as
it was written (:mod:`~mrsi_engine.io.integrity`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from mrsi_engine.companions import companion, companions
from mrsi_engine.conventions import WHITE, Acquisition, ScanNoise
from mrsi_engine.errors import InputError
from mrsi_engine.io.integrity import (
    INTEGRITY,
    Damage,
    array_of,
    damaged_chunks,
    damaged_metadata,
    members_of,
    open_sealed,
    read,
    refuse_damaged,
    seal,
)
from mrsi_engine.io.places import place, zarr_store
from mrsi_engine.io.scan_schema import (
    ACQUISITION_UNITS,
    REQUIRED,
    SCHEMA,
    SCHEMA_VERSION,
    check_arrays,
    create_signal,
    create_tables,
    create_volume,
    lengths_of,
    own_names,
    scan_attributes,
    signal_names,
)
from mrsi_engine.io.store_kinds import StoreKind

if TYPE_CHECKING:
    # Workers of blocks do without: it brings pandas, and takes 0.4 s.
    import xarray as xr

#: Voxels a chunk unless told otherwise: 8 MB of 1024-point FIDs.
DEFAULT_CHUNK = 1024

_PROVENANCE = ("stem", "source", "checksum", "header", "mask_origin", "inputs", "notes")
_TIMING = "timing"
_NOISE = "noise"

_AGAIN = (
    "run the same command again with the files it was made of, or `mrsi import` with --overwrite: "
    "it is imported again"
)

#: What a scan store is known by.
SCAN_STORE = StoreKind(
    name="scan store",
    schema=SCHEMA,
    version=SCHEMA_VERSION,
    parts=REQUIRED,
    origin="give the folder that mrsi import made, or make one with: mrsi import SCAN --out FOLDER",
    renewal="import the scan again (--overwrite replaces the store)",
    remedy=_AGAIN,
)


@dataclass(frozen=True, eq=False)
class ScanStore:
    """One scan in a Zarr store; made by :meth:`open` or :meth:`create`.

    Parameters
    ----------
    path
        Folder of the Zarr group.
    acquisition
        Axis of the FIDs and how they were acquired.
    shape
        Voxels of the volume along x, y, z.
    affine
        ``(4, 4)`` voxel index to scanner coordinates, mm.
    position_code
        NIfTI's code of the space those coordinates are of; 0 where the scan states no position.
    voxels
        Number of voxels in the mask and of scalp voxels, the length of dimension ``voxel``.
    chunk
        Voxels a chunk.
    dimensions
        Lengths of the dimensions of ``fid`` between voxel and time, e.g. ``{"coil": 4}``.
    companions
        Names of what came with the scan and is stored, see :mod:`mrsi_engine.companions`.
    classes
        Names of the classes of those that have some, e.g. of ``tissue``.
    stem
        The input's file name without ``.nii`` or ``.nii.gz``.
    source, checksum
        The input file's name and its SHA-256.
    header
        The NIfTI-MRS header extension, without what is personal unless it was to be kept.
    mask_origin
        ``"given"``, ``"signal energy"`` or ``"every voxel"``, where there are only a handful.
    inputs
        SHA-256 of every file the store was made of, and the settings it was made with.
    notes
        What had to be assumed on the way in, for the report.
    timing
        ``echo_time`` and ``repetition_time`` of signals that came with the scan, s, as far as their
        files say.
    noise
        What is known of the noise of the FIDs.
    """

    path: Path
    acquisition: Acquisition
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    position_code: int
    voxels: int
    chunk: int
    dimensions: Mapping[str, int]
    companions: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    stem: str
    source: str
    checksum: str
    header: dict[str, Any]
    mask_origin: str
    inputs: dict[str, Any]
    notes: tuple[str, ...]
    timing: Mapping[str, Mapping[str, float]]
    noise: ScanNoise
    _group: zarr.Group = field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> ScanStore:
        """The scan store of a folder, read-only.

        Raises
        ------
        InputError
            If there is none, it is of another version, or a variable is missing.
        DamagedError
            If a file is missing or damaged. Signals that are there are checked when they are read,
            or all at once by :func:`damaged_files`.
        """
        path = place(path)
        SCAN_STORE.attributes(path)
        try:
            group = open_sealed(path, "r", _AGAIN)
        except PermissionError as error:
            raise InputError(f"{path}: no permission to read this scan store") from error
        check_arrays(path, group)
        refuse_damaged(path, _damaged_chunks(path, group, signals=False), _AGAIN)
        try:
            return cls._of(path, group)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: the scan store lacks {error}; import the scan again"
            ) from error

    @classmethod
    def create(
        cls,
        path: str | Path,
        coordinates: ArrayLike,
        acquisition: Acquisition,
        shape: Sequence[int],
        affine: ArrayLike,
        *,
        position_code: int = 1,
        chunk: int = DEFAULT_CHUNK,
        dimensions: Mapping[str, int] | None = None,
        signals: Mapping[str, Mapping[str, int]] | None = None,
        volumes: Mapping[str, ArrayLike] | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        stem: str = "scan",
        source: str = "memory",
        checksum: str = "",
        header: Mapping[str, Any] | None = None,
        mask_origin: str = "given",
        inputs: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
        timing: Mapping[str, Mapping[str, float]] | None = None,
        noise: ScanNoise = WHITE,
    ) -> ScanStore:
        """A new store whose FIDs are still to be written, block by block.

        Parameters
        ----------
        coordinates
            ``(voxel, 3)`` integer voxel indices x, y, z, in the order of the FIDs.
        dimensions
            Lengths of the dimensions of the FIDs between voxel and time, in their order.
        signals
            Signals that will be written too, by name, with their own lengths of the same
            dimensions.
        volumes
            What else came with the scan, by name: ``(voxel,)`` or ``(voxel, class)``.
        classes
            Names of the classes of volumes that have some.

        The others are the attributes of :class:`ScanStore`.

        Raises
        ------
        InputError
            If the folder holds something already.
        """
        path = place(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path}: exists already; choose another output folder")
        places = np.asarray(coordinates, dtype=np.int32)
        provenance = {
            "stem": stem,
            "source": source,
            "checksum": checksum,
            "header": dict(header or {}),
            "mask_origin": mask_origin,
            "inputs": dict(inputs or {}),
            "notes": list(notes),
            _TIMING: {name: dict(times) for name, times in (timing or {}).items()},
            _NOISE: dataclasses.asdict(noise),
        }
        group = zarr.create_group(zarr_store(path))
        create_signal(group, "fid", len(places), dimensions or {}, acquisition, chunk)
        for name, lengths in (signals or {}).items():
            sizes = own_names(name, lengths)
            create_signal(group, name, len(places), sizes, acquisition, chunk)
        create_tables(group, places, acquisition)
        for name, values in (volumes or {}).items():
            create_volume(group, companion(name), values, (classes or {}).get(name, ()))
        seal(path, group, scan_attributes(acquisition, shape, affine, position_code, provenance))
        return cls._of(path, group)

    @classmethod
    def _of(cls, path: Path, group: zarr.Group) -> ScanStore:
        attributes = dict(group.attrs)
        fid = group["fid"]
        provenance = {name: attributes[name] for name in _PROVENANCE}
        provenance["notes"] = tuple(provenance["notes"])
        here = [row for row in companions() if row.stored and row.name in group]
        return cls(
            path=path,
            acquisition=Acquisition(**{name: attributes[name] for name in ACQUISITION_UNITS}),
            shape=tuple(attributes["shape"]),
            affine=np.array(attributes["affine"], dtype=np.float64),
            position_code=attributes["position_code"],
            voxels=fid.shape[0],
            chunk=fid.chunks[0],
            dimensions=lengths_of(fid),
            companions=tuple(row.name for row in here),
            classes={
                row.name: tuple(str(name) for name in group[row.class_dimension][:])
                for row in here
                if row.class_dimension in group
            },
            timing=attributes[_TIMING],
            noise=scan_noise(attributes),
            _group=group,
            **provenance,
        )

    def read_fids(self, start: int, stop: int) -> NDArray[np.complex64]:
        """FIDs of voxels ``start`` to ``stop``, ``(n, [coil,] [dynamic,] time)``."""
        return self._read("fid", start, stop)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any] | None:
        """A companion of voxels ``start`` to ``stop``, ``(n, ...)``; ``None`` without it.

        Dimensions of a signal are those of the FIDs, its own number of transients among them.
        """
        return self._read(name, start, stop) if name in self.companions else None

    def coordinates(self, start: int = 0, stop: int | None = None) -> NDArray[np.int32]:
        """Voxel indices x, y, z of voxels ``start`` to ``stop``, ``(n, 3)``; of all by default."""
        return self._places[start:stop]

    def write_fids(self, start: int, fids: ArrayLike) -> None:
        """Write FIDs ``(n, ..., time)`` from voxel ``start`` on; whole chunks only."""
        self._write("fid", start, fids)

    def write(self, name: str, start: int, signals: ArrayLike) -> None:
        """Write a signal that came with the scan as :meth:`write_fids` does the scan's own."""
        self._write(name, start, signals)

    def to_xarray(self) -> xr.Dataset:
        """The store as a lazily indexed Dataset without Dask arrays."""
        import xarray as xr

        dataset = xr.open_zarr(
            self._group.store, chunks=None, consolidated=False, decode_times=False, zarr_format=3
        )
        dataset.attrs.pop(INTEGRITY, None)
        return dataset.set_coords([name for name in ("x", "y", "z", "time") if name in dataset])

    @cached_property
    def _places(self) -> NDArray[np.int32]:
        # Each axis is one chunk, so a part of it costs as much to read as all of it.
        places = np.stack([self._read(axis, 0, self.voxels) for axis in "xyz"], axis=1)
        places.flags.writeable = False
        return places

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        return read(self.path, self._group[name], start, stop, _AGAIN)

    def _write(self, name: str, start: int, signals: ArrayLike) -> None:
        block = np.asarray(signals, dtype=np.complex64)
        stop = start + len(block)
        if start % self.chunk or (stop % self.chunk and stop != self.voxels):
            raise ValueError(f"voxels {start} to {stop} do not fill chunks of {self.chunk}")
        array_of(self._group, name)[start:stop] = block


def scan_noise(attributes: Mapping[Any, Any]) -> ScanNoise:
    """What the attributes of a scan store say of its noise."""
    stated = attributes.get(_NOISE, {})
    flat = stated.get("flat_hz")
    return ScanNoise(stated.get("unknown", ""), None if flat is None else (flat[0], flat[1]))


def damaged_files(path: str | Path) -> list[Damage]:
    """Every file of a scan store that is missing or not what was written; reads all of them.

    Raises
    ------
    InputError, DamagedError
        As :meth:`StoreKind.attributes`: without its attributes nothing can be said of the rest.
    """
    path = place(path)
    SCAN_STORE.attributes(path)
    damages = damaged_metadata(path)
    if damages:
        return damages
    return _damaged_chunks(path, open_sealed(path, "r", _AGAIN), signals=True)


def _damaged_chunks(path: Path, group: zarr.Group, *, signals: bool) -> list[Damage]:
    """Damaged chunks of all arrays; those of signals are only missed unless they are to be read."""
    names, left = members_of(dict(group.attrs)), () if signals else signal_names()
    looked_at = [group[name] for name in names if name not in left]
    counted = [group[name] for name in names if name in left]
    missing = damaged_chunks(path, counted, content=False)
    return [*damaged_chunks(path, looked_at), *missing]
