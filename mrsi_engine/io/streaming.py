"""One sequential pass over the samples of a NIfTI-MRS file, in bounded memory.

NIfTI stores time slowest: the file is one volume per time point. Blocks of whole FIDs therefore
need a transposition, done here by keeping the wanted voxels of every time point in a scratch file
(in memory while it fits the budget) and reading runs of voxels back across all time points.
"""

from __future__ import annotations

import hashlib
import io
import math
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.io.bounds import MOST_BEHIND_SAMPLES
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader
from mrsi_engine.io.places import is_remote

_ITEM = np.dtype(np.complex64).itemsize
_BUFFER = 1 << 20

# What tells zlib that a header and a trailer of gzip stand around the data.
_GZIP = 16 + zlib.MAX_WBITS

# Pieces of rows that are turned together (bytes).
_TURNED = 1 << 22

# Rows of a table that are shorter than this (bytes) are read whole.
_SHORT_ROW = 1 << 14

# First row, rows and which of their columns are wanted.
_Rows = tuple[int, NDArray[np.complex64], NDArray[np.intp] | slice]


class _Hashing(io.RawIOBase):
    """A file read once from start to end, whose SHA-256 is known afterwards."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb") if is_remote(path) else path.open("rb", buffering=0)
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._file.readinto(buffer) or 0
        self._digest.update(buffer[:count])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()

    @property
    def checksum(self) -> str:
        return self._digest.hexdigest()


class _Unzipped(io.RawIOBase):
    """What the members of a gzip file hold, one after the other, each checked by its CRC.

    The standard library's reader takes 8 kB at a time (until Python 3.12), and so twice as long.
    """

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed, self._waiting, self._begun = packed, b"", False
        self._member: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self._waiting or self._more():
            if self._member is None:
                self._member = zlib.decompressobj(_GZIP)
            plain = self._member.decompress(self._waiting, len(buffer))
            self._waiting = self._member.unconsumed_tail
            if self._member.eof:
                # Zeros may fill up a file behind its last member.
                self._waiting, self._member = self._member.unused_data.lstrip(b"\0"), None
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)
        return 0

    def _more(self) -> bool:
        """Whether there was anything left to unpack."""
        data = self._packed.read(_BUFFER)
        if not data and self._member is not None:
            raise EOFError("the file ends before its compressed samples do")
        between = self._member is None and self._begun
        self._waiting, self._begun = data.lstrip(b"\0") if between else data, True
        return bool(self._waiting) or (bool(data) and self._more())


class SampleStream(AbstractContextManager["SampleStream"]):
    """The time points of a NIfTI-MRS file in order; ``checksum`` once all are read.

    Iterating yields runs of time points, ``(n, x*y*z)`` complex64 with x fastest; where there are
    coils or transients, the time points of the first FID come first, then those of the next. The
    file is then read to its very end, so that its length and CRC are known to be right before
    anything made of it is kept.
    """

    def __init__(self, header: NIfTIMRSHeader) -> None:
        self._header = header
        try:
            self._raw = _Hashing(header.path)
        except OSError as error:
            raise InputError(f"{header.path}: cannot be read: {error.strerror}") from error
        self._buffered = io.BufferedReader(self._raw, _BUFFER)
        self._samples: io.BufferedReader[Any] = self._buffered
        if header.compressed:
            self._samples = io.BufferedReader(_Unzipped(self._buffered), _BUFFER)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._buffered.close()

    @property
    def checksum(self) -> str:
        """SHA-256 of the file as it lies on disk."""
        return self._raw.checksum

    def __iter__(self) -> Iterator[NDArray[np.complex64]]:
        try:
            yield from self._runs()
            self._drain()
        except (EOFError, zlib.error) as error:
            raise InputError(
                f"{self._header.path}: truncated or damaged: {error}; copy or convert it again"
            ) from error

    def _runs(self) -> Iterator[NDArray[np.complex64]]:
        header = self._header
        self._read(header.offset)
        voxels = math.prod(header.grid.shape)
        size = voxels * header.dtype.itemsize
        planes, at_once = header.points_in_file * header.signals, max(1, _BUFFER // size)
        for start in range(0, planes, at_once):
            count = min(at_once, planes - start)
            with np.errstate(over="ignore", invalid="ignore"):
                run = np.frombuffer(self._read(count * size), header.dtype).astype(np.complex64)
            yield run.reshape(count, voxels)

    def _read(self, size: int) -> bytes:
        data = self._samples.read(size)
        if len(data) < size:
            raise EOFError("the file ends before the last time point")
        return data

    def _drain(self) -> None:
        behind = 0
        for stream in (self._samples, self._buffered):
            while read := len(stream.read(_BUFFER)):
                behind += read
                if behind > MOST_BEHIND_SAMPLES:
                    raise InputError(
                        f"{self._header.path}: more than {behind} bytes follow the samples that "
                        "the header announces; correct its dimensions, or convert the source again"
                    )


class Transposer(AbstractContextManager["Transposer"]):
    """Takes time points one by one, gives back FIDs.

    Parameters
    ----------
    voxels, points
        Size of the table.
    memory_budget
        Bytes that may be held in memory; a larger table goes to an unnamed file in ``folder``,
        which vanishes with the process whatever happens to it.
    folder
        Where that file is made.
    """

    def __init__(self, voxels: int, points: int, memory_budget: int, folder: Path) -> None:
        self._voxels, self._points = voxels, points
        self._file = _scratch(voxels * points * _ITEM, memory_budget, folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def points(self) -> int:
        """Time points of a FID."""
        return self._points

    def append(self, run: NDArray[np.complex64]) -> None:
        """Add the next time points, ``(n, voxel)``."""
        self._file.write(np.ascontiguousarray(run).data)

    def fids(self, columns: NDArray[np.intp], points: int | None = None) -> NDArray[np.complex64]:
        """FIDs ``(n, time)`` of ascending voxel numbers, only their first points if so told."""
        count = self._points if points is None else min(points, self._points)
        found = np.empty((len(columns), count), np.complex64)
        read = self._rows if self._voxels * _ITEM <= _SHORT_ROW else self._pieces_of_rows
        for start, rows, wanted in read(columns, count):
            # Some rows at a time: a FID's samples then come in runs, which caches like.
            found[:, start : start + len(rows)] = rows[:, wanted].T
        return found

    def _rows(self, columns: NDArray[np.intp], count: int) -> Iterator[_Rows]:
        """Many rows at a time and whole: a call costs more than the samples nobody asked for."""
        at_once = _BUFFER // (self._voxels * _ITEM)
        self._file.seek(0)
        for start in range(0, count, at_once):
            rows = np.empty((min(at_once, count - start), self._voxels), np.complex64)
            self._file.readinto(rows.data)  # type: ignore[attr-defined]
            yield start, rows, columns

    def _pieces_of_rows(self, columns: NDArray[np.intp], count: int) -> Iterator[_Rows]:
        first, span = int(columns[0]), int(columns[-1] - columns[0]) + 1
        everything = len(columns) == span
        wanted = slice(None) if everything else columns - first
        at_once = max(1, _TURNED // (span * _ITEM))
        for start in range(0, count, at_once):
            pieces = np.empty((min(at_once, count - start), span), np.complex64)
            for n, piece in enumerate(pieces):
                self._file.seek(((start + n) * self._voxels + first) * _ITEM)
                self._file.readinto(piece.data)  # type: ignore[attr-defined]
            yield start, pieces, wanted


def _scratch(size: int, memory_budget: int, folder: Path) -> IO[bytes]:
    if size <= memory_budget:
        return io.BytesIO()
    return tempfile.TemporaryFile(dir=folder)
