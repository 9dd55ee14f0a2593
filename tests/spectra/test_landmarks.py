"""A basis that lies wrong is refused with the remedy that helps, whatever its names and nucleus."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.simulation import parse_basis_name, simulate

NAMES = {"1H": "press-3t-te30", "31P": "fid-31p-7t-te0.5", "2H": "fid-2h-7t"}


def simulated(symbol: str) -> Basis:
    named = parse_basis_name(NAMES[symbol])
    assert named is not None
    return simulate(replace(named, points=2048, metabolites=nucleus(symbol).simulated))


BASES = {symbol: simulated(symbol) for symbol in NAMES}


def lines(names: tuple[str, ...], axis: Acquisition, off: float = 0.0) -> Basis:
    """One line a metabolite at its landmark, ``off`` ppm beside it."""
    table = nucleus(axis.nucleus)
    shifts = [table.landmark(name).ppm + off for name in names]
    turn = 2j * np.pi * axis.frequency_of(np.array(shifts)[:, None]) - 10
    return Basis(names, np.exp(turn * axis.time), axis, source="file")


def refusal(basis: Basis) -> str:
    with pytest.raises(InputError) as caught:
        basis.check()
    return str(caught.value)


@pytest.mark.parametrize("symbol", NAMES)
def test_right_ones_pass(symbol: str) -> None:
    assert BASES[symbol].check() is BASES[symbol]


@pytest.mark.parametrize("symbol", NAMES)
def test_mirrored_ones_are_told_to_be_conjugated_and_nothing_else(symbol: str) -> None:
    message = refusal(BASES[symbol].conjugated())
    assert "--basis-conjugate" in message
    assert "--basis-reference" not in message


@pytest.mark.parametrize("name", ["NAA", "Cr", "PCr", "GPC", "PCh"])
def test_one_landmark_is_enough(name: str) -> None:
    one = BASES["1H"].select([name, "Glu", "Ins"])
    one.check()
    assert "--basis-conjugate" in refusal(one.conjugated())


@pytest.mark.parametrize("symbol", NAMES)
@pytest.mark.parametrize("off", [0.9, -2.1])
def test_the_reference_that_is_named_is_the_cure(symbol: str, off: float) -> None:
    right = BASES[symbol]
    stated = right.acquisition.reference_ppm
    moved = replace(right, acquisition=replace(right.acquisition, reference_ppm=stated + off))
    message = refusal(moved)
    assert "--basis-conjugate" not in message
    named = re.search(r"--basis-reference (\S+)", message)
    assert named is not None
    cured = replace(moved, acquisition=replace(moved.acquisition, reference_ppm=float(named[1])))
    assert float(named[1]) == pytest.approx(stated, abs=0.03)
    cured.check()


def test_mirrored_and_moved_names_both_the_conjugation_first() -> None:
    right = BASES["1H"]
    moved = replace(right, acquisition=replace(right.acquisition, reference_ppm=4.273))
    message = refusal(moved.conjugated())
    assert message.index("--basis-conjugate") < message.index("--basis-reference 4.65")


@given(off=st.floats(0.06, 0.35), sign=st.sampled_from([-1, 1]), count=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_any_shift_beyond_the_tolerance_is_found(off: float, sign: int, count: int) -> None:
    names = ("NAA", "Cr", "PCr", "GPC", "PCh")[:count]
    basis = lines(names, Acquisition(1024, 0.4e-3, 127.7), sign * off)
    named = re.search(r"--basis-reference (\S+)", refusal(basis))
    assert named is not None
    assert float(named[1]) == pytest.approx(4.65 - sign * off, abs=0.002)


def test_one_line_of_another_table_does_not_refuse_a_basis() -> None:
    axis = Acquisition(1024, 0.4e-3, 127.7)
    good, other = lines(("NAA", "Cr"), axis), lines(("PCh",), axis, -0.05)
    good.extended(other.names, other.fids).check()


def test_names_that_are_swapped_have_no_remedy() -> None:
    axis = Acquisition(1024, 0.4e-3, 127.7)
    right = lines(("NAA", "Cr", "GPC"), axis)
    message = refusal(replace(right, names=("GPC", "NAA", "Cr")))
    assert "check the names" in message


def test_a_basis_without_landmarks_is_taken_as_it_is() -> None:
    bare = BASES["1H"].select(["Glu", "Gln", "Ins"])
    assert bare.conjugated().check().landmarks() == {}


def test_landmarks_outside_of_the_spectrum_do_not_count() -> None:
    narrow = lines(("NAA",), Acquisition(256, 4e-3, 127.7))
    assert narrow.check().landmarks() == {}
