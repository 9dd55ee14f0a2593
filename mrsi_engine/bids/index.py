"""The files of a BIDS dataset and its derivatives by their entities, indexed by bids2table.

The index is kept as Parquet: of 2000 subjects it takes some seconds to make. It holds names only,
so it is as old as the folders: adding, removing or renaming a file changes the time of its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bids2table
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically

#: What the dataset itself is called; derivatives go by the name of their folder.
RAW = "raw"

_STATE = b"mrsi_engine_dataset_state"


@dataclass(frozen=True, eq=False)
class BIDSFile:
    """A file of a dataset.

    ``entities`` are by BIDS' short names, with ``datatype``, ``suffix``, ``ext`` and ``dataset``
    (:data:`RAW`, or the name of the derivative's folder).
    """

    path: Path
    entities: Mapping[str, str]

    def __getitem__(self, entity: str) -> str:
        return self.entities.get(entity, "")


@dataclass(frozen=True, eq=False)
class Index:
    """All NIfTI files below the subjects of a dataset and its derivatives, by subject.

    ``root`` is the dataset, ``derivatives`` the folders of theirs, ``notes`` what is to be said.
    """

    root: Path
    derivatives: tuple[Path, ...]
    table: pa.Table
    notes: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """Labels of the subjects of the raw dataset."""
        raw = self.table.filter(pc.equal(self.table["dataset"], RAW))
        return tuple(sorted(pc.unique(raw["sub"]).to_pylist()))

    def files(self, subjects: Sequence[str] | None = None) -> Iterator[BIDSFile]:
        """The files, of some subjects or all."""
        table = self.table
        if subjects is not None:
            table = table.filter(pc.is_in(table["sub"], pa.array(subjects, pa.string())))
        folders = _by_name(self.root, self.derivatives)
        for batch in table.to_batches(max_chunksize=4096):
            for record in batch.to_pylist():
                yield _file(record, folders)


def index_datasets(
    root: Path,
    derivatives: Sequence[Path] | None = None,
    cache: Path | None = None,
    *,
    keep: bool = True,
) -> Index:
    """The index of a dataset and its derivatives, read from ``cache`` unless the folders changed.

    Parameters
    ----------
    root
        Folder of the raw dataset.
    derivatives
        Folders of derivative datasets; those in ``derivatives`` of the dataset by default.
    cache
        Parquet file.
    keep
        Whether ``cache`` is written, or replaced, where it does not hold this state of the folders.

    Raises
    ------
    InputError
        If there is no such folder, or it holds no subject.
    """
    _check_dataset(root)
    root = root.absolute()
    below = _derivatives_in(root) if derivatives is None else [d.absolute() for d in derivatives]
    for folder in below:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of derivatives")
    found = _by_name(root, below)
    if len(found) <= len(below):
        raise InputError(f"{', '.join(map(str, below))}: two derivatives of the same name")
    state = _state(found)
    table = _cached(cache, state)
    if table is None:
        table = _indexed(found).replace_schema_metadata({_STATE: state})
        if cache is not None and keep:
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink)
            write_atomically(cache, sink.getvalue().to_pybytes())
    return Index(root, tuple(below), table, tuple(_skipped(found)))


def _by_name(root: Path, derivatives: Sequence[Path]) -> dict[str, Path]:
    return {RAW: root, **{folder.name: folder for folder in derivatives}}


def _check_dataset(root: Path) -> None:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give that of a BIDS dataset")
    if not any(root.glob("sub-*/")):
        raise InputError(f"{root}: no folder sub-...; give that of a BIDS dataset")


def _derivatives_in(root: Path) -> list[Path]:
    inside = root / "derivatives"
    folders = sorted(inside.iterdir()) if inside.is_dir() else []
    return [f for f in folders if f.is_dir() and any(f.glob("sub-*/")) and not _made_here(f)]


def _made_here(folder: Path) -> bool:
    """Whether a dataset of derivatives is one of this engine: its maps are nobody's input."""
    try:
        described = json.loads((folder / "dataset_description.json").read_text("utf-8"))
        return any(by.get("Name") == "mrsi_engine" for by in described["GeneratedBy"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _state(folders: Mapping[str, Path]) -> bytes:
    """What an index is known by: versions, and the times of all folders below the subjects."""
    digest = hashlib.sha256(repr((bids2table.version, 1)).encode())
    for name, root in folders.items():
        digest.update(repr((name, str(root.absolute()))).encode())
        for subject in sorted(root.glob("sub-*/")):
            for folder, inside, _ in os.walk(subject, followlinks=True):
                inside.sort()
                digest.update(repr((folder, os.stat(folder).st_mtime_ns)).encode())
    return digest.hexdigest().encode()


def _cached(cache: Path | None, state: bytes) -> pa.Table | None:
    if cache is None or not cache.is_file():
        return None
    try:
        table = pq.read_table(pa.BufferReader(cache.read_bytes()))
    except (pa.ArrowException, OSError):
        return None
    return table if (table.schema.metadata or {}).get(_STATE) == state else None


def _indexed(folders: Mapping[str, Path]) -> pa.Table:
    tables = []
    for name, root in folders.items():
        table = _listed(root)
        names = pa.array([name] * len(table), pa.string())
        table = table.set_column(table.schema.get_field_index("dataset"), "dataset", names)
        nifti = pc.match_substring_regex(table["ext"], r"^\.nii(\.gz)?$")
        tables.append(table.filter(pc.fill_null(nifti, False)))
    return pa.concat_tables(tables).combine_chunks()


def _listed(root: Path) -> pa.Table:
    """The files of a dataset, whatever it is called: bids2table finds none in ``fmriprep-23.2``."""
    with TemporaryDirectory() as folder:
        link = Path(folder) / "dataset"
        link.symlink_to(root, target_is_directory=True)
        return bids2table.index_dataset(link).drop_columns(["root"])


def _file(record: Mapping[str, Any], folders: Mapping[str, Path]) -> BIDSFile:
    path = folders[record["dataset"]] / record["path"]
    known = {name: str(value) for name, value in record.items() if value is not None}
    extra = dict(record["extra_entities"] or ())
    for name in ("path", "extra_entities"):
        known.pop(name, None)
    return BIDSFile(path, {**known, **extra})


def _skipped(folders: Mapping[str, Path]) -> Iterator[str]:
    """Folders that look like subjects and are none."""
    for root in folders.values():
        for folder in sorted(root.glob("sub-*/")):
            if not re.fullmatch(r"sub-[A-Za-z0-9]+", folder.name):
                yield f"{folder}: left out: labels of BIDS are letters and digits; rename it"
