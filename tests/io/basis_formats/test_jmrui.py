"""jMRUI text: files, folders and broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_files import read_basis
from mrsi_engine.spectra.basis import Basis
from tests.io.basis_texts import jmrui_text, saved


def test_a_folder_of_files(truth: Basis, tmp_path: Path) -> None:
    for name in truth.names:
        saved(tmp_path / f"{name}.txt", jmrui_text(truth, name))
    basis = read_basis(tmp_path)
    assert basis.names == ("Cr", "Ins", "NAA")
    for name in truth.names:
        np.testing.assert_allclose(basis[name], truth[name], atol=1e-7)
    assert basis.acquisition.dwell_time == pytest.approx(0.5e-3)
    assert basis.acquisition.spectrometer_frequency == pytest.approx(123.23)


def test_one_file_of_many_signals(truth: Basis, tmp_path: Path) -> None:
    basis = read_basis(saved(tmp_path / "all.txt", jmrui_text(truth)))
    assert basis.names == truth.names
    np.testing.assert_allclose(basis.fids, truth.fids, atol=1e-7)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.replace("SamplingInterval", "Interval"), "SamplingInterval is missing"),
        (lambda t: t.replace("123230000.0", "0"), "TransmitterFrequency is 0, expected Hz"),
        (lambda t: t.replace("123230000.0", "123.23"), "MHz: write 123230000"),
        (
            lambda t: t.replace("SamplingInterval: 0.5", "SamplingInterval: 0.0005"),
            "s: write 0.5",
        ),
        (
            lambda t: t.replace("PointsInDataset: 1024", "PointsInDataset: 0"),
            "points must be pos",
        ),
        (
            lambda t: t.replace("PointsInDataset: 1024", "PointsInDataset: nan"),
            "Dataset is 'nan'",
        ),
        (lambda t: t.replace("ZeroOrderPhase: 0E0", "ZeroOrderPhase: 90"), "Phase is 90"),
        (lambda t: t.replace("BeginTime: 0E0", "BeginTime: -3"), "BeginTime is -3"),
        (lambda t: t.replace("TypeOfNucleus: 0E0", "TypeOfNucleus: 31P"), "are not of 31P"),
        (lambda t: t.replace("TypeOfNucleus: 0E0", "TypeOfNucleus: 7"), "TypeOfNucleus is '7'"),
        (lambda t: t.replace("DatasetsInFile: 3", "DatasetsInFile: 4"), "says 4, 3 signals"),
        (lambda t: t.replace("Signal and FFT", ""), "no line 'Signal and FFT'"),
        (lambda t: t[:-40000], "data lines of at least 2 columns do not make whole signals"),
        (lambda t: t.replace("NAA;Cr;Ins", "NAA;Cr"), "lists 2 names for 3 signals"),
        (lambda t: t + "rubbish 0.0\n", "no number.*RUBBISH"),
    ],
)
def test_malformed_files_say_what_is_wrong(
    truth: Basis, tmp_path: Path, spoil: Callable[[str], str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_basis(saved(tmp_path / "all.txt", spoil(jmrui_text(truth))))


def test_begin_time_is_the_delay_of_the_first_sample(truth: Basis, tmp_path: Path) -> None:
    text = jmrui_text(truth).replace("BeginTime: 0E0", "BeginTime: 1.5E0")
    axis = read_basis(saved(tmp_path / "all.txt", text)).acquisition
    assert axis.start_time == pytest.approx(1.5e-3)


@pytest.mark.parametrize(
    ("frequency", "field", "stated", "found"),
    [
        ("123.2E6", "3E0", "0E0", "1H"),
        ("51.7E6", "3E0", "0E0", "31P"),
        ("51.7E6", "0E0", "2E0", "31P"),
        ("120.3E6", "7E0", "31P", "31P"),
        ("123.2E6", "30000", "1H", "1H"),
    ],
)
def test_the_nucleus_is_stated_or_follows_from_field_and_frequency(
    truth: Basis, tmp_path: Path, frequency: str, field: str, stated: str, found: str
) -> None:
    text = jmrui_text(truth).replace("NAA;Cr;Ins", "ADP;ATP;MP").replace("123230000.0", frequency)
    text = text.replace("MagneticField: 3E0", f"MagneticField: {field}")
    text = text.replace("TypeOfNucleus: 0E0", f"TypeOfNucleus: {stated}")
    path = saved(tmp_path / "all.txt", text)
    assert read_basis(path, reference_ppm=0.0).acquisition.nucleus == found


def test_vespas_summary_is_no_metabolite(truth: Basis, tmp_path: Path) -> None:
    saved(tmp_path / "NAA.txt", jmrui_text(truth, "NAA"))
    saved(tmp_path / "jmrui-text_output_summary.txt", "made by Vespa")
    assert read_basis(tmp_path).names == ("NAA",)


def test_a_stray_text_file_in_the_folder(truth: Basis, tmp_path: Path) -> None:
    saved(tmp_path / "NAA.txt", jmrui_text(truth, "NAA"))
    saved(tmp_path / "README.txt", "hello")
    with pytest.raises(InputError, match=r"README\.txt: does not begin with 'jMRUI"):
        read_basis(tmp_path)
