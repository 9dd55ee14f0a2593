"""A basis checks itself, resamples exactly and refuses what does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.spectra.basis import Basis, compare_bases

AXIS = Acquisition(2048, 0.25e-3, 123.23, echo_time=0.03)
PEAKS = {"NAA": ((2.008, 3.0),), "Cr": ((3.027, 3.0), (3.913, 2.0)), "MM09": ((0.91, 3.0),)}


def fid(name: str, axis: Acquisition, width: float = 4.0) -> NDArray[np.complex128]:
    return sum(
        (
            amplitude * np.exp((2j * np.pi * axis.frequency_of(ppm) - np.pi * width) * axis.time)
            for ppm, amplitude in PEAKS[name]
        ),
        np.zeros(axis.points, complex),
    )


def basis(axis: Acquisition = AXIS, width: float = 4.0) -> Basis:
    return Basis(tuple(PEAKS), np.stack([fid(n, axis, width) for n in PEAKS]), axis, source="file")


@pytest.mark.parametrize("bad", [np.nan, np.inf, complex(0, np.nan)])
def test_nan_and_inf_are_refused_by_name(bad: complex) -> None:
    fids = basis().fids.copy()
    fids[1, 7] = bad
    with pytest.raises(InputError, match="file: Cr holds NaN or Inf"):
        replace(basis(), fids=fids)


def test_empty_zero_repeated_or_misshapen_bases_are_refused() -> None:
    fids = basis().fids
    with pytest.raises(InputError, match="NAA is all zero"):
        replace(basis(), fids=fids * np.array([[0], [1], [1]]))
    with pytest.raises(InputError, match=r"more than once: \['NAA'\]"):
        replace(basis(), names=("NAA", "NAA", "Cr"))
    with pytest.raises(InputError, match=r"shape \(3, 2047\), expected \(3 metabolites, 2048"):
        replace(basis(), fids=fids[:, 1:])
    with pytest.raises(InputError, match="holds no metabolite"):
        Basis((), np.zeros((0, 2048), complex), AXIS)


def test_names_are_sorted_into_metabolites_and_macromolecules() -> None:
    assert basis().metabolites == ("NAA", "Cr")
    assert basis().macromolecules == ("MM09",)
    assert basis().select(["cr"]).names == ("Cr",)
    with pytest.raises(InputError, match=r"no metabolite \['Foo'\]; it has \['NAA'"):
        basis().select(["Foo"])


def test_the_check_finds_landmarks_or_names_the_offset_and_its_cure() -> None:
    assert basis().check().landmarks()["NAA"] == pytest.approx(2.008, abs=0.002)
    assert basis().select(["MM09"]).check().names == ("MM09",)  # nothing to go by
    moved = replace(basis(), acquisition=replace(AXIS, reference_ppm=4.75))
    with pytest.raises(InputError, match=r"NAA at 2\.10\d ppm, \+0\.10.*--basis-reference 4\.65"):
        moved.check()
    with pytest.raises(InputError, match="--basis-conjugate"):
        basis().conjugated().check()
    basis().conjugated().conjugated().check()


@given(
    dwell=st.floats(0.1e-3, 0.7e-3),
    points=st.integers(64, 700),
    reference=st.floats(4.4, 4.9),
)
@settings(max_examples=25, deadline=None)
def test_resampling_is_the_signal_sampled_there(
    dwell: float, points: int, reference: float
) -> None:
    scan = Acquisition(points, dwell, 123.23, reference_ppm=reference)
    matched = basis().matched_to(scan)
    assert replace(matched.acquisition, echo_time=None) == scan
    assert matched.acquisition.echo_time == AXIS.echo_time
    expected = np.stack([fid(n, scan) for n in PEAKS])
    np.testing.assert_allclose(matched.fids, expected, atol=2e-4 * 5)


def test_the_same_dwell_time_keeps_every_digit() -> None:
    matched = basis().matched_to(AXIS.with_points(512))
    np.testing.assert_array_equal(matched.fids, basis().fids[:, :512])


def test_other_frequencies_nuclei_and_longer_scans_are_refused() -> None:
    with pytest.raises(InputError, match=r"for 123\.230 MHz, the scan has 297\.200 MHz"):
        basis().matched_to(replace(AXIS, spectrometer_frequency=297.2))
    with pytest.raises(InputError, match="basis is of 1H, the scan of 31P"):
        basis().matched_to(replace(AXIS, nucleus="31P"))
    with pytest.raises(InputError, match=r"lasts 512\.0 ms \(2048 points\).*819\.2 ms"):
        basis().matched_to(replace(AXIS, dwell_time=0.4e-3))


def test_another_echo_time_is_refused_until_accepted() -> None:
    at_30 = replace(basis(), acquisition=replace(AXIS, echo_time=0.030), sequence="press")
    scan = replace(AXIS, echo_time=0.144)
    advice = r"of 30 ms, the scan has 144 ms.*--basis press-3t-te144, or .*te-mismatch allow"
    with pytest.raises(InputError, match=advice):
        at_30.matched_to(scan)
    accepted = at_30.accepted_for(scan)
    np.testing.assert_array_equal(accepted.matched_to(scan).fids, at_30.fids)
    assert "30 ms, the scan has 144 ms; accepted" in " ".join(accepted.matched_to(scan).notes)
    phosphorus = replace(at_30, acquisition=replace(at_30.acquisition, nucleus="31P"))
    with pytest.raises(InputError, match="for the scan, or accept"):
        phosphorus.matched_to(replace(scan, nucleus="31P"))


def test_another_sequence_is_refused_until_accepted() -> None:
    press = replace(basis(), sequence="press")
    press.check_timing(AXIS, "svs_se")
    with pytest.raises(InputError, match=r"for press, the scan.*'csi_slaser'.*slaser-3t-te30"):
        press.check_timing(AXIS, "csi_slaser")
    assert "for press" in " ".join(press.accepted_for(AXIS, "csi_slaser").notes)
    replace(basis(), sequence="se").check_timing(AXIS, "csi_slaser")
    press.check_timing(AXIS, "my_own_csi")


@pytest.mark.parametrize(
    ("own", "scan"), [(0.030, 0.0309), (0.030, None), (None, 0.030), (0.030, 0.0), (0.144, 0.1431)]
)
def test_echo_times_that_are_close_or_unknown_are_taken(
    own: float | None, scan: float | None
) -> None:
    one = replace(basis(), acquisition=replace(AXIS, echo_time=own))
    axis = replace(AXIS, echo_time=scan)
    assert one.matched_to(axis).acquisition.echo_time == own
    assert one.accepted_for(axis) is one


def test_fingerprints_tell_bases_apart() -> None:
    assert basis().fingerprint == basis().fingerprint
    others = [
        basis().scaled(2),
        basis().select(["NAA", "Cr"]),
        replace(basis(), acquisition=replace(AXIS, reference_ppm=4.7)),
    ]
    assert len({b.fingerprint for b in (basis(), *others)}) == 4


def test_a_fingerprint_is_that_of_every_machine() -> None:
    rng, one = np.random.default_rng(1), basis()
    # What a simulation by other threads, or another processor, changes.
    elsewhere = one.fids * (1 + 4e-15 * rng.normal(size=one.fids.shape))
    assert replace(one, fids=elsewhere).fingerprint == one.fingerprint
    other = one.fids.copy()
    other[0, 3] *= 1 + 1e-4
    assert replace(one, fids=other).fingerprint != one.fingerprint


def test_comparison_sees_shapes_and_nothing_else() -> None:
    scaled = basis(width=6.0).scaled(3.0 * np.exp(1j))  # type: ignore[arg-type]
    assert min(compare_bases(basis(), scaled).values()) > 0.9999
    assert min(compare_bases(scaled, basis()).values()) > 0.9999
    other_axis = basis(replace(AXIS, dwell_time=0.3e-3, points=1500))
    assert min(compare_bases(basis(), other_axis).values()) > 0.999


def test_comparison_tells_different_shapes_apart() -> None:
    swapped = replace(basis(), names=("Cr", "NAA", "MM09"))
    found = compare_bases(basis(), swapped)
    assert found["NAA"] < 0.2
    assert found["MM09"] > 0.99
    with pytest.raises(InputError, match="no metabolite in common"):
        compare_bases(basis().select(["NAA"]), basis().select(["Cr"]))
