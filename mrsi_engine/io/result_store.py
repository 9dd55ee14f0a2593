"""The result store: what a run found, as a Zarr v3 group written block by block.

===================================  =================  =========  ==============================
variable                             dimensions         dtype      meaning
===================================  =================  =========  ==============================
``estimate``, ``sd``                 voxel, parameter   float32    NaN where there is no fit
``quality``                          voxel, measure     float32
``status``                           voxel              uint8      how a voxel was quantified
``flags``                            voxel              uint16     bits of why not to trust it
``x y z``                            voxel              int32      voxel index in the volume
``scalp``                            voxel              bool       never quantified (optional)
``corrected``, ``fit``, ``baseline`` voxel, time        complex64  on request
===================================  =================  =========  ==============================

What each parameter and measure is stands in coordinates, one for every field of
:class:`~mrsi_engine.quantities.Quantity`: ``role``, ``of``, ``estimator``, ``unit``, ``doc``,
``adds_to``, ``fill`` and so on along ``parameter``, the same after ``measure_`` along ``measure``.

``corrected`` has coils and transients between voxel and time where the pipeline leaves them.

A chunk is a block: no two writers touch the same file, and a block written twice is the same twice.
``status`` is written last and never holds its fill value, so the chunks of ``status`` that exist
are the ledger of what is done. The basis the run used stands in the subgroup ``basis``; what the
passes of its stages over the whole scan found, in ``state/<stage index>/<step>``.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from mrsi_engine.conventions import MEASURE, PARAMETER, TIME, VOXEL, Acquisition, Flag, Status
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.result_quantities import described_by
from mrsi_engine.quantities import Declaration, Quantity
from mrsi_engine.spectra.basis import Basis

#: Format of the stores written here; a reader refuses any other.
SCHEMA_VERSION = 3

_SCHEMA = "mrsi_engine.result"
_STATUSES = [s for s in Status if s is not Status.NOT_PROCESSED]
_STATUS_ATTRIBUTES = {
    "flag_values": [int(s) for s in _STATUSES],
    "flag_meanings": " ".join(s.meaning for s in _STATUSES),
    "long_name": "how the voxel was quantified",
}
_FLAG_ATTRIBUTES = {
    "flag_masks": [int(f) for f in Flag],
    "flag_meanings": " ".join(f.meaning for f in Flag),
    "long_name": "why the voxel is not to be trusted; 0 is good",
}
_DOCS = {
    "estimate": "estimated value, in the unit of its parameter",
    "sd": "Cramer-Rao lower bound of the estimate's standard deviation; with priors its posterior "
    "standard deviation",
    "quality": "quality measures",
}
_NAN = np.float32("nan")


class DiskFullError(RunError):
    """The disk filled up while a result was written."""


@dataclass(frozen=True, eq=False)
class BlockArrays:
    """What one block of voxels yields, packed in the declared order.

    ``estimate`` and ``sd`` are ``(voxel, parameter)`` float32, ``quality`` ``(voxel, measure)``
    float32, ``status`` ``(voxel,)`` uint8, ``flags`` uint16, each of ``signals``
    ``(voxel, ..., time)`` complex64.
    """

    estimate: NDArray[np.float32]
    sd: NDArray[np.float32]
    quality: NDArray[np.float32]
    status: NDArray[np.uint8]
    flags: NDArray[np.uint16]
    signals: Mapping[str, NDArray[np.complex64]] = field(default_factory=dict)

    @classmethod
    def unfitted(
        cls, voxels: int, declaration: Declaration, signals: Mapping[str, tuple[int, ...]]
    ) -> BlockArrays:
        """A block in which no voxel has a fit; ``signals`` gives their shapes after ``voxel``."""
        parameters, measures = len(declaration.parameters), len(declaration.measures)
        return cls(
            estimate=np.full((voxels, parameters), _NAN),
            sd=np.full((voxels, parameters), _NAN),
            quality=np.full((voxels, measures), _NAN),
            status=np.full(voxels, Status.NO_FIT, dtype=np.uint8),
            flags=np.full(voxels, Flag.NO_FIT, np.uint16),
            signals={n: np.full((voxels, *s), np.complex64(np.nan)) for n, s in signals.items()},
        )

    def values(self) -> dict[str, NDArray[Any]]:
        """Every array by the name of its variable; ``status`` stands last, as it is written."""
        return {
            "estimate": self.estimate,
            "sd": self.sd,
            "quality": self.quality,
            "flags": self.flags,
            **self.signals,
            "status": self.status,
        }


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
            If there is none, or it is of a newer version.
        """
        path = Path(path)
        group = _group_of(path)
        _check_version(path, group)
        status = group["status"]
        return cls(
            path=path,
            voxels=status.shape[0],
            block_size=status.chunks[0],
            signals=tuple(group.attrs["signals"]),
            attributes=dict(group.attrs),
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
        path = Path(path)
        if path.exists():
            raise InputError(f"{path}: exists already; choose another output folder")
        with writable(path), _built_aside(path) as folder:
            group = zarr.create_group(
                folder,
                attributes=result_attributes(acquisition, declaration, signals, attributes or {}),
            )
            _create_results(group, len(coordinates), block_size, declaration)
            sizes = {name: (dimensions or {}).get(name, {}) for name in signals}
            _create_signals(group, len(coordinates), block_size, acquisition, sizes)
            _create_tables(group, result_coordinates(coordinates, declaration, scalp))
            if basis is not None:
                _create_basis(group, basis)
        return cls.open(path)

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
        folder = self.path / "status" / "c"
        if not folder.is_dir():
            return frozenset()
        with os.scandir(folder) as entries:
            return frozenset(int(e.name) for e in entries if e.name.isdecimal())

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
        return np.stack([np.asarray(self._group[axis][:]) for axis in "xyz"], axis=1)

    def statuses(self) -> NDArray[np.uint8]:
        """Status of every voxel, ``(voxel,)``."""
        return np.asarray(self._arrays["status"][:])

    def flags(self) -> NDArray[np.uint16]:
        """Flags of every voxel, ``(voxel,)``."""
        return np.asarray(self._arrays["flags"][:])

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
        """Of every parameter ``NAME`` and ``NAME_sd``, ``(voxel,)`` each."""
        names = [q["name"] for q in self.attributes["declaration"]["parameters"]]
        estimate, sd = (self._arrays[name][:].T for name in ("estimate", "sd"))
        errors = [f"{name}_sd" for name in names]
        return {**dict(zip(names, estimate, strict=True)), **dict(zip(errors, sd, strict=True))}

    def basis(self) -> Basis | None:
        """The basis the run uses, on the scan's axis; ``None`` if it has none."""
        if "basis" not in self._group:
            return None
        group = self._group["basis"]
        attributes = dict(group.attrs)
        return Basis(
            names=tuple(attributes["names"]),
            fids=np.asarray(group["fid"][:]),
            acquisition=Acquisition(**attributes["acquisition"]),
            sequence=attributes["sequence"],
            source=attributes["source"],
        )

    def has_state(self, stage: int, step: int) -> bool:
        """Whether pass ``step`` of the stage with this index is done."""
        return self._state_folder(stage, step).is_dir()

    def state(self, stage: int, steps: int) -> dict[str, NDArray[Any]]:
        """What the first ``steps`` passes of a stage found; later ones win.

        Raises
        ------
        RunError
            If one of them is not done.
        """
        found: dict[str, NDArray[Any]] = {}
        for step in range(steps):
            if not self.has_state(stage, step):
                raise RunError(
                    f"{self.path}: pass {step + 1} of {steps} of stage {stage + 1} over the scan "
                    "is not done; prepare the run first"
                )
            group = zarr.open_group(self._state_folder(stage, step), mode="r")
            found |= {name: np.asarray(array[...]) for name, array in group.arrays()}
        return found

    def write_state(self, stage: int, step: int, state: Mapping[str, NDArray[Any]]) -> None:
        """Keep what a pass of a stage found; it appears complete or not at all.

        Raises
        ------
        DiskFullError
            If the disk is full.
        """
        with writable(self.path):
            self._group.require_group(f"state/{stage}")
            with _built_aside(self._state_folder(stage, step), self.path) as folder:
                group = zarr.create_group(folder)
                for name, values in state.items():
                    group.create_array(
                        name, data=np.ascontiguousarray(values).reshape(values.shape)
                    )

    def _state_folder(self, stage: int, step: int) -> Path:
        return self.path / "state" / str(stage) / str(step)

    def annotate(self, **attributes: Any) -> ResultStore:
        """The store with attributes replaced, on disk too."""
        with writable(self.path):
            self._group.update_attributes(attributes)
        return dataclasses.replace(self, attributes={**self.attributes, **attributes})

    def remove_leftovers(self) -> int:
        """Delete what killed writers left behind; only once nobody writes any more.

        Returns
        -------
        int
            Number of files and folders removed.
        """
        files = list(self.path.rglob("*.partial"))
        for file in files:
            file.unlink(missing_ok=True)
        folders = list(self.path.parent.glob(f".{self.path.name}.*.partial"))
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        return len(files) + len(folders)

    @cached_property
    def _arrays(self) -> dict[str, zarr.Array]:
        return {name: array for name, array in self._group.arrays() if name in self._written}

    @property
    def _written(self) -> tuple[str, ...]:
        return ("estimate", "sd", "quality", "status", "flags", *self.signals)


def open_result(path: str | Path) -> xr.Dataset:
    """The results of a run as a lazily indexed Dataset; its ``encoding["source"]`` is the folder.

    Raises
    ------
    InputError
        If the folder holds no result store, or one of a newer version.
    """
    store = ResultStore.open(path)
    dataset = xr.open_zarr(
        store.path,
        chunks=None,
        consolidated=False,
        decode_times=False,
        mask_and_scale=False,
    )
    for variable in dataset.variables.values():
        variable.attrs.pop("_FillValue", None)
    dataset.encoding["source"] = str(store.path.resolve())
    return dataset


def is_result_store(path: str | Path) -> bool:
    """Whether a folder is a result store of any version."""
    try:
        return bool(_group_of(Path(path)).attrs.get("schema") == _SCHEMA)
    except InputError:
        return False


def remove_result(path: str | Path) -> None:
    """Delete a result store, and only that.

    Raises
    ------
    InputError
        If the folder is something else.
    """
    path = Path(path)
    if not is_result_store(path):
        raise InputError(f"{path}: not a result store, so it is not overwritten; move it away")
    # Renamed first: a deletion that is interrupted must not leave half a store under this name.
    doomed = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    path.rename(doomed / path.name)
    shutil.rmtree(doomed)


def result_coordinates(
    coordinates: NDArray[np.int32],
    declaration: Declaration,
    scalp: NDArray[np.bool_] | None = None,
) -> dict[str, tuple[str, NDArray[Any]]]:
    """Coordinates of a result as xarray takes them: name to dimension and values."""
    places = {axis: (VOXEL, coordinates[:, i]) for i, axis in enumerate("xyz")}
    return {
        **places,
        **({} if scalp is None else {"scalp": (VOXEL, scalp)}),
        **_descriptions(PARAMETER, declaration.parameters),
        **_descriptions(MEASURE, declaration.measures),
    }


def variable_attributes(name: str, declaration: Declaration) -> dict[str, Any]:
    """Attributes of a variable of a result."""
    if name in ("status", "flags"):
        return dict(_STATUS_ATTRIBUTES if name == "status" else _FLAG_ATTRIBUTES)
    signal = next((q for q in declaration.signals if q.name == name), None)
    return (
        {"units": signal.units, "long_name": signal.doc} if signal else {"long_name": _DOCS[name]}
    )


def result_attributes(
    acquisition: Acquisition,
    declaration: Declaration,
    signals: Sequence[str],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Attributes of a result: those given and those the schema asks for."""
    return {
        **given,
        "schema": _SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "engine_version": version("mrsi-engine"),
        "acquisition": dataclasses.asdict(acquisition),
        "declaration": {
            field.name: [dataclasses.asdict(q) for q in getattr(declaration, field.name)]
            for field in dataclasses.fields(declaration)
        },
        "signals": list(signals),
    }


def _descriptions(
    dimension: str, quantities: Sequence[Quantity]
) -> dict[str, tuple[str, NDArray[Any]]]:
    return {
        name: (dimension, np.array([_plain(q, field) for q in quantities], dtype=kind))
        for name, field, kind in described_by(dimension)
    }


def _plain(quantity: Quantity, field: str) -> str | float | None:
    """A field as a store holds it; of the title what people are to read, whatever it is made of."""
    value = quantity.label if field == "title" else getattr(quantity, field)
    return str(value) if isinstance(value, str) else value


def _group_of(path: Path) -> zarr.Group:
    if not path.exists():
        raise InputError(f"{path}: no such result store")
    try:
        return zarr.open_group(path, mode="r+", use_consolidated=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a result store (no Zarr v3 group): {error}") from error


def _check_version(path: Path, group: zarr.Group) -> None:
    schema, found = group.attrs.get("schema"), group.attrs.get("schema_version")
    if schema != _SCHEMA:
        raise InputError(
            f"{path}: a Zarr group but not a result store (schema {schema!r}, expected "
            f"{_SCHEMA!r}); give the folder a run wrote"
        )
    if found != SCHEMA_VERSION:
        raise InputError(
            f"{path}: result store of schema version {found}, written by mrsi_engine "
            f"{group.attrs.get('engine_version')}; this is mrsi_engine {version('mrsi-engine')}, "
            f"which reads {SCHEMA_VERSION}: use the version that wrote it, or run the scan again "
            "into another folder"
        )


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Failures of the file system said in the user's words; ``path`` is what is written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"disk full: {path} cannot be written; make room and run the same command again, "
                "what is done is kept"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{path}: no permission to write here ({error.strerror})") from error
        raise


@contextmanager
def _built_aside(path: Path, store: Path | None = None) -> Iterator[Path]:
    """A folder that takes the name ``path`` when all went well; made beside the ``store``."""
    beside = store or path
    beside.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{beside.name}.", suffix=".partial", dir=beside.parent))
    try:
        store = aside / path.name
        yield store
        store.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _create_results(
    group: zarr.Group, voxels: int, block_size: int, declaration: Declaration
) -> None:
    columns = {
        "estimate": (PARAMETER, len(declaration.parameters)),
        "sd": (PARAMETER, len(declaration.parameters)),
        "quality": (MEASURE, len(declaration.measures)),
    }
    for name, (dimension, length) in columns.items():
        group.create_array(
            name,
            shape=(voxels, length),
            chunks=(block_size, max(1, length)),
            dtype=np.float32,
            fill_value=float("nan"),
            dimension_names=(VOXEL, dimension),
            attributes=variable_attributes(name, declaration),
        )
    codes = (("status", np.uint8, int(Status.NOT_PROCESSED)), ("flags", np.uint16, 0))
    for name, dtype, fill in codes:
        group.create_array(
            name,
            shape=(voxels,),
            chunks=(block_size,),
            dtype=dtype,
            fill_value=fill,
            dimension_names=(VOXEL,),
            attributes=variable_attributes(name, declaration),
        )


def _create_signals(
    group: zarr.Group,
    voxels: int,
    block_size: int,
    acquisition: Acquisition,
    signals: Mapping[str, Mapping[str, int]],
) -> None:
    docs = Declaration(signals=_declared_signals(group))
    for name, dimensions in signals.items():
        fid = (*dimensions.values(), acquisition.points)
        group.create_array(
            name,
            shape=(voxels, *fid),
            chunks=(block_size, *fid),
            dtype=np.complex64,
            fill_value=complex("nan+nanj"),
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
            dimension_names=(VOXEL, *dimensions, TIME),
            attributes=variable_attributes(name, docs),
        )
    if signals:
        _create_table(group, TIME, TIME, acquisition.time, {"units": "s"})


def _declared_signals(group: zarr.Group) -> tuple[Quantity, ...]:
    return tuple(Quantity(**q) for q in group.attrs["declaration"]["signals"])


def _create_tables(group: zarr.Group, tables: Mapping[str, tuple[str, NDArray[Any]]]) -> None:
    for name, (dimension, values) in tables.items():
        _create_table(group, name, dimension, np.ascontiguousarray(values), {})
    # xarray reads from here which variables are coordinates.
    group.update_attributes({"coordinates": " ".join(n for n, (d, _) in tables.items() if n != d)})


def _create_table(
    group: zarr.Group,
    name: str,
    dimension: str,
    values: NDArray[Any],
    attributes: Mapping[str, Any],
) -> None:
    table = group.create_array(
        name,
        shape=values.shape,
        chunks=(max(1, len(values)),),
        dtype=str if values.dtype == object else values.dtype,
        dimension_names=(dimension,),
        attributes=dict(attributes),
    )
    if values.size:
        table[:] = values


def _create_basis(group: zarr.Group, basis: Basis) -> None:
    subgroup = group.create_group(
        "basis",
        attributes={
            "names": list(basis.names),
            "acquisition": dataclasses.asdict(basis.acquisition),
            "sequence": basis.sequence,
            "source": basis.source,
        },
    )
    subgroup.create_array("fid", data=np.ascontiguousarray(basis.fids, dtype=np.complex128))
