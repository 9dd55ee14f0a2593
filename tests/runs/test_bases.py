"""Bases by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrsi_engine.conventions import Acquisition
from mrsi_engine.runs.bases import BasisChoice, load_basis, with_default_macromolecules
from mrsi_engine.spectra.simulation import parse_basis_name


class TestBasis:
    @pytest.mark.parametrize(
        ("name", "macromolecules"),
        [
            ("press-3t-te30", ("MM",)),
            ("press-3t-te144", ()),
            ("press-7t-te30", ("MM09", "MM12", "MM14", "MM17", "MM20")),
        ],
    )
    def test_macromolecules_by_field_and_echo_time(
        self, name: str, macromolecules: tuple[str, ...]
    ) -> None:
        settings = parse_basis_name(name)
        assert settings is not None
        basis = load_basis(BasisChoice(name), settings.acquisition)
        assert set(macromolecules) <= set(basis.macromolecules)
        assert bool(macromolecules) == bool(basis.macromolecules)
        assert with_default_macromolecules(basis).names == basis.names

    def test_made_once(self, basis_cache: Path) -> None:
        axis = Acquisition(512, 5e-4, 123.25)
        files = len(list(basis_cache.iterdir()))
        first = load_basis(BasisChoice("press-3t-te35"), axis)
        assert len(list(basis_cache.iterdir())) == files + 1
        again = load_basis(BasisChoice("press-3t-te35"), axis)
        assert len(list(basis_cache.iterdir())) == files + 1
        assert again.fingerprint == first.fingerprint
