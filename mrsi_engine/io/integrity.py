"""Whether a Zarr store is as it was written: a checksum in every chunk, a seal on its metadata.

Left to itself, Zarr reads a chunk that is not there as fill values and takes whatever its metadata
say. So every chunk is written, even one of nothing but fill values, and ends in its CRC-32C (codec
``crc32c``); and the attribute ``integrity`` of a store holds the CRC-32C of each metadata file
below it (``members``) and of the attributes themselves (``seal``). A byte that changes anywhere is
found, a file that is lost is missed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from mrsi_engine.errors import DamagedError
from mrsi_engine.io.objects import METADATA, contents, is_unfinished, presence
from mrsi_engine.io.places import is_remote
from mrsi_engine.io.sealed_store import with_metadata

#: Complex samples: fast, as every block writes and reads them.
SIGNALS = BloscCodec(cname="lz4", clevel=5, shuffle="shuffle")

#: The attribute of a store that holds its seals; of no meaning to anyone who reads the rest.
INTEGRITY = "integrity"
_CHECKSUM = 4
_MISSING, _ALTERED = "is missing", "is cut short or altered"
_WRITE_ALL = {"write_empty_chunks": True}

#: Damaged files a message lists before it only counts them.
_LISTED = 10


@dataclass(frozen=True)
class Damage:
    """One file that is not as it was written.

    Parameters
    ----------
    file
        Its path in the store.
    found
        What is wrong with it.
    where
        Block and voxels it belongs to, in words; empty for what belongs to the whole store.
    """

    file: str
    found: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.file} {self.found}" + (f" ({self.where})" if self.where else "")


#: Told of the folder of a store and what is damaged of it.
OnDamage = Callable[[Path, Sequence[Damage]], None]


def listed(damages: Sequence[Damage]) -> str:
    """The first of them in words, and how many more there are."""
    more = len(damages) - _LISTED
    told = [str(damage) for damage in damages[:_LISTED]]
    return "; ".join([*told, f"and {more} more"] if more > 0 else told)


def create_array(
    group: zarr.Group,
    name: str,
    shape: Sequence[int],
    dtype: Any,
    dimensions: Sequence[str] | None,
    *,
    chunks: Sequence[int] | None = None,
    fill_value: Any = None,
    attributes: Mapping[str, Any] | None = None,
) -> zarr.Array:
    """An array whose chunks are all written and can be checked; in one chunk unless told."""
    compressor = SIGNALS if np.issubdtype(dtype, np.complexfloating) else ZstdCodec()
    return group.create_array(
        name,
        shape=tuple(shape),
        chunks=tuple(chunks or (max(1, n) for n in shape)),
        dtype=dtype,
        fill_value=fill_value,
        compressors=(compressor, Crc32cCodec()),
        dimension_names=dimensions,
        attributes=dict(attributes or {}),
        config=_WRITE_ALL,
    )


def create_table(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dimensions: Sequence[str] | None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """An array of one chunk with its values; those of dtype ``object`` are texts."""
    dtype = str if values.dtype == object else values.dtype
    array = create_array(group, name, values.shape, dtype, dimensions, attributes=attributes)
    if values.size:
        array[...] = values


def array_of(group: zarr.Group, name: str) -> zarr.Array:
    """An array to be written to; how it treats empty chunks is not stored with it."""
    return group[name].with_config(_WRITE_ALL)


def seal(folder: Path, group: zarr.Group, attributes: Mapping[str, Any] | None = None) -> None:
    """Set attributes of a new store and seal all metadata in its folder."""
    below = sorted(file for file in folder.rglob(METADATA) if file.parent != folder)
    members = {
        file.parent.relative_to(folder).as_posix(): _crc(file.read_bytes()) for file in below
    }
    _write_sealed(group, {**group.attrs, **(attributes or {})}, members)


def annotate(group: zarr.Group, attributes: Mapping[str, Any]) -> None:
    """Set attributes of a sealed store, whose seal then is theirs."""
    before = dict(group.attrs)
    _write_sealed(group, {**before, **attributes}, before[INTEGRITY]["members"])


def _write_sealed(
    group: zarr.Group, attributes: Mapping[str, Any], members: Mapping[str, str]
) -> None:
    # As JSON gives them back, or the seal of a tuple would be another one.
    content = json.loads(json.dumps({**attributes, INTEGRITY: {"members": members}}))
    content[INTEGRITY]["seal"] = _seal_of(content)
    group.update_attributes(content)


def attributes_of(folder: Path) -> dict[str, Any] | None:
    """Attributes of a Zarr group, sealed or not; ``None`` if there is none to be read."""
    return _attributes_in(_own_metadata(folder))


def is_sealed(attributes: Mapping[str, Any] | None) -> bool:
    """Whether attributes are those that were sealed."""
    found = None if attributes is None else attributes.get(INTEGRITY)
    if attributes is None or not isinstance(found, dict) or "members" not in found:
        return False
    return bool(found.get("seal") == _seal_of(attributes))


def members_of(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """Paths of the arrays and groups of a sealed store."""
    return tuple(attributes[INTEGRITY]["members"])


def damaged_metadata(folder: Path) -> list[Damage]:
    """Metadata files of a store that are not as they were sealed; its own comes first."""
    return read_metadata(folder)[1]


def read_metadata(folder: Path, *, known: bool = False) -> tuple[dict[str, bytes], list[Damage]]:
    """Metadata files of a store that are as they were sealed, and damages of the others.

    Without its own nothing is known of any. With ``known``, those that this process has read from
    an object store before are not asked for again: they never change under their seal.
    """
    own = _own_metadata(folder)
    attributes = _attributes_in(own)
    if own is None or attributes is None or not is_sealed(attributes):
        return {}, [Damage(METADATA, _MISSING if own is None else _ALTERED)]
    read = _known_members if known and is_remote(folder) else _members
    whole, damages = read(folder, tuple(attributes[INTEGRITY]["members"].items()))
    if damages:
        # They will be mended.
        _known_members.cache_clear()
    return {METADATA: own, **whole}, damages


def _members(
    folder: Path, members: tuple[tuple[str, str], ...]
) -> tuple[dict[str, bytes], list[Damage]]:
    """:func:`read_metadata` of what is below a store, by path and CRC."""
    whole, damages = {}, []
    files = [f"{path}/{METADATA}" for path, _ in members]
    for file, (_, crc), data in zip(files, members, contents(folder, files), strict=True):
        if data is not None and _crc(data) == crc:
            whole[file] = data
        else:
            damages.append(Damage(file, _MISSING if data is None else _ALTERED))
    return whole, damages


_known_members = lru_cache(maxsize=32)(_members)


def damaged_chunks(
    folder: Path,
    arrays: Sequence[zarr.Array],
    start: int = 0,
    stop: int | None = None,
    *,
    content: bool = True,
    where: str | None = None,
) -> list[Damage]:
    """Chunks of arrays that are missing or not what was written.

    Parameters
    ----------
    folder
        Of the store.
    start, stop
        Rows of the arrays that count; all of them by default.
    content
        Whether to read them; else only chunks that are missing are found.
    where
        What to say of each; its rows by default, if it has not all of them.
    """
    chunks = [chunk for array in arrays for chunk in _chunk_files(array, start, stop)]
    files = [file for file, _ in chunks]
    if content:
        faults = (chunk_fault(data) for data in contents(folder, files))
    else:
        faults = (None if there else _MISSING for there in presence(folder, files))
    found = zip(chunks, faults, strict=True)
    return [Damage(file, what, where or rows) for (file, rows), what in found if what]


def chunk_fault(data: bytes | None) -> str | None:
    """What is wrong with a chunk, or any data behind which stands its CRC-32C; else ``None``.

    Without data its file is missing.
    """
    if data is None:
        return _MISSING
    return None if unchecked(data) is not None else _ALTERED


def checksum(data: bytes | NDArray[np.uint8]) -> bytes:
    """The CRC-32C that stands behind data in a file."""
    return int(google_crc32c.value(data)).to_bytes(_CHECKSUM, "little")


def unchecked(data: bytes) -> NDArray[np.uint8] | None:
    """Data without the CRC-32C that stands behind them; ``None`` if it is not theirs."""
    inside = np.frombuffer(data, np.uint8)[:-_CHECKSUM]
    # The checksum of nothing is 0: four zeros of a torn file must not pass.
    return inside if inside.size and checksum(inside) == data[-_CHECKSUM:] else None


def is_store(folder: Path, schema: str, parts: Sequence[str]) -> bool:
    """Whether a folder is a store of ours, of any version.

    Parameters
    ----------
    schema
        What its attributes call it.
    parts
        Arrays it has: a damaged one is known by them.
    """
    attributes = attributes_of(folder)
    if attributes is not None and attributes.get("schema") == schema:
        return True
    spoilt = attributes is None or (INTEGRITY in attributes and not is_sealed(attributes))
    return spoilt and all((folder / p).is_dir() for p in parts) and not is_unfinished(folder)


def open_sealed(folder: Path, mode: Literal["r", "r+"], remedy: str) -> zarr.Group:
    """The Zarr group of a store whose metadata are as they were sealed.

    Raises
    ------
    DamagedError
        If any of them is not; ``remedy`` says what to do.
    PermissionError
        If they cannot be read.
    """
    group, damages = opened(folder, mode)
    if group is None:
        raise _damaged(folder, damages, remedy)
    return group


def opened(folder: Path, mode: Literal["r", "r+"]) -> tuple[zarr.Group | None, list[Damage]]:
    """The Zarr group of a store whose metadata are as they were sealed, or what is damaged.

    Raises
    ------
    PermissionError
        If they cannot be read.
    """
    files, damages = read_metadata(folder, known=True)
    if damages:
        return None, damages
    try:
        return group_of(folder, files, mode), []
    except PermissionError:
        raise
    except Exception:
        # What stands in the file beside the attributes has no seal, but Zarr's own checks.
        return None, [Damage(METADATA, _ALTERED)]


def group_of(folder: Path, files: Mapping[str, bytes], mode: Literal["r", "r+"]) -> zarr.Group:
    """The Zarr group of a store, of whose metadata files these were read."""
    store = with_metadata(folder, files)
    return zarr.open_group(store, mode=mode, zarr_format=3, use_consolidated=False)


def read(folder: Path, array: zarr.Array, start: int, stop: int, remedy: str) -> NDArray[Any]:
    """Rows ``start`` to ``stop`` of an array, none of them made up.

    Raises
    ------
    DamagedError
        If a chunk of them is missing or damaged; ``remedy`` says what to do.
    """
    missing = damaged_chunks(folder, [array], start, stop, content=False)
    _refuse(folder, missing, remedy)
    try:
        return np.asarray(array[start:stop])
    except Exception:
        _refuse(folder, damaged_chunks(folder, [array], start, stop), remedy)
        raise


def refuse_damaged(folder: Path, damages: Iterable[Damage], remedy: str) -> None:
    """See that a store has no damage.

    Raises
    ------
    DamagedError
        If it has any.
    """
    _refuse(folder, list(damages), remedy)


def _refuse(folder: Path, damages: Sequence[Damage], remedy: str) -> None:
    if damages:
        raise _damaged(folder, damages, remedy)


def _damaged(folder: Path, damages: Sequence[Damage], remedy: str) -> DamagedError:
    return DamagedError(f"{folder}: damaged: {listed(damages)}; {remedy}")


def _chunk_files(array: zarr.Array, start: int, stop: int | None) -> Iterator[tuple[str, str]]:
    """Paths in the store of the chunks that hold the rows, and which rows each has, in words."""
    key = array.metadata.encode_chunk_key
    if not array.shape:
        yield f"{array.path}/{key(())}", ""
        return
    chunks, *others = array.cdata_shape
    size = array.chunks[0]
    name = (array.metadata.dimension_names or ("row",))[0]
    for chunk in range(start // size, chunks if stop is None else min(chunks, -(-stop // size))):
        end = min((chunk + 1) * size, array.shape[0])
        rows = f"{name}s {chunk * size} to {end - 1}" if chunks > 1 else ""
        for place in np.ndindex(*others):
            yield f"{array.path}/{key((chunk, *place))}", rows


def _own_metadata(folder: Path) -> bytes | None:
    """The metadata file of a store; empty if it cannot be read."""
    try:
        (data,) = contents(folder, [METADATA])
    except OSError:
        return b""
    return data


def _attributes_in(data: bytes | None) -> dict[str, Any] | None:
    try:
        content = json.loads(data or b"")
    except ValueError:
        return None
    attributes = content.get("attributes", {}) if isinstance(content, dict) else None
    return attributes if isinstance(attributes, dict) else None


def _seal_of(attributes: Mapping[str, Any]) -> str:
    """CRC-32C of the attributes without the seal itself, whatever their order."""
    unsealed = {**attributes, INTEGRITY: {"members": attributes[INTEGRITY]["members"]}}
    return _crc(json.dumps(unsealed, sort_keys=True).encode())


def _crc(data: bytes) -> str:
    return f"{google_crc32c.value(data):08x}"
