"""FSL-MRS JSON: what is written is read, and broken files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_files import read_basis, write_basis
from mrsi_engine.spectra.basis import Basis
from tests.io.basis_texts import saved


def changed(folder: Path, metabolite: str, **fields: Any) -> Path:
    """A folder of JSON files with other fields in one of them."""
    file = folder / f"{metabolite}.json"
    content = json.loads(file.read_text())
    content["basis"].update(fields)
    saved(file, json.dumps(content))
    return folder


def test_writing_and_reading_keep_every_digit(truth: Basis, tmp_path: Path) -> None:
    folder = write_basis(truth, tmp_path / "basis")
    assert sorted(p.name for p in folder.iterdir()) == ["Cr.json", "Ins.json", "NAA.json"]
    basis = read_basis(folder)
    for name in truth.names:
        np.testing.assert_array_equal(basis[name], truth[name])
    assert basis.acquisition == truth.acquisition
    assert basis.sequence == "press"


def test_another_reference_is_kept(truth: Basis, tmp_path: Path) -> None:
    axis = replace(truth.acquisition, reference_ppm=3.0)
    moved = replace(truth.matched_to(axis), source="moved")
    assert read_basis(write_basis(moved, tmp_path / "b")).acquisition.reference_ppm == 3.0


def test_a_folder_in_use_is_left_alone(truth: Basis, tmp_path: Path) -> None:
    saved(tmp_path / "notes.txt", "mine")
    with pytest.raises(InputError, match="not empty"):
        write_basis(truth, tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        write_basis(truth, tmp_path / "notes.txt" / "basis")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"basis_re": None}, r"field basis\.basis_re"),
        ({"basis_re": ["a", "b"]}, "not a list of numbers"),
        ({"basis_re": [[1.0]]}, "2 dimensions"),
        ({"basis_im": [0.0]}, "basis_re has 1024 points, basis_im 1"),
        ({"basis_dwell": "5e-4"}, "basis_dwell is '5e-4', expected a number"),
        ({"basis_centre": None}, "basis_centre is 'None'"),
        ({"basis_centre": 123230000.0}, r"basis_centre is 123230000.*Hz: write 123\.23"),
        ({"basis_centre": 0.12323}, r"basis_centre is 0\.12323.*GHz: write 123\.23"),
        ({"basis_centre": float("nan")}, "basis_centre is nan"),
        ({"basis_centre": 10**400}, "basis_centre is '1000"),
        ({"basis_dwell": 0.5}, r"basis_dwell is 0\.5.*ms: write 0\.0005"),
        ({"basis_name": 5}, "basis_name is '5', expected a text"),
        ({"basis_name": "a/b"}, "no metabolite's name"),
        ({"basis_nucleus": "proton"}, "basis_nucleus is 'proton'"),
        ({"basis_re": [10**400] * 1024}, "not a list of numbers"),
        ({"basis_re": [float("nan")] * 1024}, "Ins holds NaN or Inf"),
        ({"basis_dwell": -1.0}, r"basis_dwell is -1, expected s \("),
        ({"basis_centre": 297.2}, "its axis differs from the rest"),
    ],
)
def test_malformed_files_say_what_is_wrong(
    truth: Basis, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    changed(write_basis(truth, tmp_path / "b"), "Ins", **change)
    with pytest.raises(InputError, match=message) as raised:
        read_basis(tmp_path / "b")
    assert str(tmp_path / "b") in str(raised.value)


def test_a_name_that_stands_twice_is_told_apart(truth: Basis, tmp_path: Path) -> None:
    folder = changed(write_basis(truth, tmp_path / "b"), "Ins", basis_name="Cr")
    assert read_basis(folder).names == ("Cr", "Cr_1", "NAA")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ([], "field meta is a list"),
        ({"echo_time": 30}, r"echo_time is 30, expected s.*ms: write 0\.03"),
        ({"echo_time": "30 ms"}, "echo_time is '30 ms', expected a number"),
        ({"reference_ppm": "water"}, "reference_ppm is 'water'"),
        ({"sequence": 1}, "meta.sequence is '1'"),
        ({"start_time": -1e-3}, "start_time must be zero or more"),
    ],
)
def test_a_malformed_meta_says_what_is_wrong(
    truth: Basis, tmp_path: Path, meta: Any, message: str
) -> None:
    folder = write_basis(truth, tmp_path / "b")
    content = json.loads((folder / "NAA.json").read_text())
    saved(folder / "NAA.json", json.dumps({**content, "meta": meta}))
    with pytest.raises(InputError, match=message):
        read_basis(folder)


def test_another_nucleus_needs_a_reference(truth: Basis, tmp_path: Path) -> None:
    axis = replace(truth.acquisition, spectrometer_frequency=51.7, nucleus="31P", reference_ppm=0.0)
    phosphorus = Basis(("ADP", "ATP", "MP"), truth.fids, axis)
    folder = write_basis(phosphorus, tmp_path / "b")
    assert read_basis(folder).acquisition.reference_ppm == 0.0
    for name in phosphorus.names:
        content = json.loads((folder / f"{name}.json").read_text())
        del content["meta"]
        saved(folder / f"{name}.json", json.dumps(content))
    with pytest.raises(InputError, match=r"31P that does not state its .*--basis-reference"):
        read_basis(folder)
    assert read_basis(folder, reference_ppm=-2.5).acquisition.reference_ppm == -2.5


def test_missing_fields_and_other_json(truth: Basis, tmp_path: Path) -> None:
    file = write_basis(truth, tmp_path / "b") / "Ins.json"
    for text, message in (
        ("{", "Ins.json: not valid JSON"),
        ("[]", "no 'basis' object"),
        ('{"basis": {"basis_im": []}}', "basis_re is missing"),
    ):
        saved(file, text)
        with pytest.raises(InputError, match=message):
            read_basis(tmp_path / "b")
    with pytest.raises(InputError, match="give the folder it is in"):
        read_basis(file.with_name("NAA.json"))
