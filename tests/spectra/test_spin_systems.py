"""The packaged table is the literature's: proton counts, couplings and sources."""

from __future__ import annotations

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus as table_of
from mrsi_engine.spectra.spin_systems import select_spin_systems, spin_systems


@pytest.mark.parametrize(
    ("name", "protons"),
    # Non-exchangeable protons of the molecule, from its formula.
    [
        ("Ace", 3), ("Ala", 4), ("Asp", 3), ("Cr", 5), ("GABA", 6), ("GPC", 18), ("Glc", 7),
        ("Gln", 5), ("Glu", 5), ("Gly", 2), ("Ins", 6), ("Lac", 4), ("NAA", 6), ("NAAG", 11),
        ("PCh", 13), ("PCr", 5), ("PE", 4), ("Tau", 4), ("sIns", 6), ("bHB", 6), ("2HG", 5),
    ],
)  # fmt: skip
def test_observed_protons(name: str, protons: int) -> None:
    assert spin_systems()[name].spins == pytest.approx(protons)


def test_names_are_canonical_and_sources_are_named() -> None:
    for name, system in spin_systems().items():
        assert table_of("1H").canonical_name(name) == name == system.name
        assert any(year in system.source for year in ("2000", "2013", "2002", "literature"))


def test_every_group_is_consistent() -> None:
    for system in spin_systems().values():
        for group in system.groups:
            spins = len(group.shifts_ppm)
            assert len(group.nuclei) == spins <= 7
            assert group.equivalent_copies == 1 or spins == 1
            assert all(0 <= i < j < spins for i, j, _ in group.couplings_hz)
            assert all(abs(coupling) < 20 for *_, coupling in group.couplings_hz)
            protons = zip(group.shifts_ppm, group.nuclei, strict=True)
            assert all(0.5 < ppm < 5.5 for ppm, nucleus in protons if nucleus == "1H")


def test_selection_keeps_the_order_and_takes_aliases() -> None:
    assert [s.name for s in select_spin_systems(["mI", "PCho", "NAA"])] == ["Ins", "PCh", "NAA"]


def test_unknown_or_repeated_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"no spin system of \['Unobtainium'\].*'NAA'"):
        select_spin_systems(["NAA", "Unobtainium"])
    with pytest.raises(InputError, match=r"\['PCh'\] stand more than once"):
        select_spin_systems(["PCh", "PCho"])
