"""The scan store: one scan as a Zarr v3 group, a table of masked voxels ready for blocks.

=============  ====================================  =========  ==========================
variable       dimensions                            dtype      unit
=============  ====================================  =========  ==========================
``fid``        voxel, (coil,) (dynamic,) time        complex64  as in the file
``x y z``      voxel                                 int32      voxel index in the volume
``time``       time                                  float64    s
=============  ====================================  =========  ==========================

Beside these stands what came with the scan, by the table of :mod:`mrsi_engine.companions`: further
signals (``water``; ``water_dynamic`` is its own number of transients, 1 if it is an average), marks
(``scalp``; such voxels lie outside the mask and are never quantified), fractions (``tissue`` by
``tissue_class``) and maps. Raw data have coils and transients (``dynamic``) between voxel and time.

A chunk holds whole FIDs of ``chunk`` voxels. Voxels stand in the order of the file they came from:
x runs fastest, then y, then z. Attributes carry the acquisition, the grid, the complete NIfTI-MRS
header extension and where the data came from. Every file says itself whether it is as it was
written (:mod:`~mrsi_engine.io.integrity`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import ArrayLike, NDArray

from mrsi_engine.companions import Companion, Kind, companion, companions
from mrsi_engine.conventions import WHITE, Acquisition, ScanNoise
from mrsi_engine.dimensions import DYNAMIC, TIME, VOXEL
from mrsi_engine.errors import InputError
from mrsi_engine.io.integrity import (
    INTEGRITY,
    Damage,
    array_of,
    attributes_of,
    create_array,
    create_table,
    damaged_chunks,
    damaged_metadata,
    is_sealed,
    is_store,
    members_of,
    open_sealed,
    read,
    refuse_damaged,
    seal,
)

#: Format of the stores written here; a reader refuses any other.
SCHEMA_VERSION = 3

#: Voxels a chunk unless told otherwise: 8 MB of 1024-point FIDs.
DEFAULT_CHUNK = 1024

_SCHEMA = "mrsi_engine.scan"
_DIMENSIONS = {**dict.fromkeys("xyz", (VOXEL,)), "time": (TIME,)}
_REQUIRED = ("fid", "x", "y", "z", "time")
_ACQUISITION_UNITS = {
    "points": "1",
    "dwell_time": "s",
    "spectrometer_frequency": "MHz",
    "reference_ppm": "ppm",
    "nucleus": "",
    "echo_time": "s",
    "repetition_time": "s",
    "start_time": "s",
}
_PROVENANCE = ("stem", "source", "checksum", "header", "mask_origin", "inputs", "notes")
_TIMING = "timing"
_NOISE = "noise"

_AGAIN = (
    "run the same command again with the files it was made of, or `mrsi import` with --overwrite: "
    "it is imported again"
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
        path = Path(path)
        recorded(path)
        try:
            group = open_sealed(path, "r", _AGAIN)
        except PermissionError as error:
            raise InputError(f"{path}: no permission to read this scan store") from error
        _check_arrays(path, group)
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
        path = Path(path)
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
        group = zarr.create_group(path)
        _create_signal(group, "fid", len(places), dimensions or {}, acquisition, chunk)
        for name, lengths in (signals or {}).items():
            sizes = _own_names(name, lengths)
            _create_signal(group, name, len(places), sizes, acquisition, chunk)
        _create_tables(group, places, acquisition)
        for name, values in (volumes or {}).items():
            _create_volume(group, companion(name), values, (classes or {}).get(name, ()))
        seal(path, group, _attributes(acquisition, shape, affine, position_code, provenance))
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
            acquisition=Acquisition(**{name: attributes[name] for name in _ACQUISITION_UNITS}),
            shape=tuple(attributes["shape"]),
            affine=np.array(attributes["affine"], dtype=np.float64),
            position_code=attributes["position_code"],
            voxels=fid.shape[0],
            chunk=fid.chunks[0],
            dimensions=_lengths(fid),
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
        dataset = xr.open_zarr(self.path, chunks=None, consolidated=False, decode_times=False)
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


def is_scan_store(path: str | Path) -> bool:
    """Whether a folder is a scan store of any version, damaged or not."""
    return is_store(Path(path), _SCHEMA, _REQUIRED)


def recorded(path: str | Path) -> dict[str, Any]:
    """Attributes of a scan store, whatever the state of the rest.

    Raises
    ------
    InputError
        If there is none, or it is of another version.
    DamagedError
        If the attributes are not as they were written.
    """
    path = Path(path)
    if not is_scan_store(path):
        raise InputError(_no_scan_store(path))
    attributes = attributes_of(path) or {}
    _check_version(path, attributes)
    if not is_sealed(attributes):
        refuse_damaged(path, damaged_metadata(path)[:1], _AGAIN)
    return attributes


def damaged_files(path: str | Path) -> list[Damage]:
    """Every file of a scan store that is missing or not what was written; reads all of them.

    Raises
    ------
    InputError, DamagedError
        As :func:`recorded`: without its attributes nothing can be said of the rest.
    """
    path = Path(path)
    recorded(path)
    damages = damaged_metadata(path)
    if damages:
        return damages
    return _damaged_chunks(path, open_sealed(path, "r", _AGAIN), signals=True)


def _damaged_chunks(path: Path, group: zarr.Group, *, signals: bool) -> list[Damage]:
    """Damaged chunks of all arrays; those of signals are only missed unless they are to be read."""
    names = members_of(dict(group.attrs))
    found = (damaged_chunks(path, group[n], content=signals or n not in _signals()) for n in names)
    return [damage for damages in found for damage in damages]


def _no_scan_store(path: Path) -> str:
    if not path.exists():
        return f"{path}: no such scan store; make one with: mrsi import SCAN --out {path}"
    attributes = attributes_of(path)
    if attributes is None:
        return f"{path}: not a scan store (no Zarr v3 group); make one with: mrsi import SCAN"
    return (
        f"{path}: a Zarr group but not a scan store (schema {attributes.get('schema')!r}, expected "
        f"{_SCHEMA!r}); give the folder that mrsi import made"
    )


def _check_version(path: Path, attributes: Mapping[str, Any]) -> None:
    found = attributes.get("schema_version", SCHEMA_VERSION)
    if found != SCHEMA_VERSION:
        raise InputError(
            f"{path}: scan store of schema version {found}, written by mrsi_engine "
            f"{attributes.get('engine_version')}; this is mrsi_engine {version('mrsi-engine')}, "
            f"which reads {SCHEMA_VERSION}: import the scan again (--overwrite replaces the store)"
        )


def _check_arrays(path: Path, group: zarr.Group) -> None:
    missing = [name for name in _REQUIRED if name not in group]
    if missing:
        raise InputError(
            f"{path}: the scan store lacks {', '.join(missing)}; import the scan again"
        )
    voxels, *_, points = group["fid"].shape
    lengths = {VOXEL: voxels, TIME: points}
    beside = {row.name: (VOXEL,) for row in companions() if row.stored}
    for name, dimensions in {**beside, **_DIMENSIONS}.items():
        found = group[name].shape if name in group else None
        if found is not None and found[0] != lengths[dimensions[0]]:
            raise InputError(
                f"{path}: {name} has {found[0]} {dimensions[0]}s, fid has "
                f"{lengths[dimensions[0]]}; the store is damaged, import the scan again"
            )


def _attributes(
    acquisition: Acquisition,
    shape: Sequence[int],
    affine: ArrayLike,
    position_code: int,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "engine_version": version("mrsi-engine"),
        **dataclasses.asdict(acquisition),
        "units": {**_ACQUISITION_UNITS, "shape": "voxel", "affine": "mm"},
        "shape": [int(n) for n in shape],
        "affine": np.asarray(affine, dtype=float).tolist(),
        "position_code": int(position_code),
        **provenance,
    }


def _signals() -> tuple[str, ...]:
    """Variables that hold FIDs."""
    return ("fid", *(row.name for row in companions(Kind.SIGNAL)))


def _own_names(name: str, dimensions: Mapping[str, int]) -> dict[str, int]:
    """Names under which a signal's own lengths can stand beside those of the scan."""
    return {f"{name}_{d}" if d == DYNAMIC else d: length for d, length in dimensions.items()}


def _lengths(signal: zarr.Array) -> dict[str, int]:
    names = signal.metadata.dimension_names
    return dict(zip(names[1:-1], signal.shape[1:-1], strict=True))


def _create_signal(
    group: zarr.Group,
    name: str,
    voxels: int,
    dimensions: Mapping[str, int],
    acquisition: Acquisition,
    chunk: int,
) -> None:
    fid = (*dimensions.values(), acquisition.points)
    create_array(
        group,
        name,
        (voxels, *fid),
        np.complex64,
        (VOXEL, *dimensions, TIME),
        chunks=(max(1, min(chunk, voxels)), *fid),
        attributes={"units": "as in the file"},
    )


def _create_tables(
    group: zarr.Group, coordinates: NDArray[np.int32], acquisition: Acquisition
) -> None:
    for axis, indices in zip("xyz", coordinates.T, strict=True):
        _create_table(group, axis, np.ascontiguousarray(indices), "voxel")
    _create_table(group, "time", acquisition.time, "s")


def _create_volume(
    group: zarr.Group, row: Companion, values: ArrayLike, classes: Sequence[str]
) -> None:
    table = np.asarray(values, dtype=bool if row.kind is Kind.MARKS else np.float32)
    dimensions = (VOXEL, row.class_dimension) if row.kind is Kind.FRACTIONS else (VOXEL,)
    create_table(group, row.name, table, dimensions, {"units": row.units})
    if row.kind is Kind.FRACTIONS:
        named = np.array(classes, dtype=object)
        create_table(group, row.class_dimension, named, (row.class_dimension,))


def _create_table(group: zarr.Group, name: str, values: NDArray[Any], units: str) -> None:
    create_table(group, name, values, _DIMENSIONS[name], {"units": units})
