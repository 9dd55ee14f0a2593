"""The voxels of all scans as one dataset: ``voxels/subject=01/session=01/STEM.parquet``.

Files are those of the scans (hard links, where the file system has them) as long as all have the
same columns. Where protocols or pipelines differ they are written anew with the columns of all, so
that every reader opens the whole, and nobody has to ask it for a union.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.places import is_remote, written_at
from mrsi_engine.io.tables import as_parquet

#: The dataset's folder in that of a cohort, and a scan's own table.
VOXELS = "voxels"
SCAN_TABLE = "voxels.parquet"

#: A label that is not there. The word that readers take for no value would be no label of a kind
#: to pyarrow where all scans lack one.
_NO_LABEL = "none"

#: Threads that wait for files.
_THREADS = 8


@dataclass(frozen=True)
class ScanVoxels:
    """The voxel table of a scan and where it stands in the dataset, from the cohort's folder."""

    source: Path
    subject: str
    session: str
    stem: str

    @property
    def place(self) -> str:
        """Its file in the dataset."""
        subject, session = self.subject or _NO_LABEL, self.session or _NO_LABEL
        return f"subject={subject}/session={session}/{self.stem}.parquet"


def write_voxels(out: Path, scans: Iterable[ScanVoxels]) -> Path:
    """Bring the dataset of these scans up to date; returns its folder.

    What is as it should be stays, and files of other scans go.

    Raises
    ------
    InputError
        If columns of the same name hold different kinds of values.
    RunError
        If a file cannot be written.
    """
    folder, found = out / VOXELS, list(scans)
    with ThreadPoolExecutor(_THREADS) as threads:
        schemas = list(threads.map(lambda scan: _schema(scan.source), found))
        union = _union(schemas)
        waiting = threads.map(lambda scan, own: _put(folder, scan, own, union), found, schemas)
        for _ in waiting:
            pass
    _remove_others(folder, {scan.place for scan in found})
    return folder


def _schema(path: Path) -> pa.Schema:
    with path.open("rb") as file:
        return pq.read_schema(file)


def _union(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Columns of all, those of the first ones first; what is said of a column by its first."""
    distinct = list({_columns(schema): schema for schema in schemas}.values())
    bare = [schema.remove_metadata() for schema in distinct]
    try:
        return pa.unify_schemas(bare, promote_options="permissive") if bare else pa.schema([])
    except pa.ArrowTypeError as error:
        raise InputError(f"voxel tables of a cohort do not go together: {error}") from error


def _columns(schema: pa.Schema) -> tuple[tuple[str, pa.DataType], ...]:
    return tuple(zip(schema.names, schema.types, strict=True))


def _put(folder: Path, scan: ScanVoxels, schema: pa.Schema, union: pa.Schema) -> None:
    target = folder / scan.place
    if _up_to_date(target, scan.source, union):
        return
    if _columns(schema) != _columns(union):
        write_atomically(target, _widened(scan.source, union))
    elif not _linked(scan.source, target):
        write_atomically(target, scan.source.read_bytes())


def _up_to_date(target: Path, source: Path, union: pa.Schema) -> bool:
    if not target.exists() or written_at(target) < written_at(source):
        return False
    return _columns(_schema(target)) == _columns(union)


def _linked(source: Path, target: Path) -> bool:
    """Make ``target`` the very file ``source`` is; not possible everywhere."""
    if is_remote(target):
        return False
    aside = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        aside.hardlink_to(source)
        aside.replace(target)
        # Of two names of one file a rename does nothing at all.
        aside.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _widened(source: Path, union: pa.Schema) -> bytes:
    """A scan's table with the columns of all, null where it has none."""
    with source.open("rb") as file:
        table = pq.ParquetFile(file).read()
    own = {name: table.field(name) for name in table.column_names}
    columns = [
        table[f.name].cast(f.type) if f.name in own else pa.nulls(len(table), f.type) for f in union
    ]
    told = [f.with_metadata(own[f.name].metadata) if f.name in own else f for f in union]
    schema = pa.schema(told, metadata=table.schema.metadata)
    return as_parquet(pa.table(columns, schema=schema))


def _remove_others(folder: Path, places: set[str]) -> None:
    for path in list(_files(folder)):
        if path.relative_to(folder).as_posix() not in places:
            path.unlink()
            for parent in [] if is_remote(path) else list(path.parents)[:2]:
                if not any(parent.iterdir()):
                    parent.rmdir()


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from folder.glob("subject=*/session=*/*.parquet")
