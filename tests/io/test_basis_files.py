"""Basis files of other programs: real ones, written ones, and broken ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_files import read_basis, write_basis
from mrsi_engine.spectra.basis import Basis, compare_bases
from mrsi_engine.spectra.simulation import simulate_basis

DATA = Path(__file__).resolve().parents[3] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"real data missing: {DATA}")


@pytest.fixture(scope="module")
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


def lcmodel_text(
    basis: Basis,
    *,
    names: dict[str, str] | None = None,
    shift: int = 0,
    scale: float = 1.0,
    drop_last: bool = False,
    end_on_data_line: bool = False,
    halve: bool = True,
) -> str:
    """The basis as LCModel files stand: unshifted spectra after Fortran namelists."""
    axis = basis.acquisition
    text = (
        f" $SEQPAR\n FWHMBA = 0.03,\n HZPPPM = {axis.spectrometer_frequency},\n ECHOT = 30.,\n"
        f" SEQ = 'PRESS' $END\n $BASIS1\n IDBASI = 'test',\n FMTBAS = '(2E15.7)',\n"
        f" BADELT = {axis.dwell_time},\n NDATAB = {axis.points}\n $END\n"
    )
    for name, fid in zip(basis.names, basis.fids, strict=True):
        first = np.array([0.5 if halve else 1.0] + [1.0] * (axis.points - 1))
        spectrum = np.roll(np.fft.fft(fid * first), shift) * scale
        if drop_last:
            spectrum = spectrum[:-1]
        label = (names or {}).get(name, name)
        text += (
            f" $NMUSED\n FILERAW = '{name}',\n PPMAPP = 0.5 -0.5 $END\n"
            f" $BASIS\n ID = '{label}',\n METABO = '{label}',\n CONC = {scale},\n TRAMP = 1.,\n"
            f" VOLUME = 1.,\n ISHIFT = {shift} $END\n"
        )
        text += "\n".join(f"{v.real:15.7E}{v.imag:15.7E}" for v in spectrum)
        text += " $END\n" if end_on_data_line else "\n"
    return text


def jmrui_text(basis: Basis, name: str | None = None) -> str:
    """One metabolite, or all in one file, as jMRUI writes text: conjugated, ms and Hz."""
    fids = basis.fids if name is None else basis[name][None]
    axis = basis.acquisition
    listed = ";".join(basis.names) if name is None else "whatever.txt"
    text = (
        f"jMRUI Data Textfile\n\nFilename: x.txt\n\nPointsInDataset: {axis.points}\n"
        f"DatasetsInFile: {len(fids)}\nSamplingInterval: {axis.dwell_time * 1e3}\n"
        "ZeroOrderPhase: 0E0\nBeginTime: 0E0\n"
        f"TransmitterFrequency: {axis.spectrometer_frequency * 1e6}\nMagneticField: 3E0\n"
        f"TypeOfNucleus: 0E0\nNameOfPatient: \nSignalNames: {listed}\n\n\nSignal and FFT\n"
        "sig(real)\tsig(imag)\tfft(real)\tfft(imag)\n"
    )
    for number, fid in enumerate(fids, 1):
        text += f"Signal {number} out of {len(fids)} in file\n"
        spectrum = np.fft.fft(fid.conj())
        text += "".join(
            f"{x.real:.8E}\t{-x.imag:.8E}\t{s.real:.4E}\t{s.imag:.4E}\n"
            for x, s in zip(fid, spectrum, strict=True)
        )
    return text


def saved(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


class TestLCModel:
    @pytest.mark.parametrize("halve", [True, False])
    @pytest.mark.parametrize("end_on_data_line", [True, False])
    def test_it_reads_what_was_written(
        self, truth: Basis, tmp_path: Path, halve: bool, end_on_data_line: bool
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
    def test_ishift_and_scale_are_undone(self, truth: Basis, tmp_path: Path, shift: int) -> None:
        text = lcmodel_text(truth, shift=shift, scale=4.0)
        basis = read_basis(saved(tmp_path / "a.basis", text))
        np.testing.assert_allclose(basis.fids, truth.fids, atol=2e-6)

    def test_a_missing_last_point_is_filled_from_its_neighbours(
        self, truth: Basis, tmp_path: Path
    ) -> None:
        text = lcmodel_text(truth, drop_last=True, end_on_data_line=True)
        basis = read_basis(saved(tmp_path / "a.basis", text))
        np.testing.assert_allclose(basis.fids, truth.fids, atol=2e-4)

    def test_padded_and_other_names(self, truth: Basis, tmp_path: Path) -> None:
        names = {"NAA": "NAA   ", "Cr": " Cr ", "Ins": "mI    "}
        text = lcmodel_text(truth, names=names)
        assert read_basis(saved(tmp_path / "a.basis", text)).names == ("NAA", "Cr", "Ins")

    def test_content_counts_not_the_file_name(self, truth: Basis, tmp_path: Path) -> None:
        assert read_basis(saved(tmp_path / "basis.dat", lcmodel_text(truth))).names == truth.names

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda t: t.replace("HZPPPM", "HZ"), "field HZPPPM is missing"),
            (lambda t: t.replace("BADELT = 0.0005", "BADELT = fast"), "field BADELT is 'fast'"),
            (lambda t: t.replace("BADELT = 0.0005", "BADELT = 0."), "dwell_time must be positive"),
            (lambda t: t.replace("NDATAB = 1024", "NDATAB = 2048"), "NDATAB says 2048"),
            (lambda t: t[: len(t) // 2], r"a\.basis, line \d+, METABO Cr: \d+ "),
            (lambda t: t.split("$BASIS\n")[0], "no \\$BASIS block"),
            (lambda t: t.replace("METABO = 'Cr'", "METABO = 'NAA'"), "NAA stands more than once"),
            (lambda t: t.replace("METABO = 'Cr',", "").replace("ID = 'Cr',", ""), "no METABO"),
            (lambda t: t.replace("CONC = 1.0", "CONC = 0."), "must be positive, found 1, 1 and 0"),
            (lambda t: t.replace("ISHIFT = 0", "ISHIFT = x"), "field ISHIFT is 'x'"),
        ],
    )  # fmt: skip
    def test_malformed_files_say_what_is_wrong(
        self, truth: Basis, tmp_path: Path, spoil: Callable[[str], str], message: str
    ) -> None:
        path = saved(tmp_path / "a.basis", spoil(lcmodel_text(truth)))
        with pytest.raises(InputError, match=message) as raised:
            read_basis(path)
        assert str(path) in str(raised.value)

    @pytest.mark.parametrize(
        ("value", "message"), [("NaN", "NAA holds NaN or Inf"), ("*****", "no number.*\\*\\*")]
    )
    def test_bad_numbers(self, truth: Basis, tmp_path: Path, value: str, message: str) -> None:
        lines = lcmodel_text(truth).splitlines()
        row = next(i for i, line in enumerate(lines) if "ISHIFT" in line) + 5
        lines[row] = f" {value} 0.0"
        with pytest.raises(InputError, match=message):
            read_basis(saved(tmp_path / "a.basis", "\n".join(lines)))


class TestFSL:
    def test_writing_and_reading_keep_every_digit(self, truth: Basis, tmp_path: Path) -> None:
        folder = write_basis(truth, tmp_path / "basis")
        assert sorted(p.name for p in folder.iterdir()) == ["Cr.json", "Ins.json", "NAA.json"]
        basis = read_basis(folder)
        for name in truth.names:
            np.testing.assert_array_equal(basis[name], truth[name])
        assert basis.acquisition == truth.acquisition
        assert basis.sequence == "press"

    def test_another_reference_is_kept(self, truth: Basis, tmp_path: Path) -> None:
        axis = replace(truth.acquisition, reference_ppm=3.0)
        moved = replace(truth.matched_to(axis), source="moved")
        assert read_basis(write_basis(moved, tmp_path / "b")).acquisition.reference_ppm == 3.0

    def test_a_folder_in_use_is_left_alone(self, truth: Basis, tmp_path: Path) -> None:
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
            ({"basis_centre": None}, "basis_centre is None"),
            ({"basis_dwell": -1.0}, "dwell_time must be positive"),
            ({"basis_centre": 297.2}, "its axis differs from the rest"),
            ({"basis_name": "NAA"}, r"more than once: \['NAA'\]"),
        ],
    )
    def test_malformed_files_say_what_is_wrong(
        self, truth: Basis, tmp_path: Path, change: dict[str, Any], message: str
    ) -> None:
        file = write_basis(truth, tmp_path / "b") / "Ins.json"
        content = json.loads(file.read_text())
        content["basis"].update(change)
        saved(file, json.dumps(content))
        with pytest.raises(InputError, match=message) as raised:
            read_basis(tmp_path / "b")
        assert str(tmp_path / "b") in str(raised.value)

    def test_missing_fields_and_other_json(self, truth: Basis, tmp_path: Path) -> None:
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


class TestJMRUI:
    def test_a_folder_of_files(self, truth: Basis, tmp_path: Path) -> None:
        for name in truth.names:
            saved(tmp_path / f"{name}.txt", jmrui_text(truth, name))
        basis = read_basis(tmp_path)
        assert basis.names == ("Cr", "Ins", "NAA")
        for name in truth.names:
            np.testing.assert_allclose(basis[name], truth[name], atol=1e-7)
        assert basis.acquisition.dwell_time == pytest.approx(0.5e-3)
        assert basis.acquisition.spectrometer_frequency == pytest.approx(123.23)

    def test_one_file_of_many_signals(self, truth: Basis, tmp_path: Path) -> None:
        basis = read_basis(saved(tmp_path / "all.txt", jmrui_text(truth)))
        assert basis.names == truth.names
        np.testing.assert_allclose(basis.fids, truth.fids, atol=1e-7)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda t: t.replace("SamplingInterval", "Interval"), "SamplingInterval is missing"),
            (lambda t: t.replace("123230000.0", "0"), "must be positive"),
            (lambda t: t.replace("Signal and FFT", ""), "no line 'Signal and FFT'"),
            (lambda t: t[:-40000], "data lines of at least 2 columns do not make whole signals"),
            (lambda t: t.replace("NAA;Cr;Ins", "NAA;Cr"), "lists 2 names for 3 signals"),
            (lambda t: t + "rubbish 0.0\n", "no number.*RUBBISH"),
        ],
    )
    def test_malformed_files_say_what_is_wrong(
        self, truth: Basis, tmp_path: Path, spoil: Callable[[str], str], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            read_basis(saved(tmp_path / "all.txt", spoil(jmrui_text(truth))))

    def test_a_stray_text_file_in_the_folder(self, truth: Basis, tmp_path: Path) -> None:
        saved(tmp_path / "NAA.txt", jmrui_text(truth, "NAA"))
        saved(tmp_path / "README.txt", "hello")
        with pytest.raises(InputError, match=r"README\.txt: does not begin with 'jMRUI"):
            read_basis(tmp_path)


class TestAnyFormat:
    def test_no_basis_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such basis; expected an LCModel"):
            read_basis(tmp_path / "absent.basis")
        with pytest.raises(InputError, match=r"holds no \.json or \.txt"):
            read_basis(tmp_path)
        with pytest.raises(InputError, match="not a basis in a known format"):
            read_basis(saved(tmp_path / "x.basis", "PK\x03\x04 a zip file"))

    def test_a_mirrored_basis_is_refused_until_told(self, truth: Basis, tmp_path: Path) -> None:
        folder = write_basis(truth.conjugated(), tmp_path / "b")
        with pytest.raises(InputError, match="--basis-conjugate"):
            read_basis(folder)
        basis = read_basis(folder, conjugate=True)
        np.testing.assert_array_equal(basis["NAA"], truth["NAA"])

    def test_another_reference_is_refused_until_told(self, truth: Basis, tmp_path: Path) -> None:
        # Made for a reference of 4.80 ppm by a program that does not say so.
        axis = replace(truth.acquisition, reference_ppm=4.80)
        moved = replace(truth.matched_to(axis), acquisition=truth.acquisition)
        folder = write_basis(moved, tmp_path / "b")
        with pytest.raises(InputError, match=r"-0\.15\d ppm.*--basis-reference 4\.80"):
            read_basis(folder)
        basis = read_basis(folder, reference_ppm=4.80)
        assert basis.landmarks()["NAA"] == pytest.approx(2.008, abs=0.005)

    @pytest.mark.parametrize(
        ("sequence", "echo_time", "field", "dwell", "points"),
        [
            ("press", 0.030, 3.0, 0.8e-3, 512),
            ("press", 0.144, 3.0, 0.25e-3, 1024),
            ("slaser", 0.034, 7.0, 0.2e-3, 1024),
            ("fid", 0.0013, 7.0, 0.36e-3, 512),
            ("fid", 0.0013, 7.0, 0.2e-3, 512),
        ],
    )
    @pytest.mark.parametrize("factor", [0.5, 1.0])
    def test_the_first_point_is_made_whole_only_where_it_was_halved(
        self,
        tmp_path: Path,
        sequence: str,
        echo_time: float,
        field: float,
        dwell: float,
        points: int,
        factor: float,
    ) -> None:
        basis = simulate_basis(
            sequence, echo_time=echo_time, field=field, dwell_time=dwell, points=points
        )
        stored = basis.fids.copy()
        stored[:, 0] *= factor
        read = read_basis(write_basis(replace(basis, fids=stored), tmp_path / "b"))
        for name in basis.names:
            np.testing.assert_allclose(read[name], basis[name], rtol=1e-12)


@needs_data
class TestRealFiles:
    def test_two_formats_of_one_basis_agree(self) -> None:
        folder = DATA / "basis_slaser_3t"
        lcmodel = read_basis(folder / "slaser_123_mhz.basis")
        fsl = read_basis(folder / "fsl_json")
        assert set(lcmodel.names) == set(fsl.names)
        assert len(lcmodel.names) == 29
        assert {"NAA", "PCh", "PE", "Ins", "MM09", "Lip13a"} <= set(lcmodel.names)
        assert lcmodel.acquisition == fsl.acquisition == Acquisition(2048, 0.0001666667, 123.0)
        # The JSON was made from the file's 2047 points as if they were all: 0.05 % of stretch.
        assert min(compare_bases(lcmodel, fsl).values()) > 0.995
        for name in fsl.names:
            assert abs(lcmodel[name][0] / fsl[name][0]) == pytest.approx(1, abs=0.01)

    def test_the_missing_point_of_the_file_is_its_last(self) -> None:
        # Completed there, glycine's two protons are one damped exponential and nothing else.
        fid = read_basis(DATA / "basis_slaser_3t/slaser_123_mhz.basis")["Gly"]
        windows = np.lib.stride_tricks.sliding_window_view(fid, 512)[::8]
        singular = np.linalg.svd(windows, compute_uv=False)
        assert singular[1] < 1e-4 * singular[0]

    def test_naa_and_creatine_stand_where_they_should(self) -> None:
        for path in (
            "basis_slaser_3t/slaser_123_mhz.basis",
            "basis_slaser_3t/fsl_json",
            "mrsi_3t_te16/sim_se_csi_te16.basis",
        ):
            basis = read_basis(DATA / path)
            assert basis.landmarks()["NAA"] == pytest.approx(2.008, abs=0.004)
            axis = basis.acquisition
            spectrum = np.abs(axis.spectrum(basis["Cr"]))
            at_methyl = (axis.ppm > 2.8) & (axis.ppm < 3.3)
            assert axis.ppm[at_methyl][spectrum[at_methyl].argmax()] == pytest.approx(
                3.027, abs=0.015
            )

    def test_the_lcmodel_basis_of_the_te16_scan(self) -> None:
        basis = read_basis(DATA / "mrsi_3t_te16/sim_se_csi_te16.basis")
        assert basis.acquisition.echo_time == pytest.approx(0.016)
        assert (basis.sequence, len(basis.names)) == ("se", 18)
        assert {"Ins", "sIns", "PE"} <= set(basis.names)
        matched = basis.matched_to(Acquisition(512, 0.8e-3, 123.23))
        assert matched.check().fids.shape == (18, 512)

    def test_our_slaser_resembles_the_published_one(self) -> None:
        theirs = read_basis(DATA / "basis_slaser_3t/slaser_123_mhz.basis")
        # The file does not say its echo time; 28 ms is where the two agree best.
        ours = simulate_basis("slaser", echo_time=0.028, spectrometer_frequency=123.0)
        found = compare_bases(ours, theirs, broadening=2.0)
        assert min(found.values()) > 0.92
