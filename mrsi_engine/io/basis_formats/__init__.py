"""Basis sets of other programs: one file a format, listed in :data:`READERS`.

A format is a module with ``FORM`` (what it is called in messages), ``reads(path)`` (whether this
is one, by its content) and ``read(path, reference_ppm)`` (the basis in our conventions;
``reference_ppm`` is what the user says of it, or ``None``). To add one, write the module and put
it into the list; the first that reads a path takes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mrsi_engine.io.basis_formats import fsl_json, jmrui, lcmodel, osprey
from mrsi_engine.spectra.basis import Basis


class BasisFormat(Protocol):
    """What a module of this room offers."""

    FORM: str

    def reads(self, path: Path) -> bool:
        """Whether the file or folder, which exists, is of this format."""
        ...

    def read(self, path: Path, reference_ppm: float | None) -> Basis:
        """The basis, its signs and scales settled, not yet checked for its landmarks."""
        ...


READERS: tuple[BasisFormat, ...] = (fsl_json, jmrui, lcmodel, osprey)
