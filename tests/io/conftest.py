"""Files written with nibabel alone, so that no test trusts our own writer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.simulation import simulate_basis

AFFINE = np.array([[-9.8, 0.1, 0, 70], [0.1, 9.7, 1.6, -60], [0, -1.1, 14.9, 52], [0, 0, 0, 1]])
EXTENSION = {"SpectrometerFrequency": [123.25], "ResonantNucleus": ["1H"], "EchoTime": 0.03}


def write_scan(
    path: Path,
    data: Any,
    *,
    extension: Any = EXTENSION,
    pixdim: float = 5e-4,
    units: tuple[str, str] = ("mm", "sec"),
    intent: str = "mrs_v0_11",
    version: int = 2,
    affine: Any = AFFINE,
) -> Path:
    """A file as other software writes it; ``extension`` may be bytes, or ``None`` for none."""
    image = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version](np.asarray(data), affine)
    image.header["pixdim"][4] = pixdim
    image.header.set_xyzt_units(*units)
    image.header["intent_name"] = intent.encode()
    if extension is not None:
        content = extension if isinstance(extension, bytes) else json.dumps(extension).encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension(44, content))
    nib.save(image, path)
    return path


def write_plain(path: Path, data: Any, affine: Any = AFFINE) -> Path:
    """A mask or fractions."""
    values = np.asarray(data)
    nib.save(
        nib.Nifti1Image(values.astype(np.uint8) if values.dtype == bool else values, affine), path
    )
    return path


def random_fids(shape: tuple[int, ...], dtype: Any = np.complex64, seed: int = 0) -> np.ndarray:
    """Complex noise."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)


@pytest.fixture(scope="session")
def scan_file() -> Callable[..., Path]:
    """:func:`write_scan`."""
    return write_scan


@pytest.fixture(scope="session")
def plain_file() -> Callable[..., Path]:
    """:func:`write_plain`."""
    return write_plain


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """:func:`random_fids`."""
    return random_fids


@pytest.fixture(scope="session")
def truth() -> Basis:
    """Decays to nothing before its end, so that a spectrum holds all of it."""
    return simulate_basis(
        "press",
        echo_time=0.030,
        spectrometer_frequency=123.23,
        points=1024,
        dwell_time=0.5e-3,
        linewidth=8.0,
        metabolites=("NAA", "Cr", "Ins"),
    )
