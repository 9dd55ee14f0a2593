"""The public functions of the package, gathered: what ``import mrsi_engine as me`` offers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import xarray as xr

from mrsi_engine.choices import TimingMismatch
from mrsi_engine.cohort.run import run_cohort
from mrsi_engine.conventions import Acquisition
from mrsi_engine.engine.lazy import quantify
from mrsi_engine.errors import InputError
from mrsi_engine.io.result_store import open_result
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.bases import load_basis as _load_basis
from mrsi_engine.spectra.basis import Basis

__all__ = ["load_basis", "load_pipeline", "open_result", "open_scan", "quantify", "run_cohort"]


def open_scan(path: str | Path) -> xr.Dataset:
    """A scan store as a lazily read Dataset: ``fid (voxel, time)``, coordinates and axis.

    Raises
    ------
    InputError
        If the folder holds no scan store, or one of a newer version.
    """
    return ScanStore.open(path).to_xarray()


def load_basis(
    source: str | Path,
    scan: xr.Dataset,
    *,
    reference_ppm: float | None = None,
    conjugate: bool = False,
    te_mismatch: TimingMismatch = "refuse",
) -> Basis:
    """A basis set from a file or folder, or simulated by name (``press-3t-te30``) for a scan.

    Parameters
    ----------
    source
        LCModel ``.basis``, FSL-MRS JSON folder, jMRUI text, Osprey ``.mat``, or the name of a
        simulated basis.
    scan
        What :func:`open_scan` returned.
    reference_ppm, conjugate
        What a file does not say; see :func:`mrsi_engine.io.basis_files.read_basis`.

    te_mismatch
        ``"allow"`` takes a basis of another echo time or sequence than the scan's.

    Raises
    ------
    InputError
        If there is no such basis, it is wrong or for another echo time or sequence, or ``scan`` is
        no scan.
    """
    choice = BasisChoice(str(source), reference_ppm, conjugate, te_mismatch)
    sequence = scan.attrs.get("header", {}).get("SequenceName")
    return _load_basis(choice, _acquisition(scan), sequence if isinstance(sequence, str) else None)


def _acquisition(scan: xr.Dataset) -> Acquisition:
    names = [field.name for field in fields(Acquisition)]
    missing = [name for name in names if name not in scan.attrs]
    if missing:
        raise InputError(f"not a scan: it lacks {', '.join(missing)}; open one with open_scan")
    return Acquisition(**{name: scan.attrs[name] for name in names})


def load_pipeline(name_or_file: str | Path) -> Pipeline:
    """A ready-made pipeline by name, or any by file; see :meth:`Pipeline.load`."""
    return Pipeline.load(name_or_file)
