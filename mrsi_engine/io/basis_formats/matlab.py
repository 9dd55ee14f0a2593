"""What a MATLAB file (version 5 to 7) unpacks to, told before any of it is kept."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mrsi_engine.errors import InputError

#: Bytes before the first element of a file, and the type of a compressed element.
_HEADER, _COMPRESSED = 128, 15

#: Bytes of all variables together; and of those that are unpacked at a time.
_MOST_UNPACKED, _PIECE = 1 << 30, 1 << 20


def check_unpacked(path: Path) -> None:
    """Refuse a file whose compressed variables unpack to more than any basis takes.

    Raises
    ------
    InputError
        If they do.
    """
    unpacked = 0
    with path.open("rb") as file:
        order = ">" if file.read(_HEADER)[-2:] == b"MI" else "<"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                file.seek(size, 1)
                continue
            for piece in _unpacked(file, size):
                unpacked += piece
                if unpacked > _MOST_UNPACKED:
                    raise InputError(
                        f"{path}: unpacks to more than {_MOST_UNPACKED} bytes, which is no basis"
                    )


def _unpacked(file: IO[bytes], size: int) -> Iterator[int]:
    """Bytes that so many compressed ones become, piece by piece; of damaged ones, those before."""
    stream = zlib.decompressobj()
    while size > 0 and (packed := file.read(min(size, _PIECE))):
        size -= len(packed)
        while packed:
            try:
                yield len(stream.decompress(packed, _PIECE))
            except zlib.error:
                packed = b""
            else:
                packed = stream.unconsumed_tail
