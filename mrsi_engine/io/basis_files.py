"""Basis sets of other programs, read into our conventions and checked.

Each format is a module of :mod:`mrsi_engine.io.basis_formats`. Written are folders of FSL-MRS JSON
files, which keep every digit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_formats import READERS, BasisFormat, fsl_json
from mrsi_engine.io.basis_formats.reading import files_in
from mrsi_engine.io.files import make_folder
from mrsi_engine.io.objects import names_in
from mrsi_engine.io.places import place
from mrsi_engine.spectra.basis import Basis

#: How far from 1 the correlation of two columns may lie that are the same.
_SAME = 1e-6

FORMATS = ", ".join(reader.FORM for reader in READERS)


def read_basis(
    path: str | Path,
    *,
    reference_ppm: float | None = None,
    conjugate: bool = False,
    symbol: str | None = None,
) -> Basis:
    """Read a basis set of any known format.

    Parameters
    ----------
    path
        LCModel ``.basis`` file, folder of FSL-MRS JSON files, jMRUI text file or a folder of them,
        Osprey ``.mat`` file.
    reference_ppm
        Chemical shift at 0 Hz, where it is not what the file says (4.65 ppm where it says
        nothing and is of protons).
    conjugate
        Turn the frequency axis round, for files written with the other sign than their format's.
    symbol
        Nucleus that it must be of, where that is known.

    Returns
    -------
    Basis
        In the conventions of :mod:`mrsi_engine.conventions`, with its landmarks checked. Where
        the file holds half of each first time point (LCModel's way of removing the spectrum's
        offset), the whole is restored.

    Raises
    ------
    InputError
        If the path is missing or of no known format; if a field is missing or malformed; if FIDs
        disagree in length, dwell time or frequency, hold NaN or Inf; if a number is in another
        unit than its format's; if it is of another nucleus than 1H and nobody states its
        reference; if its known singlets are not where they should be.
        The message names the file and the field or line.
    """
    path = place(path)
    basis = _reader(path).read(path, reference_ppm)
    if symbol is not None:
        basis.check_nucleus(symbol)
    if conjugate:
        basis = basis.conjugated()
    return _with_word_on_twins(_with_whole_first_point(basis.check()))


def write_basis(basis: Basis, folder: str | Path) -> Path:
    """Write a basis as a folder of FSL-MRS JSON files, one a metabolite.

    Reading it back gives the same samples to the last bit.

    Raises
    ------
    InputError
        If the folder exists and is not empty, or cannot be written.
    """
    folder = place(folder)
    try:
        if names_in(make_folder(folder)):
            raise InputError(f"{folder}: the folder is not empty; name a new one")
        fsl_json.write(basis, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot write the basis there ({error})") from error
    return folder


def _reader(path: Path) -> BasisFormat:
    if not path.exists():
        raise InputError(f"{path}: no such basis; expected {FORMATS}")
    _refuse_folder_of(path, ".basis", ".mat")
    for reader in READERS:
        if reader.reads(path):
            return reader
    if path.is_dir():
        raise InputError(f"{path}: the folder holds no .json or .txt file; expected {FORMATS}")
    raise InputError(f"{path}: not a basis in a known format; expected {FORMATS}")


def _refuse_folder_of(path: Path, *suffixes: str) -> None:
    """Refuse a folder with files that are a basis each, and no metabolites of their own."""
    if not path.is_dir() or files_in(path, ".json"):
        return
    found = [file for suffix in suffixes for file in files_in(path, suffix)]
    if found:
        raise InputError(f"{path}: a folder; give the file in it, e.g. --basis {found[0]}")


def _with_whole_first_point(basis: Basis) -> Basis:
    """Double the first time point of FIDs that hold half of it.

    Farthest from the metabolites a discrete spectrum is half its first time point (the sum of a
    geometric series at -1), and nothing when the point was halved.
    """
    acquisition = basis.acquisition
    centre = acquisition.frequency_of(basis.nucleus.windows.middle)
    slow = basis.fids * np.exp(-2j * np.pi * centre * acquisition.time)
    farthest = slow[:, ::2].sum(axis=1) - slow[:, 1::2].sum(axis=1)
    first = slow[:, 0]
    if np.vdot(first, farthest).real > np.vdot(first, first).real / 3:
        return basis
    fids = basis.fids.copy()
    fids[:, 0] *= 2
    return replace(basis, fids=fids)


def _with_word_on_twins(basis: Basis) -> Basis:
    """A note on columns that are the same but for their scale, which no fit can tell apart."""
    unit = basis.fids / np.linalg.norm(basis.fids, axis=1)[:, None]
    alike = np.triu(np.abs(unit @ unit.conj().T) > 1 - _SAME, 1)
    notes = tuple(
        f"basis: {basis.names[i]} and {basis.names[j]} have the same spectrum: how much is of "
        "which cannot be told, leave one out"
        for i, j in np.argwhere(alike)
    )
    return replace(basis, notes=(*basis.notes, *notes))
