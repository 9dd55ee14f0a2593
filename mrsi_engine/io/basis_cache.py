"""Simulated bases are made once and kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from mrsi_engine.errors import InputError
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.simulation import REVISION, SimulationSettings, simulate
from mrsi_engine.spectra.spin_systems import spin_systems_checksum


def cache_directory() -> Path:
    """Where bases are kept: ``$MRSI_ENGINE_CACHE``, else ``~/.cache/mrsi_engine``."""
    chosen = os.environ.get("MRSI_ENGINE_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "mrsi_engine"


def cached_basis(settings: SimulationSettings, directory: Path | None = None) -> Basis:
    """The simulated basis of these settings, from the cache where it is there and whole.

    The key holds the settings, the revision of the simulation and the spin-system table, so
    nothing stale is ever read. A cache that cannot be written costs the next call its time and
    nothing else.

    Parameters
    ----------
    settings
        What to simulate.
    directory
        Cache folder; :func:`cache_directory` unless given.
    """
    path = (directory or cache_directory()) / f"basis-{_key(settings)}.npz"
    try:
        return _load(path, settings)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        basis = simulate(settings)
    with contextlib.suppress(OSError):
        _store(path, basis)
    return basis


def _key(settings: SimulationSettings) -> str:
    parts = (repr(settings), str(REVISION), spin_systems_checksum(settings.nucleus))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _load(path: Path, settings: SimulationSettings) -> Basis:
    with np.load(path, allow_pickle=False) as stored:
        names = tuple(str(name) for name in stored["names"])
        fids = stored["fids"]
    if names != settings.metabolites:
        raise InputError(f"{path}: holds {names}, expected {settings.metabolites}")
    return Basis(names, fids, settings.acquisition, settings.sequence, settings.description)


def _store(path: Path, basis: Basis) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, names=np.array(basis.names), fids=basis.fids)
        os.replace(partial, path)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        raise
