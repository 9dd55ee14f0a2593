"""A simulated basis is made once, and never read stale or broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.io import basis_cache
from mrsi_engine.io.basis_cache import cache_directory, cached_basis
from mrsi_engine.spectra.simulation import SimulationSettings, simulate

SETTINGS = SimulationSettings("press", 0.030, 123.23, points=256, metabolites=("NAA", "Cr"))


@pytest.fixture
def simulations(monkeypatch: pytest.MonkeyPatch) -> list[SimulationSettings]:
    """Every simulation that was really run."""
    ran: list[SimulationSettings] = []

    def counting(settings: SimulationSettings):
        ran.append(settings)
        return simulate(settings)

    monkeypatch.setattr(basis_cache, "simulate", counting)
    return ran


def test_it_is_simulated_once(tmp_path: Path, simulations: list[SimulationSettings]) -> None:
    first, second = cached_basis(SETTINGS, tmp_path), cached_basis(SETTINGS, tmp_path)
    assert len(simulations) == 1
    assert second.fingerprint == first.fingerprint
    assert (second.acquisition, second.sequence, second.source) == (
        first.acquisition,
        first.sequence,
        first.source,
    )
    assert [p.suffix for p in tmp_path.iterdir()] == [".npz"]


def test_other_settings_revision_or_table_are_simulated_anew(
    tmp_path: Path, simulations: list[SimulationSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_basis(SETTINGS, tmp_path)
    cached_basis(replace(SETTINGS, linewidth=2.0), tmp_path)
    monkeypatch.setattr(basis_cache, "REVISION", 99)
    cached_basis(SETTINGS, tmp_path)
    monkeypatch.setattr(basis_cache, "spin_systems_checksum", lambda symbol: "another table")
    cached_basis(SETTINGS, tmp_path)
    assert len(simulations) == 4


@pytest.mark.parametrize("damage", [b"", b"not a zip file", None])
def test_a_broken_file_is_replaced(
    tmp_path: Path, simulations: list[SimulationSettings], damage: bytes | None
) -> None:
    whole = cached_basis(SETTINGS, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:2000] if damage is None else damage)
    assert cached_basis(SETTINGS, tmp_path).fingerprint == whole.fingerprint
    assert len(simulations) == 2
    assert cached_basis(SETTINGS, tmp_path).fingerprint == whole.fingerprint
    assert len(simulations) == 2


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    cached_basis(SETTINGS, tmp_path)
    (file,) = tmp_path.iterdir()
    with file.open("wb") as handle:
        np.savez(handle, names=np.array(["NAA", "Cr"], dtype=object), fids=np.zeros((2, 256)))
    assert cached_basis(SETTINGS, tmp_path)["Cr"][0] == pytest.approx(5)


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert cached_basis(SETTINGS, blocked / "cache").names == ("NAA", "Cr")


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MRSI_ENGINE_CACHE", str(tmp_path / "there"))
    assert cache_directory() == tmp_path / "there"
    cached_basis(SETTINGS)
    assert len(list((tmp_path / "there").iterdir())) == 1
    monkeypatch.delenv("MRSI_ENGINE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "mrsi_engine"
