"""Bases as other programs name their metabolites: known, summed and checked like our own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.fit.quantities import amplitude_quantities
from mrsi_engine.io.basis_files import read_basis, write_basis
from mrsi_engine.nuclei import nucleus
from mrsi_engine.quantities import Role
from mrsi_engine.spectra.simulation import simulate_basis

VESPA = {
    "NAA": "n-acetylaspartate",
    "NAAG": "n-acetylaspartylglutamate",
    "Cr": "creatine",
    "PCr": "phosphocreatine",
    "GPC": "glycerophosphocholine",
    "PCh": "phosphorylcholine",
    "Glu": "glutamate",
    "Gln": "glutamine",
    "Ins": "myo-inositol",
}


def vespa_folder(folder: Path, *, mirrored: bool) -> Path:
    """A simulated basis under Vespa's names, once with the frequency axis turned round."""
    basis = simulate_basis(
        "press", echo_time=0.03, field=3.0, metabolites=tuple(VESPA), points=1024
    )
    write_basis(basis.conjugated() if mirrored else basis, folder)
    for name, long in VESPA.items():
        content = json.loads((folder / f"{name}.json").read_text())
        content["basis"]["basis_name"] = long
        (folder / f"{name}.json").unlink()
        (folder / f"{long}.json").write_text(json.dumps(content))
    return folder


def test_vespas_names_are_known_and_their_sums_are_there(tmp_path: Path) -> None:
    basis = read_basis(vespa_folder(tmp_path / "b", mirrored=False))
    assert set(basis.names) == set(VESPA)
    sums = [q.name for q in amplitude_quantities(basis) if q.role == Role.COMBINATION]
    assert sums == ["NAANAAG", "CrPCr", "GPCPCh", "GluGln"]


def test_a_mirrored_one_is_refused_with_the_one_remedy_that_helps(tmp_path: Path) -> None:
    folder = vespa_folder(tmp_path / "b", mirrored=True)
    with pytest.raises(InputError, match="--basis-conjugate") as caught:
        read_basis(folder)
    assert "--basis-reference" not in str(caught.value)
    assert set(read_basis(folder, conjugate=True).names) == set(VESPA)


def test_names_nobody_knows_are_kept(tmp_path: Path) -> None:
    basis = simulate_basis(
        "press", echo_time=0.03, field=3.0, metabolites=("NAA", "Glu"), points=512
    )
    folder = write_basis(basis, tmp_path / "b")
    content = json.loads((folder / "Glu.json").read_text())
    content["basis"]["basis_name"] = "Mystery-1"
    (folder / "Glu.json").write_text(json.dumps(content))
    assert set(read_basis(folder).names) == {"NAA", "Mystery-1"}


def test_a_file_of_phosphorus_has_to_state_its_reference(tmp_path: Path) -> None:
    assert nucleus("31P").basis_reference_ppm is None
    basis = simulate_basis(
        "fid", echo_time=0.0, field=7.0, nucleus="31P", metabolites=("PCr", "Pi")
    )
    folder = write_basis(basis, tmp_path / "b")
    assert read_basis(folder).acquisition.reference_ppm == 0.0
    for name in basis.names:
        content = json.loads((folder / f"{name}.json").read_text())
        del content["meta"]["reference_ppm"]
        (folder / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="31P that does not state its reference"):
        read_basis(folder)
    assert read_basis(folder, reference_ppm=0.0).names == basis.names
    with pytest.raises(InputError, match=r"--basis-reference 0\.00"):
        read_basis(folder, reference_ppm=-2.5)
