"""Files that grow by lines: appended to on a disk, put whole on an object store."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from mrsi_engine.io.files import make_folder, writable, write_atomically
from mrsi_engine.io.places import is_remote

#: An object store gets a segment at most so often (s), and at the end.
PUT_EVERY = 2.0


class Segment:
    """A file of lines that one process appends to.

    Parameters
    ----------
    path
        Must not exist yet; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._appends = not is_remote(path)
        self._file: BinaryIO | None = None
        self._held: list[str] = []
        self._put_at = 0.0
        with writable(path):
            make_folder(path.parent)
            if self._appends:
                self._file = path.open("xb", buffering=0)

    def append(self, lines: Sequence[str]) -> None:
        """Add lines, in one go on a disk.

        Raises
        ------
        DiskFullError
            If the disk is full. The lines may be there in part; those that follow stand apart.
        """
        data = "".join(f"{line}\n" for line in lines)
        if self._file is None:
            self._held.append(data)
            if time.monotonic() - self._put_at >= PUT_EVERY:
                self.flush()
            return
        with writable(self.path):
            _write_all(self._file, data.encode())

    def flush(self) -> None:
        """Give an object store what it has not got yet."""
        if self._file is None and self._held:
            write_atomically(self.path, "".join(self._held).encode())
            self._put_at = time.monotonic()

    def close(self) -> None:
        """No more lines come."""
        self.flush()
        if self._file is not None:
            self._file.close()


def _write_all(file: BinaryIO, data: bytes) -> None:
    """Write through; what a full disk took of it is cut off again."""
    begun = file.tell()
    try:
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
    except OSError:
        os.ftruncate(file.fileno(), begun)
        file.seek(begun)
        raise
