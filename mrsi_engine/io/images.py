"""NIfTI images to and from files, wherever those lie."""

from __future__ import annotations

import gzip
import os
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
from nibabel.fileholders import FileHolder

from mrsi_engine.io.files import replace_file
from mrsi_engine.io.places import is_remote

#: By the size of their header.
_CLASSES = {348: nib.Nifti1Image, 540: nib.Nifti2Image}


def image_at(path: Path) -> Any:
    """An image whose samples are still in its file; of one on an object store, its first bytes.

    Raises
    ------
    ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError
        If the file is damaged or something else.
    """
    if not is_remote(path):
        return nib.load(path)
    file = path.open("rb")
    stream: Any = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
    size = stream.read(4)
    kinds = [_CLASSES.get(int.from_bytes(size, order)) for order in ("little", "big")]
    kind = next((kind for kind in kinds if kind is not None), None)
    if kind is None:
        raise ValueError("it does not begin like one")
    stream.seek(0)
    return kind.from_file_map({"image": FileHolder(fileobj=stream)})


def save_image(image: Any, path: Path) -> None:
    """Write an image; it appears under its name only once it is complete.

    Raises
    ------
    ImageFileError
        If the name is not one of an image.
    OSError
        If it cannot be written.
    """
    if is_remote(path):
        with TemporaryDirectory(prefix="mrsi-") as scratch:
            nib.save(image, Path(scratch) / path.name)
            replace_file(path, (Path(scratch) / path.name).read_bytes())
        return
    partial = path.with_name(f".{uuid.uuid4().hex}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
