"""Inputs that are made to hang, to fill the memory or to break a reader, by what they attack.

Each function fills a folder and returns paths by name. All of them are small on disk.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

_FIELDS = {"SpectrometerFrequency": [123.25], "ResonantNucleus": ["1H"], "EchoTime": 0.03}

#: A gzip member of 16 MB of zeros; members that follow each other unpack to all of theirs.
_ZEROS = gzip.compress(bytes(16 << 20))


def nested(levels: int) -> bytes:
    """A header extension whose field ``x`` is a list in a list and so on."""
    return json.dumps(_FIELDS)[:-1].encode() + b', "x": ' + b"[" * levels + b"]" * levels + b"}"


def no_files(folder: Path, suffix: str) -> dict[str, Path]:
    """What has the name of a file and is none, or is one that cannot be read to its end."""
    fifo, unix, device, loop, inner, long, sparse = (
        folder / f"{name}{suffix}"
        for name in ("pipe", "socket", "device", "loop", "folder", "l" * 300, "endless")
    )
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as bound:
        # The names of sockets are short, those of folders of tests are not.
        here = os.getcwd()
        os.chdir(folder)
        bound.bind(unix.name)
        os.chdir(here)
    device.symlink_to("/dev/zero")
    loop.symlink_to(loop)
    inner.mkdir()
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    named = {"pipe": fifo, "socket": unix, "device": device, "loop": loop, "folder": inner}
    return {**named, "long name": long, "endless": sparse}


def _header(shape: Sequence[int], dtype: str = "c8", version: int = 2) -> bytearray:
    """Header of a file whose dimensions are then set to ``shape`` by hand."""
    kind, axis, at = (nib.Nifti2Image, "<i8", 16) if version == 2 else (nib.Nifti1Image, "<i2", 40)
    image = kind(np.ones((1, 1, 1, 2), np.dtype(dtype)), np.diag([10.0, 10.0, 10.0, 1.0]))
    image.header["intent_name"] = b"mrs_v0_11"
    image.header["pixdim"][4] = 4e-4
    image.header.set_xyzt_units("mm", "sec")
    if dtype == "c8":
        coded = nib.nifti1.Nifti1Extension(44, json.dumps(_FIELDS).encode())
        image.header.extensions.append(coded)
    content = bytearray(image.to_bytes()[: -2 * np.dtype(dtype).itemsize])
    dims = np.array([len(shape), *shape, *[1] * (7 - len(shape))]).astype(axis)
    content[at : at + dims.nbytes] = dims.tobytes()
    return content


def scans(folder: Path) -> dict[str, Path]:
    """NIfTI-MRS files whose headers announce too much."""
    shapes = {
        "10^12 points": (1, 1, 1, 10**12),
        "10^12 voxels": (10**6, 10**6, 1, 64),
        "10^12 transients": (4, 4, 1, 64, 10**12),
        "more than 64 bits": (2**62, 2**62, 2**62, 2**62),
        "negative": (4, 4, -(10**12), 64),
    }
    found = {}
    for name, shape in shapes.items():
        for suffix, pack in ((".nii", bytes), (".nii.gz", gzip.compress)):
            path = folder / f"{name.replace(' ', '-')}{suffix}"
            path.write_bytes(pack(bytes(_header(shape)) + bytes(1024)))
            found[name + suffix] = path
    old = folder / "nifti-1.nii"
    old.write_bytes(bytes(_header((32767,) * 7, version=1)) + bytes(1024))
    sparse = folder / "sparse.nii"
    sparse.write_bytes(bytes(_header((10**4, 10**4, 10, 1024))))
    os.truncate(sparse, 9 << 40)
    return {**found, "NIfTI-1": old, "sparse": sparse, **_bombs(folder), **_extensions(folder)}


def _bombs(folder: Path) -> dict[str, Path]:
    """Gigabytes of zeros in megabytes, where a reader would take them whole."""
    normal = bytes(_header((2, 2, 1, 64)))
    offset, extension, negative = bytearray(normal), bytearray(normal), bytearray(normal)
    offset[168:176] = struct.pack("<q", 3 << 30)
    extension[544:548] = struct.pack("<i", (1 << 31) - 16)
    negative[544:548] = struct.pack("<i", -(1 << 30))
    plane = bytes(_header((30_000, 30_000, 4, 2)))
    heads = {"offset": offset, "extension": extension, "negative": negative, "plane": plane}
    found = {}
    for name, head in heads.items():
        path = folder / f"bomb-{name}.nii.gz"
        path.write_bytes(gzip.compress(bytes(head)) + _ZEROS * 240)
        found[f"bomb: {name}"] = path
    behind = folder / "bomb-behind.nii.gz"
    draw = np.random.default_rng(0)
    samples = draw.normal(size=2 * 2 * 64 * 2).astype("<f4").tobytes()
    behind.write_bytes(gzip.compress(normal + samples) + _ZEROS * 1000)
    return {**found, "bomb: behind the samples": behind}


def _extensions(folder: Path) -> dict[str, Path]:
    """JSON that is too deep or too long."""
    texts = {
        "20000 levels": nested(20_000),
        "900 levels": nested(900),
        "100 levels": nested(100),
        "long": json.dumps({**_FIELDS, "x": "y" * (20 << 20)}).encode(),
        "number": json.dumps(_FIELDS)[:-1].encode() + b', "RxOffset": ' + b"9" * 10_000 + b"}",
    }
    found = {}
    for name, text in texts.items():
        image = nib.Nifti2Image(np.ones((2, 2, 1, 64), np.complex64), np.eye(4))
        image.header["intent_name"] = b"mrs_v0_11"
        image.header["pixdim"][4] = 4e-4
        image.header.set_xyzt_units("mm", "sec")
        image.header.extensions.append(nib.nifti1.Nifti1Extension(44, text))
        path = folder / f"json-{name.replace(' ', '-')}.nii"
        nib.save(image, path)
        found[f"JSON: {name}"] = path
    return found


def volumes(folder: Path) -> dict[str, Path]:
    """Masks and tissue fractions that announce too much, or are packed beyond reason."""
    content = {
        "large.nii": bytes(_header((10**6, 10**6, 1), "u1")),
        "large.nii.gz": gzip.compress(bytes(_header((10**6, 10**6, 1), "u1"))),
        "bomb.nii.gz": gzip.compress(bytes(_header((1600, 1600, 1500), "u1"))) + _ZEROS * 240,
    }
    for name, bytes_ in content.items():
        (folder / name).write_bytes(bytes_)
    return {name: folder / name for name in content}


def bases(folder: Path) -> dict[str, Path]:
    """A folder of JSON too deep, and a MATLAB file that unpacks to gigabytes."""
    deep = folder / "deep"
    deep.mkdir()
    (deep / "NAA.json").write_bytes(b'{"basis": ' + b"[" * 20_000 + b"]" * 20_000 + b"}")
    packed = io.BytesIO()
    stream, zeros = zlib.compressobj(), bytes(16 << 20)
    packed.write(stream.compress(struct.pack("<II", 14, (1 << 31) - 8)))
    for _ in range(80):
        packed.write(stream.compress(zeros))
    packed.write(stream.flush())
    head = b"MATLAB 5.0 MAT-file".ljust(124, b" ") + struct.pack("<H", 0x0100) + b"IM"
    body = packed.getvalue()
    bomb = folder / "bomb.mat"
    bomb.write_bytes(head + struct.pack("<II", 15, len(body)) + body)
    return {"deep JSON": deep, "MATLAB bomb": bomb}
