"""Basis files of other programs: real ones, written ones, and broken ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_files import read_basis, write_basis
from mrsi_engine.spectra.basis import Basis, compare_bases
from mrsi_engine.spectra.simulation import simulate_basis
from tests.io.basis_texts import saved

DATA = Path(__file__).resolve().parents[3] / "shared/data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"real data missing: {DATA}")


class TestAnyFormat:
    def test_no_basis_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such basis; expected a folder of FSL"):
            read_basis(tmp_path / "absent.basis")
        with pytest.raises(InputError, match=r"holds no \.json or \.txt"):
            read_basis(tmp_path)
        with pytest.raises(InputError, match="not a basis in a known format"):
            read_basis(saved(tmp_path / "x.basis", "PK\x03\x04 a zip file"))

    def test_a_folder_around_a_basis(self, tmp_path: Path) -> None:
        saved(tmp_path / "press.basis", " $SEQPAR")
        saved(tmp_path / "readme.txt", "made in 2019")
        with pytest.raises(InputError, match=r"give the file in it, e.g. --basis .*press\.basis"):
            read_basis(tmp_path)

    def test_hidden_files_are_no_metabolites(self, truth: Basis, tmp_path: Path) -> None:
        folder = write_basis(truth, tmp_path / "b")
        (folder / "._NAA.json").write_bytes(b"\0\5\x16\7")
        assert sorted(read_basis(folder).names) == sorted(truth.names)

    def test_columns_that_are_the_same_are_told(self, truth: Basis, tmp_path: Path) -> None:
        fids = truth.fids.copy()
        fids[truth.names.index("Ins")] = 2j * fids[truth.names.index("Cr")]
        found = read_basis(write_basis(replace(truth, fids=fids), tmp_path / "b"))
        [note] = [n for n in found.notes if "same spectrum" in n]
        assert "Cr and Ins" in note or "Ins and Cr" in note
        plain = read_basis(write_basis(truth, tmp_path / "c"))
        assert not [n for n in plain.notes if "same spectrum" in n]

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
