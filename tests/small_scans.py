"""Small scans with everything in them that a stage may meet."""

from __future__ import annotations

from functools import cache

import numpy as np

from mrsi_engine.engine.voxels import Voxels
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.spectra.simulation import simulate_basis
from tests.scenes import GREY_MATTER, Lineshape, clean_fid, noise, sd_for_snr

SHAPE = (6, 4, 2)
CLASSES = ("gm", "wm", "csf")


@cache
def small_basis() -> Basis:
    names = ("NAA", "NAAG", "Cr", "PCr", "Glu", "Gln", "Ins", "GPC")
    axis = {"spectrometer_frequency": 123.25, "points": 400, "dwell_time": 0.5e-3}
    basis = simulate_basis("press", echo_time=0.03, metabolites=names, **axis)
    return with_macromolecules(basis, "pattern")


@cache
def scan() -> Voxels:
    """A slab with water, lipids near its scalp, a water reference and tissue."""
    rng, basis = np.random.default_rng(3), small_basis()
    time, count = basis.acquisition.time, int(np.prod(SHAPE))
    spins = [Lineshape(0.3 * n, 3.0 * n, 8.0) for n in rng.normal(size=count)]
    fids = np.stack([clean_fid(basis, GREY_MATTER, spin) for spin in spins])
    shifts = basis.acquisition.frequency_of(np.array([0.9, 1.3, 1.6]))[:, None]
    lines = np.exp(2j * np.pi * shifts * time - 55 * time)
    places = np.stack(np.unravel_index(np.arange(count), SHAPE), axis=1).astype(np.int32)
    scalp = places[:, 0] == 0
    near = np.where(scalp, 30.0, np.exp(-places[:, 0])) * np.abs(fids[:, 0])
    mixed = rng.uniform(0.6, 1.4, (count, 3)) * np.exp(2j * np.pi * rng.random((count, 1)))
    lipid = near[:, None] * mixed @ lines
    turning = 2j * np.pi * rng.normal(0, 3, (count, 1)) - 9
    wet = rng.uniform(5, 60, (count, 1)) * np.exp(turning * time)
    fids += lipid + wet + noise(rng, count, len(time), sd_for_snr(basis, fids[0], 40.0))
    water = 3e4 * np.exp(-12 * time) * np.ones((count, 1)) * np.exp(0.3j * np.exp(-time / 0.05))
    return Voxels(
        fids.astype(np.complex64),
        {
            "water": (water + noise(rng, count, len(time), 1.0)).astype(np.complex64),
            "scalp": scalp,
            "tissue": rng.dirichlet([4.0, 3.0, 1.0], count).astype(np.float32),
        },
        places,
    )


@cache
def single_voxel() -> Voxels:
    """Two voxels of three coils and four transients that drift, with a water reference."""
    rng, basis = np.random.default_rng(4), small_basis()
    time = basis.acquisition.time
    drift = [Lineshape(0.2 * n, 2.0 * n, 6.0) for n in rng.normal(size=4)]
    transients = np.stack([clean_fid(basis, GREY_MATTER, shape) for shape in drift])
    coils = np.array([1.0, 0.6j, 0.3 - 0.4j])[:, None, None]
    fids = np.stack([coils * transients, 0.8 * coils * transients])
    white = noise(rng, 2 * 12, len(time), sd_for_snr(basis, transients[0], 30.0))
    water = np.broadcast_to(coils * 3e3 * np.exp(-10 * time), fids.shape)
    return Voxels(
        (fids + white.reshape(fids.shape)).astype(np.complex64),
        {"water": water.astype(np.complex64)},
    )
