"""LCModel's .basis: written ones and broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_files import read_basis
from mrsi_engine.spectra.basis import Basis
from tests.io.basis_texts import lcmodel_text, saved


@pytest.mark.parametrize("halve", [True, False])
@pytest.mark.parametrize("end_on_data_line", [True, False])
def test_it_reads_what_was_written(
    truth: Basis, tmp_path: Path, halve: bool, end_on_data_line: bool
) -> None:
    text = lcmodel_text(truth, halve=halve, end_on_data_line=end_on_data_line)
    basis = read_basis(saved(tmp_path / "a.basis", text))
    assert basis.names == truth.names
    assert basis.sequence == "press"
    assert basis.source.endswith("a.basis")
    np.testing.assert_allclose(basis.fids, truth.fids, atol=2e-6)
    a, b = basis.acquisition, truth.acquisition
    assert (a.points, a.dwell_time, a.spectrometer_frequency, a.reference_ppm) == (
        b.points,
        b.dwell_time,
        b.spectrometer_frequency,
        4.65,
    )
    assert a.echo_time == pytest.approx(0.030)


@pytest.mark.parametrize("shift", [13, -7])
def test_ishift_and_scale_are_undone(truth: Basis, tmp_path: Path, shift: int) -> None:
    text = lcmodel_text(truth, shift=shift, scale=4.0)
    basis = read_basis(saved(tmp_path / "a.basis", text))
    np.testing.assert_allclose(basis.fids, truth.fids, atol=2e-6)


def test_a_missing_last_point_is_filled_from_its_neighbours(truth: Basis, tmp_path: Path) -> None:
    text = lcmodel_text(truth, drop_last=True, end_on_data_line=True)
    basis = read_basis(saved(tmp_path / "a.basis", text))
    np.testing.assert_allclose(basis.fids, truth.fids, atol=2e-4)


def test_padded_and_other_names(truth: Basis, tmp_path: Path) -> None:
    names = {"NAA": "NAA   ", "Cr": " Cr ", "Ins": "mI    "}
    text = lcmodel_text(truth, names=names)
    assert read_basis(saved(tmp_path / "a.basis", text)).names == ("NAA", "Cr", "Ins")


def test_content_counts_not_the_file_name(truth: Basis, tmp_path: Path) -> None:
    assert read_basis(saved(tmp_path / "basis.dat", lcmodel_text(truth))).names == truth.names


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.replace("HZPPPM", "HZ"), "field HZPPPM is missing"),
        (lambda t: t.replace("BADELT = 0.0005", "BADELT = fast"), "field BADELT is 'fast'"),
        (lambda t: t.replace("BADELT = 0.0005", "BADELT = 0."), r"BADELT is 0, expected s \("),
        (lambda t: t.replace("BADELT = 0.0005", "BADELT = -0.0005"), "-0.0005.*scrambled"),
        (lambda t: t.replace("BADELT = 0.0005", "BADELT = 0.5"), r"like ms: write 0\.0005"),
        (lambda t: t.replace("HZPPPM = 123.23", "HZPPPM = 123230000"), r"Hz: write 123\.23"),
        (lambda t: t.replace("HZPPPM = 123.23", "HZPPPM = .12323"), r"GHz: write 123\.23"),
        (lambda t: t.replace("HZPPPM = 123.23", "HZPPPM = nan"), "HZPPPM is 'nan'"),
        (lambda t: t.replace("ECHOT = 30.", "ECHOT = 0.03"), "ECHOT is 0.03.*s: write 30"),
        (lambda t: t.replace("NDATAB = 1024", "NDATAB = -1024"), "NDATAB says -1024"),
        (lambda t: t.replace("NDATAB = 1024", "NDATAB = 1024.5"), "expected a whole number"),
        (lambda t: t.replace("METABO = 'Cr'", "METABO = '../Cr'"), "no metabolite's name"),
        (lambda t: t.replace("NDATAB = 1024", "NDATAB = 2048"), "NDATAB says 2048"),
        (lambda t: t[: len(t) // 2], r"a\.basis, line \d+, METABO Cr: \d+ "),
        (lambda t: t.split("$BASIS\n")[0], "no \\$BASIS block"),
        (lambda t: t.replace("METABO = 'Cr',", "").replace("ID = 'Cr',", ""), "no METABO"),
        (lambda t: t.replace("CONC = 1.0", "CONC = 0."), "must be positive, found 1, 1 and 0"),
        (lambda t: t.replace("ISHIFT = 0", "ISHIFT = x"), "field ISHIFT is 'x'"),
    ],
)  # fmt: skip
def test_malformed_files_say_what_is_wrong(
    truth: Basis, tmp_path: Path, spoil: Callable[[str], str], message: str
) -> None:
    path = saved(tmp_path / "a.basis", spoil(lcmodel_text(truth)))
    with pytest.raises(InputError, match=message) as raised:
        read_basis(path)
    assert str(path) in str(raised.value)


def test_lower_case_without_spaces_and_touching_numbers(truth: Basis, tmp_path: Path) -> None:
    head, *rest = lcmodel_text(truth).split(" $NMUSED")
    head = head.replace(" = ", "=").replace(",\n ", ", ").lower().replace("'press'", "'PRESS'")
    text = " $NMUSED".join([head, *rest]).replace(" -", "-")
    basis = read_basis(saved(tmp_path / "a.basis", text))
    np.testing.assert_allclose(basis.fids, truth.fids, atol=2e-6)


@pytest.mark.parametrize("stated", ["-1.", "0.", ""])
def test_an_unknown_echo_time_is_said(truth: Basis, tmp_path: Path, stated: str) -> None:
    text = lcmodel_text(truth).replace("ECHOT = 30.", f"ECHOT = {stated}")
    basis = read_basis(saved(tmp_path / "a.basis", text))
    assert basis.acquisition.echo_time is None
    assert "does not state its echo time" in " ".join(basis.notes)


def test_a_name_that_stands_twice_is_told_apart(truth: Basis, tmp_path: Path) -> None:
    text = lcmodel_text(truth, names={"Cr": "Asp", "Ins": "Asp"})
    basis = read_basis(saved(tmp_path / "a.basis", text))
    assert basis.names == ("NAA", "Asp", "Asp_1")
    assert "Asp stands more than once" in " ".join(basis.notes)
    text = lcmodel_text(truth, names={"NAA": "Asp", "Cr": "Asp", "Ins": "Asp_1"})
    assert read_basis(saved(tmp_path / "b.basis", text)).names == ("Asp", "Asp_2", "Asp_1")


def test_what_makebasis_noted_is_not_taken_for_the_header(truth: Basis, tmp_path: Path) -> None:
    made_of = "$NMUSED\n HZPPPM = 63.9,\n ECHOT = 270.,\n"
    text = lcmodel_text(truth).replace("$NMUSED\n", made_of)
    axis = read_basis(saved(tmp_path / "a.basis", text)).acquisition
    assert (axis.spectrometer_frequency, axis.echo_time) == (123.23, 0.03)


def test_fields_it_does_not_know_are_said(truth: Basis, tmp_path: Path) -> None:
    text = lcmodel_text(truth).replace(" TRAMP = 1.", " TRAMP = 1., GAIN = 2.")
    notes = " ".join(read_basis(saved(tmp_path / "a.basis", text)).notes)
    assert "fields that were not read: GAIN" in notes


@pytest.mark.parametrize(
    ("value", "message"), [("NaN", "NAA holds NaN or Inf"), ("*****", "no number.*\\*\\*")]
)
def test_bad_numbers(truth: Basis, tmp_path: Path, value: str, message: str) -> None:
    lines = lcmodel_text(truth).splitlines()
    row = next(i for i, line in enumerate(lines) if "ISHIFT" in line) + 5
    lines[row] = f" {value} 0.0"
    with pytest.raises(InputError, match=message):
        read_basis(saved(tmp_path / "a.basis", "\n".join(lines)))
