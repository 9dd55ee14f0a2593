"""Macromolecule columns: positions, widths, amounts, sign, and real patterns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_files import read_basis
from mrsi_engine.spectra.basis import Basis, compare_bases
from mrsi_engine.spectra.macromolecules import (
    macromolecule_lines,
    macromolecule_pattern,
    macromolecule_table,
    with_macromolecules,
)
from mrsi_engine.spectra.simulation import simulate_basis

DATA = Path(__file__).resolve().parents[3] / "shared/data"
AXIS = Acquisition(4096, 0.25e-3, 123.23)


def metabolites(frequency: float = 123.23, sequence: str = "press") -> Basis:
    return simulate_basis(
        sequence, echo_time=0.030, spectrometer_frequency=frequency, metabolites=("NAA", "Cr")
    )


def measured(fid: np.ndarray) -> tuple[float, float]:
    """Position and full width at half maximum of the tallest peak of the real spectrum, ppm."""
    axis = AXIS.with_points(65536)
    spectrum = axis.spectrum(np.pad(fid, (0, axis.points - fid.size))).real
    # Half the first point is the offset of a discrete spectrum.
    spectrum -= fid[0].real / 2
    above = axis.ppm[spectrum > spectrum.max() / 2]
    return float(axis.ppm[spectrum.argmax()]), float(np.ptp(above))


@pytest.mark.parametrize("name", ["MM09", "MM12", "MM14", "MM17", "Lip09", "Lip13a", "Lip13b"])
def test_a_single_line_is_where_and_as_wide_as_the_table_says(name: str) -> None:
    (line,) = macromolecule_table(AXIS, lipids=True)[name]
    fid = macromolecule_lines(AXIS, lipids=True)[name]
    position, width = measured(fid)
    assert position == pytest.approx(line.ppm, abs=0.002)
    assert width == pytest.approx(line.fwhm, rel=0.02)
    assert fid[0] == pytest.approx(line.amplitude)


def test_the_pattern_has_its_peaks_where_the_literature_has_them() -> None:
    fid = macromolecule_pattern(AXIS)
    assert measured(fid)[0] == pytest.approx(2.04, abs=0.02)
    spectrum = AXIS.spectrum(fid).real
    near = [AXIS.ppm[np.abs(AXIS.ppm - p) < 0.15] for p in (0.92, 2.99)]
    tops = [p[spectrum[np.isin(AXIS.ppm, p)].argmax()] for p in near]
    assert tops == pytest.approx([0.92, 2.99], abs=0.05)


def test_the_pattern_counts_three_protons_at_nine_tenths_ppm() -> None:
    fid = macromolecule_pattern(AXIS)
    fid[0] /= 2  # the spectrum then has no offset, and half the protons as its area
    inside = (AXIS.ppm > 0.2) & (AXIS.ppm < 1.08)
    area = 2 * AXIS.spectrum(fid).real[inside].sum() / AXIS.points
    assert area == pytest.approx(3.0, rel=0.15)  # neighbours reach into the window


def test_the_models_add_the_columns_they_name() -> None:
    basis = metabolites()
    assert with_macromolecules(basis, "none") is basis
    assert with_macromolecules(basis, "pattern").macromolecules == ("MM",)
    lines = with_macromolecules(basis, "lines", lipids=True)
    assert lines.macromolecules == tuple(macromolecule_table(AXIS, lipids=True))
    assert (
        with_macromolecules(basis, "none", lipids=True).macromolecules == lines.macromolecules[-4:]
    )
    np.testing.assert_array_equal(lines.fids[:2], basis.fids)


def test_fid_acquisitions_carry_the_phase_of_the_delay() -> None:
    (line,) = macromolecule_table(AXIS)["MM09"]
    delayed = with_macromolecules(metabolites(sequence="fid"), "lines")
    axis = delayed.acquisition
    expected = line.amplitude * np.exp(2j * np.pi * axis.frequency_of(line.ppm) * 0.030)
    assert delayed["MM09"][0] == pytest.approx(expected)


def test_lines_scale_with_the_field_and_the_pattern_refuses() -> None:
    at_7t = metabolites(frequency=298.0)
    assert "MM09" in with_macromolecules(at_7t, "lines").names
    with pytest.raises(InputError, match=r"measured at 123\.23 MHz \(3 T\), this is 298\.0 MHz"):
        with_macromolecules(at_7t, "pattern")


def test_lines_are_sharper_in_ppm_at_7t() -> None:
    high = replace(AXIS, spectrometer_frequency=298.0)
    table, at_7t = (macromolecule_table(axis, lipids=True) for axis in (AXIS, high))
    assert list(table) == list(at_7t)
    for name, lines in table.items():
        assert [line.ppm for line in lines] == [line.ppm for line in at_7t[name]]
        assert [line.amplitude for line in lines] == [line.amplitude for line in at_7t[name]]
        narrower = [b.fwhm / a.fwhm for a, b in zip(lines, at_7t[name], strict=True)]
        assert all(0.3 < ratio < 0.45 for ratio in narrower), name


def test_lorentzian_lines_are_as_wide_as_gaussian_ones() -> None:
    (line,) = macromolecule_table(AXIS)["MM09"]
    fid = macromolecule_lines(AXIS, shape="lorentzian")["MM09"]
    position, width = measured(fid)
    assert position == pytest.approx(line.ppm, abs=0.002)
    assert width == pytest.approx(line.fwhm, rel=0.02)
    gaussian = macromolecule_lines(AXIS)["MM09"]
    assert abs(fid[100]) < 0.8 * abs(gaussian[100])


def test_what_is_there_already_or_unknown_is_refused() -> None:
    with pytest.raises(InputError, match=r"already has \['MM'\]"):
        with_macromolecules(with_macromolecules(metabolites(), "pattern"), "lines")
    with pytest.raises(InputError, match="'voigt' is unknown; choose none, pattern or lines"):
        with_macromolecules(metabolites(), "voigt")  # type: ignore[arg-type]


@pytest.mark.skipif(not DATA.exists(), reason=f"real data missing: {DATA}")
def test_the_pattern_is_the_measured_signal_of_the_fitting_challenge() -> None:
    from scipy.io import loadmat

    fid = loadmat(DATA / "seed_simulation/mm.mat")["data"].T.astype(complex)
    fid[:, 0] *= 2
    # That file's axis is 0.05 ppm off the literature's.
    axis = replace(AXIS.with_points(2048), reference_ppm=4.70)
    ours = Basis(("MM",), macromolecule_pattern(AXIS)[None], AXIS)
    assert compare_bases(ours, Basis(("MM",), fid, axis))["MM"] > 0.995


@pytest.mark.skipif(not DATA.exists(), reason=f"real data missing: {DATA}")
def test_lines_are_those_of_a_published_basis() -> None:
    theirs = read_basis(DATA / "basis_slaser_3t/fsl_json")
    columns = macromolecule_lines(theirs.acquisition, lipids=True)
    ours = Basis(tuple(columns), np.stack(list(columns.values())), theirs.acquisition)
    found = compare_bases(ours, theirs)
    assert len(found) == 9
    assert min(found.values()) > 0.999
