"""What a NIfTI header announces, held against the file before anything of it is allocated.

The first bytes are read here and not by nibabel, which takes the size of an extension as it stands
there: one of 2 GB out of a file of 2 MB, or one that is negative, to the end of whatever follows.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mrsi_engine.errors import InputError

#: Bytes of header and extensions before the samples: 10 000 transients with ten numbers each take
#: a megabyte.
MOST_BEFORE_SAMPLES = 8 << 20

#: Bytes that may follow the samples; a file with more holds something else, or nothing but zeros.
MOST_BEHIND_SAMPLES = 16 << 20

#: Deflate makes a byte of at most 1032.
_MOST_COMPRESSED = 1032

#: FIDs hardly compress: a large file that shrinks by more than this is nearly all zeros. Masks do.
_SUSPECT_COMPRESSION, _SUSPECT_SIZE = 100, 4 << 30
_SUSPECT_MASK_COMPRESSION, _SUSPECT_MASK_SIZE = 500, 1 << 30

#: Share of the memory that a time point, or a whole volume of real numbers, may take.
_OF_THE_MEMORY = 0.25

#: By the size of a header: where it says how many bytes stand before the samples, and how.
_OFFSETS = {348: (108, "f"), 540: (168, "q")}


def is_compressed(path: Path) -> bool:
    """Whether a file is a ``.nii.gz``."""
    return path.name.lower().endswith(".gz")


def check_beginning(path: Path) -> None:
    """Refuse what does not begin like NIfTI, and a file whose extensions are not as they say.

    Raises
    ------
    InputError
        If header and extensions take more than :data:`MOST_BEFORE_SAMPLES`, or an extension is
        larger than the room before the samples, or the file ends there.
    """
    try:
        with path.open("rb") as raw:
            plain: IO[bytes] = raw
            stream = gzip.GzipFile(fileobj=plain) if is_compressed(path) else plain
            head = stream.read(max(_OFFSETS))
            order = next((o for o in "<>" if _size_of_header(head, o) in _OFFSETS), None)
            if order is None:
                raise InputError(f"{path}: not a NIfTI file: it does not begin like one")
            _check_extensions(path, head, stream, order)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a NIfTI file, or damaged: {error}") from error


def _size_of_header(head: bytes, order: str) -> int:
    return int(struct.unpack_from(f"{order}i", head)[0]) if len(head) >= 4 else 0


def _check_extensions(
    path: Path, head: bytes, stream: IO[bytes] | gzip.GzipFile, order: str
) -> None:
    size = _size_of_header(head, order)
    at, kind = _OFFSETS[size]
    if len(head) < size:
        raise InputError(f"{path}: truncated: it ends within its header; copy or convert it again")
    stated = struct.unpack_from(order + kind, head, at)[0]
    if not 0 <= stated <= MOST_BEFORE_SAMPLES:
        raise InputError(
            f"{path}: vox_offset is {stated:g}, expected at most {MOST_BEFORE_SAMPLES} bytes of "
            "header and extensions before the samples; correct the header"
        )
    rest = head[size:] + stream.read(max(0, int(stated) - len(head)))
    if rest[:1] in (b"", b"\0"):
        return
    room, at = int(stated) - size, 4
    while room - at >= 16 or room < at:
        length = struct.unpack_from(f"{order}i", rest, at)[0] if len(rest) >= at + 4 else 0
        if not 8 <= length <= room - at:
            raise InputError(
                f"{path}: a header extension announces {length} bytes where {max(0, room - at)} "
                "stand before the samples: damaged; copy or convert the file again"
            )
        at += length


def check_announced(path: Path, shape: Sequence[int], itemsize: int, offset: int) -> None:
    """Refuse complex samples that the file cannot hold, or that are too many for this machine.

    Parameters
    ----------
    shape, itemsize, offset
        As the header has them: ``(x, y, z, time, ...)``, bytes a sample and bytes before them.

    Raises
    ------
    InputError
        Names what is announced and what there is.
    """
    announced = _check_size(path, shape, itemsize, offset)
    _check_compression(path, announced, _SUSPECT_COMPRESSION, _SUSPECT_SIZE)
    plane = math.prod(shape[:3]) * itemsize
    if plane > _OF_THE_MEMORY * memory():
        raise InputError(
            f"{path}: announces {in_words(shape)} samples: one time point takes "
            f"{readable(plane)} of the {readable(memory())} of memory here; cut the volume"
        )


def check_announced_volume(path: Path, shape: Sequence[int], itemsize: int, offset: int) -> None:
    """As :func:`check_announced` for a volume of real numbers, which is read whole."""
    announced = _check_size(path, shape, itemsize, offset)
    _check_compression(path, announced, _SUSPECT_MASK_COMPRESSION, _SUSPECT_MASK_SIZE)
    needed = math.prod(shape) * (itemsize + 4)
    if needed > _OF_THE_MEMORY * memory():
        raise InputError(
            f"{path}: announces {in_words(shape)} values, for which {readable(needed)} of the "
            f"{readable(memory())} of memory here are needed; cut or resample the volume"
        )


def _check_size(path: Path, shape: Sequence[int], itemsize: int, offset: int) -> int:
    on_disk = path.stat().st_size
    announced = offset + math.prod(shape) * itemsize
    if announced > on_disk * (_MOST_COMPRESSED if is_compressed(path) else 1):
        raise InputError(
            f"{path}: truncated or damaged: the header announces {in_words(shape)} samples, "
            f"{announced} bytes ({readable(announced)}), more than a file of {on_disk} bytes can "
            "hold; copy or convert it again"
        )
    return announced


def _check_compression(path: Path, announced: int, most: int, size: int) -> None:
    on_disk = path.stat().st_size
    if announced > max(size, most * on_disk):
        raise InputError(
            f"{path}: {readable(on_disk)} on disk announce {readable(announced)}: such a file "
            "holds next to nothing but zeros; if it is meant to, decompress it (gunzip) and give "
            "that"
        )


def memory() -> float:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def in_words(shape: Sequence[int]) -> str:
    """``4 x 4 x 2 x 64``."""
    return " x ".join(map(str, shape))


def readable(size: float) -> str:
    """Bytes as people say them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
