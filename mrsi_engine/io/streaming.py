"""One sequential pass over the samples of a NIfTI-MRS file, in bounded memory.

NIfTI stores time slowest: the file is one volume per time point. Blocks of whole FIDs therefore
need a transposition, done here by keeping the wanted voxels of every time point in a scratch file
(in memory while it fits the budget) and reading runs of voxels back across all time points.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader

_ITEM = np.dtype(np.complex64).itemsize
_BUFFER = 1 << 20


class _Hashing(io.RawIOBase):
    """A file read once from start to end, whose SHA-256 is known afterwards."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
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


class SampleStream(AbstractContextManager["SampleStream"]):
    """The time points of a NIfTI-MRS file in order; ``checksum`` once all are read.

    Iterating yields ``(x*y*z,)`` complex64 planes with x fastest; where there are coils or
    transients, the time points of the first FID come first, then those of the next. The file is
    then read to its very end, so that its length and CRC are known to be right before anything made
    of it is kept.
    """

    def __init__(self, header: NIfTIMRSHeader) -> None:
        self._header = header
        try:
            self._raw = _Hashing(header.path)
        except OSError as error:
            raise InputError(f"{header.path}: cannot be read: {error.strerror}") from error
        self._buffered = io.BufferedReader(self._raw, _BUFFER)
        plain: IO[bytes] = self._buffered
        self._samples = gzip.GzipFile(fileobj=plain) if header.compressed else plain

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
            yield from self._planes()
            self._drain()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{self._header.path}: truncated or damaged: {error}; copy or convert it again"
            ) from error

    def _planes(self) -> Iterator[NDArray[np.complex64]]:
        header = self._header
        self._read(header.offset)
        size = int(np.prod(header.grid.shape)) * header.dtype.itemsize
        for _ in range(header.acquisition.points * header.signals):
            with np.errstate(over="ignore", invalid="ignore"):
                plane = np.frombuffer(self._read(size), header.dtype).astype(np.complex64)
            yield plane

    def _read(self, size: int) -> bytes:
        data = self._samples.read(size)
        if len(data) < size:
            raise EOFError("the file ends before the last time point")
        return data

    def _drain(self) -> None:
        for stream in (self._samples, self._buffered):
            while stream.read(_BUFFER):
                pass


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

    def append(self, plane: NDArray[np.complex64]) -> None:
        """Add the next time point, ``(voxel,)``."""
        self._file.write(np.ascontiguousarray(plane).data)

    def fids(self, columns: NDArray[np.intp]) -> NDArray[np.complex64]:
        """FIDs ``(n, time)`` of ascending voxel numbers."""
        first, span = int(columns[0]), int(columns[-1] - columns[0]) + 1
        row = np.empty(span, np.complex64)
        table = np.empty((self._points, len(columns)), np.complex64)
        for point in range(self._points):
            self._file.seek((point * self._voxels + first) * _ITEM)
            self._file.readinto(row.data)  # type: ignore[attr-defined]
            table[point] = row[columns - first]
        return np.ascontiguousarray(table.T)


def _scratch(size: int, memory_budget: int, folder: Path) -> IO[bytes]:
    if size <= memory_budget:
        return io.BytesIO()
    return tempfile.TemporaryFile(dir=folder)
