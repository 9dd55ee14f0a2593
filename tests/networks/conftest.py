"""A small basis, and what to simulate from it."""

from __future__ import annotations

import pytest

from mrsi_engine.networks.simulation import SimulationSettings
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.spectra.simulation import simulate_basis


@pytest.fixture(scope="session")
def basis() -> Basis:
    """Four singlets and simple multiplets with the pattern of macromolecules, 256 points."""
    names = ("NAA", "Cr", "GPC", "Tau")
    bare = simulate_basis(
        "press", echo_time=30e-3, field=3.0, points=256, dwell_time=1e-3, metabolites=names
    )
    return with_macromolecules(bare, "pattern")


@pytest.fixture(scope="session")
def settings(basis: Basis) -> SimulationSettings:
    return SimulationSettings(
        amplitudes=dict.fromkeys(basis.names, (1.0, 10.0)),
        shift_hz=(-5, 5),
        phase_deg=(-20, 20),
        damping=(2, 20),
        noise_sd=(0.5, 1.0),
    )
