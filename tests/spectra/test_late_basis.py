"""A basis on the axis of a scan whose first sample comes after time zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.spectra.basis import compare_bases
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.spectra.simulation import parse_basis_name, simulate, simulate_basis

MHZ, DWELL, POINTS = 123.25, 0.4e-3, 512
NAMES = ("NAA", "Cr", "Glu", "Ins", "Lac")


def made(sequence: str, delay: float = 0.0, echo_time: float = 0.03, points: int = POINTS):
    return simulate_basis(
        sequence,
        echo_time=echo_time,
        spectrometer_frequency=MHZ,
        points=points,
        dwell_time=DWELL,
        acquisition_delay=delay,
        metabolites=NAMES,
    )


@pytest.mark.parametrize("samples", [1, 2, 0.37, 3.5, 7.999])
def test_columns_at_a_later_first_sample_are_those_simulated_there(samples: float) -> None:
    early = made("press", points=POINTS + 16)
    late = made("press", samples * DWELL)
    matched = early.matched_to(late.acquisition)
    assert matched.acquisition.start_time == samples * DWELL
    size = np.abs(late.fids).max()
    np.testing.assert_allclose(matched.fids[:, :-8], late.fids[:, :-8], atol=1e-6 * size)


def test_a_delay_that_the_basis_has_counts_once() -> None:
    late = made("press", 2 * DWELL, points=POINTS + 16)
    scan = replace(late.acquisition, start_time=5 * DWELL, points=POINTS)
    wanted = made("press", 5 * DWELL)
    np.testing.assert_allclose(late.matched_to(scan).fids, wanted.fids, atol=1e-9)


def test_a_basis_that_begins_later_than_the_scan_is_refused_with_both_numbers() -> None:
    late = made("press", 8 * DWELL)
    with pytest.raises(InputError, match=r"3\.2 ms after time zero.*begin 0 ms after time zero"):
        late.matched_to(replace(late.acquisition, start_time=0.0))


def test_a_basis_too_short_for_a_late_scan_is_refused() -> None:
    basis = made("press")
    with pytest.raises(InputError, match=r"begin 4\.0 ms later.*--points"):
        basis.matched_to(replace(basis.acquisition, start_time=10 * DWELL))


@pytest.mark.parametrize(
    ("echo_time", "start_time"), [(1.3e-3, 0.0), (0.0, 1.3e-3), (None, 1.3e-3), (0.5e-3, 0.8e-3)]
)
def test_the_delay_of_a_fid_is_one_however_the_header_splits_it(echo_time, start_time) -> None:
    fid = made("fid", echo_time=1.3e-3)
    scan = replace(fid.acquisition, echo_time=echo_time, start_time=start_time)
    matched = fid.matched_to(scan)
    np.testing.assert_allclose(matched.fids, fid.fids, atol=1e-9)
    with_lines = [with_macromolecules(basis, "lines")["MM09"] for basis in (fid, matched)]
    turn = with_lines[1] / with_lines[0]
    np.testing.assert_allclose(np.angle(turn[:50]), 0, atol=1e-9)


@pytest.mark.parametrize("stated", [(None, 0.0), (0.0, 0.0)])
def test_a_scan_that_states_no_delay_takes_the_fid_basis_as_it_is(stated) -> None:
    fid = made("fid", echo_time=1.3e-3)
    scan = replace(fid.acquisition, echo_time=stated[0], start_time=stated[1])
    np.testing.assert_array_equal(fid.matched_to(scan).fids, fid.fids)


def test_a_named_basis_is_simulated_at_the_scans_first_sample() -> None:
    scan = replace(made("press").acquisition, start_time=1.7 * DWELL)
    settings = parse_basis_name("press-3t-te30")
    assert settings is not None
    settings = replace(settings.for_scan(scan), metabolites=NAMES)
    assert simulate(settings).acquisition.start_time == scan.start_time
    late = made("press", 1.7 * DWELL)
    np.testing.assert_allclose(simulate(settings).fids, late.fids, atol=1e-9)


@pytest.mark.parametrize(("echo_time", "start_time"), [(1.28e-3, 0.0), (0.0, 1.3e-3)])
def test_a_named_fid_basis_takes_the_scans_delay(echo_time: float, start_time: float) -> None:
    scan = replace(made("fid").acquisition, echo_time=echo_time, start_time=start_time)
    settings = parse_basis_name("fid-3t-te1.3")
    assert settings is not None
    ready = settings.for_scan(scan)
    assert (ready.echo_time, ready.acquisition_delay) == (echo_time, start_time)


def test_bases_are_compared_where_both_have_samples() -> None:
    early, late = made("press", points=POINTS + 16), made("press", 2 * DWELL)
    assert min(compare_bases(early, late).values()) == pytest.approx(1, abs=1e-6)
