"""Simulated bases against closed forms, and against another group's simulation."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import expm

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus
from mrsi_engine.spectra.basis import Basis, compare_bases
from mrsi_engine.spectra.simulation import (
    SEQUENCES,
    SimulationSettings,
    _group_fid,
    parse_basis_name,
    simulate,
    simulate_basis,
)
from mrsi_engine.spectra.spin_systems import SpinGroup, spin_systems

SEED = Path(__file__).resolve().parents[3] / "shared/data/seed_simulation/basisset.mat"
SEED_NAMES = (
    "Ala", "Asp", "Cr", "GABA", "GPC", "GSH", "Glc", "Gln", "Glu", "Gly",
    "Ins", "Lac", "NAA", "NAAG", "PCho", "PCr", "PE", "Tau", "sIns",
)  # fmt: skip
F0 = 123.23


def made(sequence: str, echo_time: float = 0.030, **changes: Any) -> Basis:
    timing = {"mixing_time": 0.010} if sequence == "steam" else {}
    return simulate_basis(
        sequence, echo_time=echo_time, **{"spectrometer_frequency": F0, **timing, **changes}
    )


def group(shifts: tuple[float, ...], *couplings: tuple[int, int, float]) -> SpinGroup:
    return SpinGroup(shifts, couplings, ("1H",) * len(shifts))


def settings_of(sequence: str, echo_time: float, **changes: Any) -> SimulationSettings:
    return SimulationSettings(sequence, echo_time, F0, **changes)


def peak(basis: Basis, name: str, low: float, high: float) -> float:
    axis = basis.acquisition.with_points(65536)
    padded = np.zeros(axis.points, complex)
    padded[: basis.acquisition.points] = basis[name]
    window = (axis.ppm > low) & (axis.ppm < high)
    return float(axis.ppm[window][np.abs(axis.spectrum(padded))[window].argmax()])


@pytest.mark.parametrize(
    ("name", "ppm", "protons"),
    [("Cr", 3.027, 5), ("PCr", 3.029, 5), ("Gly", 3.548, 2), ("sIns", 3.34, 6), ("Ace", 1.904, 3)],
)
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_singlets_stand_where_the_table_says_and_count_protons(
    sequence: str, name: str, ppm: float, protons: int
) -> None:
    echo_time = 0.0 if sequence == "fid" else 0.030
    basis = made(sequence, echo_time, metabolites=(name,))
    assert peak(basis, name, ppm - 0.3, ppm + 0.3) == pytest.approx(ppm, abs=1e-3)
    assert basis[name][0] == pytest.approx(protons, abs=1e-9)


@pytest.mark.parametrize("name", nucleus("1H").simulated)
def test_pulse_acquire_counts_every_proton(name: str) -> None:
    basis = made("fid", 0.0, metabolites=(name,))
    assert basis[name][0] == pytest.approx(spin_systems()[name].spins, abs=1e-9)


def test_the_integral_of_a_spectrum_counts_protons() -> None:
    basis = made("press", metabolites=("Cr",), points=8192)
    axis = basis.acquisition
    fid = basis["Cr"].copy()
    fid[0] /= 2  # the spectrum then has no offset, and half the protons as its area
    spectrum = axis.spectrum(fid).real / axis.points
    for ppm, protons in ((3.027, 3), (3.913, 2)):
        area = 2 * spectrum[np.abs(axis.ppm - ppm) < 0.4].sum()
        assert area == pytest.approx(protons, rel=0.015)  # a Lorentzian has 0.7 % outside


def test_the_linewidth_is_the_one_asked_for() -> None:
    basis = made("press", metabolites=("Gly",), linewidth=3.0)
    decay = np.log(np.abs(basis["Gly"][0] / basis["Gly"][1000])) / basis.acquisition.time[1000]
    assert decay / np.pi == pytest.approx(3.0, rel=1e-9)


def test_naa_passes_the_check_of_every_basis() -> None:
    for sequence in SEQUENCES:
        made(sequence, 0.020).check()


def lactate_methyl(basis: Basis) -> NDArray[np.float64]:
    spectrum = basis.acquisition.spectrum(basis["Lac"]).real
    return spectrum[np.abs(basis.acquisition.ppm - 1.314) < 0.15]


def test_lactate_is_inverted_at_one_over_j_and_upright_at_two_over_j() -> None:
    # J = 6.93 Hz: the doublet is -1 at 144 ms and +1 at 288 ms.
    upright = lactate_methyl(made("press", 0.0001, metabolites=("Lac",)))
    inverted = lactate_methyl(made("press", 0.144, metabolites=("Lac",)))
    again = lactate_methyl(made("press", 0.288, metabolites=("Lac",)))
    assert inverted.sum() / upright.sum() == pytest.approx(-1, abs=0.05)
    assert again.sum() / upright.sum() == pytest.approx(1, abs=0.05)
    assert inverted.min() < -5 * inverted.max()


@given(
    echo_time=st.floats(0.005, 0.3),
    coupling=st.floats(-15, 15),
    first=st.floats(1, 2),
    second=st.floats(3.5, 4.5),
)
@settings(max_examples=30, deadline=None)
def test_weakly_coupled_doublets_follow_the_product_operators(
    echo_time: float, coupling: float, first: float, second: float
) -> None:
    # AX spin pair: each line of a doublet is 1/2 exp(-/+ i pi J TE) at the echo.
    fids = _group_fid(group((first, second), (0, 1, coupling)), settings_of("press", echo_time))
    axis = settings_of("press", echo_time).acquisition
    expected = np.zeros(axis.points, complex)
    for ppm in (first, second):
        for sign in (1, -1):
            turn = 2j * np.pi * (axis.frequency_of(ppm) + sign * coupling / 2) * axis.time
            expected += 0.5 * np.exp(turn + sign * 1j * np.pi * coupling * echo_time)
    # What is left is the strong coupling, of the order of J over the shift difference, growing
    # in time as the second-order shift J**2 / (2 * difference) turns.
    difference = (second - first) * F0
    bound = 4 * abs(coupling) / difference + 2 * np.pi * coupling**2 / difference * 0.13
    assert np.abs(fids[:512] - expected[:512]).max() <= bound + 1e-6


def test_a_strongly_coupled_pair_is_the_textbook_ab_quartet() -> None:
    # Levitt, Spin Dynamics: lines at +/-(D +/- J)/2, the inner stronger by (1 + J/D)/(1 - J/D)
    # with D = sqrt(J**2 + difference**2).
    coupling, difference = 12.0, 9.0
    separation = difference / F0
    settings = settings_of("fid", 0.0, points=4096)
    shifts = (4.65 - separation / 2, 4.65 + separation / 2)
    fid = _group_fid(group(shifts, (0, 1, coupling)), settings)
    d = np.hypot(coupling, difference)
    time = settings.acquisition.time
    inner, outer = (1 + coupling / d) / 2, (1 - coupling / d) / 2
    expected = sum(
        weight * np.exp(2j * np.pi * sign * place * time)
        for weight, place in ((inner, (d - coupling) / 2), (outer, (d + coupling) / 2))
        for sign in (1, -1)
    )
    np.testing.assert_allclose(fid, expected, atol=1e-9)


def test_equivalent_protons_are_a_singlet_whatever_couples_them() -> None:
    settings = settings_of("press", 0.08)
    coupled = _group_fid(group((3.0, 3.0), (0, 1, -14.0)), settings)
    alone = 2 * _group_fid(group((3.0,)), settings)
    np.testing.assert_allclose(coupled, alone, atol=1e-9)


def test_phosphorus_splits_the_proton_and_is_not_refocused_with_it() -> None:
    # The 180s leave 31P alone, so a heteronuclear coupling is refocused like a shift.
    system = SpinGroup((3.0, 0.0), ((0, 1, 6.0),), ("1H", "31P"))
    axis = settings_of("press", 0.08).acquisition
    fid = _group_fid(system, settings_of("press", 0.08))
    carrier = np.exp(2j * np.pi * axis.frequency_of(3.0) * axis.time)
    np.testing.assert_allclose(fid, carrier * np.cos(np.pi * 6.0 * axis.time), atol=1e-9)


def test_slaser_holds_back_the_evolution_of_coupled_spins() -> None:
    # A CPMG train slows the J evolution of strongly coupled spins (Allerhand 1966): at TE 60 ms
    # glutamate and glutamine keep more of their signal than with the two pulses of PRESS.
    at_zero = made("fid", 0.0, metabolites=("Glu", "Gln"))
    press, slaser = (made(s, 0.060, metabolites=("Glu", "Gln")) for s in ("press", "slaser"))
    for name in ("Glu", "Gln"):
        kept = [abs(np.vdot(at_zero[name], b[name])) for b in (press, slaser)]
        assert kept[1] > 1.1 * kept[0]


def test_steam_without_delays_is_pulse_acquire() -> None:
    # Without any time to evolve in, the echo is the whole pulse-acquire signal.
    whole = made("fid", 0.0, metabolites=("Lac", "Glu", "Ins"))
    echo = made("steam", 1e-6, mixing_time=0.0, metabolites=("Lac", "Glu", "Ins"))
    np.testing.assert_allclose(echo.fids, whole.fids, atol=2e-3)


def test_steam_is_what_gradients_select() -> None:
    # The same experiment written out: each position in the voxel has its own turn about z in both
    # halves of the echo time and another, independent one in the mixing time.
    shifts, coupling, half, mixing_time = (2.60, 2.72), 13.0, 0.011, 0.014
    settings = settings_of("steam", 2 * half, mixing_time=mixing_time, points=1)
    ix, iy, iz = (
        np.array(m) / 2 for m in ([[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]])
    )
    first = [np.kron(m, np.eye(2)) for m in (ix, iy, iz)]
    second = [np.kron(np.eye(2), m) for m in (ix, iy, iz)]
    fx, fy, fz = (a + b for a, b in zip(first, second, strict=True))
    nu = settings.acquisition.frequency_of(shifts)
    hamiltonian = nu[0] * first[2] + nu[1] * second[2]
    hamiltonian = hamiltonian + coupling * sum(a @ b for a, b in zip(first, second, strict=True))
    te, tm = (expm(-2j * np.pi * hamiltonian * t) for t in (half, mixing_time))
    pulse = expm(-0.5j * np.pi * fy)
    turns = [expm(-1j * angle * fz) for angle in 2 * np.pi * np.arange(8) / 8]
    total = 0
    for spoil, crush in itertools.product(turns, turns):
        whole = spoil @ te @ pulse @ crush @ tm @ pulse @ spoil @ te
        total += np.trace(whole @ fx @ whole.conj().T @ (fx + 1j * fy))
    # Per spin Tr(Ix Ix) is 1; the stimulated echo is half the signal, inverted.
    expected = -2 * total / 64
    found = _group_fid(group(shifts, (0, 1, coupling)), settings)[0]
    assert found == pytest.approx(expected, abs=1e-9)
    assert 0.1 < abs(found) < 1.9


def test_steam_ignores_shift_evolution_in_every_period() -> None:
    for mixing_time in (0.0, 0.010, 0.0323):
        basis = made("steam", 0.0171, mixing_time=mixing_time, metabolites=("Cr",))
        assert basis["Cr"][0] == pytest.approx(5, abs=1e-9)


def test_steam_mixing_time_matters_to_coupled_spins() -> None:
    short, long = (made("steam", 0.02, mixing_time=t, metabolites=("Glu",)) for t in (0, 0.03))
    assert np.abs(short.fids - long.fids).max() > 0.1


def test_the_first_echo_time_of_press_matters_to_strong_coupling_only() -> None:
    halves, uneven = (made("press", te1=t, metabolites=("Cr", "Glu", "Lac")) for t in (None, 0.008))
    np.testing.assert_allclose(halves["Cr"], uneven["Cr"], atol=1e-9)
    # Lactate's coupling is weak: 6.93 Hz of 343 Hz, for each of its four protons.
    bound = 4 * 6.93 / (2.7832 * F0)
    assert np.abs(halves["Lac"] - uneven["Lac"]).max() < bound
    assert np.abs(halves["Glu"] - uneven["Glu"]).max() > 2 * bound


def test_acquisition_delay_is_the_fid_started_later() -> None:
    early = made("fid", 0.0, metabolites=("Glu", "Cr"), linewidth=0.0, dwell_time=1e-3)
    late = made("fid", 0.003, metabolites=("Glu", "Cr"), linewidth=0.0, dwell_time=1e-3)
    np.testing.assert_allclose(late.fids[:, :-3], early.fids[:, 3:], atol=1e-9)
    also = made("fid", 0.0, acquisition_delay=0.003, metabolites=("Glu", "Cr"))
    assert (also.acquisition.echo_time, also.acquisition.start_time) == (0.0, 0.003)


def test_the_reference_moves_every_peak_together() -> None:
    water = made("press", metabolites=("Glu", "NAA"), points=512)
    moved = made("press", metabolites=("Glu", "NAA"), points=512, reference_ppm=3.0)
    matched = moved.matched_to(water.acquisition)
    np.testing.assert_allclose(matched.fids, water.fids, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence": "espresso"}, "sequence: 'espresso' is unknown.*press"),
        ({"echo_time": 0.0}, "echo_time: found 0.0, expected positive"),
        ({"echo_time": float("nan")}, "echo_time"),
        ({"spectrometer_frequency": -3.0}, "spectrometer_frequency: found -3.0"),
        ({"points": 0}, "points"),
        ({"dwell_time": float("inf")}, "dwell_time"),
        ({"linewidth": -1.0}, "linewidth"),
        ({"te1": 0.031}, "te1: found 0.031, expected between 0 and the echo time 0.03 s"),
        ({"sequence": "slaser", "te1": 0.01}, "te1: belongs to press"),
        ({"sequence": "steam"}, "mixing_time: missing"),
        ({"mixing_time": 0.01}, "mixing_time: belongs to steam"),
        ({"metabolites": ("NAA", "Foo")}, "no spin system of"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    good = {"sequence": "press", "echo_time": 0.03, "spectrometer_frequency": F0}
    with pytest.raises(InputError, match=message):
        SimulationSettings(**{**good, **changes})


def test_field_and_frequency_exclude_each_other() -> None:
    for both in ({}, {"field": 3.0, "spectrometer_frequency": F0}):
        with pytest.raises(InputError, match="either the field"):
            simulate_basis("press", echo_time=0.03, **both)
    with pytest.raises(InputError, match=r"\['flavour'\] are unknown; allowed: \['sequence'"):
        simulate_basis("press", echo_time=0.03, field=3.0, flavour="strong")


@pytest.mark.parametrize(
    ("name", "sequence", "echo_time", "frequency", "mixing_time"),
    [
        ("press-3t-te30", "press", 0.030, 127.73, None),
        ("SLASER-3T-TE40", "slaser", 0.040, 127.73, None),
        ("steam-7t-te11", "steam", 0.011, 298.04, 0.010),
        ("steam-7t-te11-tm32", "steam", 0.011, 298.04, 0.032),
        ("fid-9.4t-te1.3", "fid", 0.0013, 400.23, None),
    ],
)
def test_names_say_what_to_simulate(
    name: str, sequence: str, echo_time: float, frequency: float, mixing_time: float | None
) -> None:
    found = parse_basis_name(name)
    assert found is not None
    assert (found.sequence, found.mixing_time) == (sequence, mixing_time)
    assert found.echo_time == pytest.approx(echo_time)
    assert found.spectrometer_frequency == pytest.approx(frequency, abs=0.01)


@pytest.mark.parametrize("name", ["press", "press-3t", "basis.basis", "press-3t-te30.basis", ""])
def test_other_text_is_no_name(name: str) -> None:
    assert parse_basis_name(name) is None


def test_a_named_basis_takes_its_axis_from_the_scan() -> None:
    named = parse_basis_name("press-3t-te30")
    assert named is not None
    scan = Acquisition(512, 0.8e-3, F0, reference_ppm=4.7)
    basis = simulate(replace(named, metabolites=("NAA",)).for_scan(scan))
    assert basis.acquisition == replace(scan, echo_time=0.030)
    with pytest.raises(InputError, match=r"127\.7 MHz \(3\.00 T\), the scan has 297\.2 MHz"):
        named.for_scan(replace(scan, spectrometer_frequency=297.2))
    with pytest.raises(InputError, match="the scan is of 31P"):
        named.for_scan(replace(scan, nucleus="31P"))


@pytest.mark.skipif(not SEED.exists(), reason=f"real data missing: {SEED}")
def test_agreement_with_the_ismrm_2016_basis() -> None:
    """Ideal PRESS 11 + 19 ms of another group; GSH, Gln and Asp have other literature values."""
    from scipy.io import loadmat

    ours = made("press", te1=0.011)
    fids = loadmat(SEED)["data"].T.astype(complex)
    names = tuple(map(nucleus("1H").canonical_name, SEED_NAMES))
    theirs = Basis(names, fids, ours.acquisition, source=str(SEED)).check()
    # 2 Hz on both makes lines of 4 Hz, still narrower than in vivo.
    found = compare_bases(ours, theirs, broadening=2.0)
    assert set(found) == set(names)
    for name, correlation in found.items():
        assert correlation >= (0.92 if name in ("GSH", "Gln", "Asp") else 0.97), name
    # Theirs count protons too: the first points agree without any scaling.
    ratios = [abs(ours[n][0] / theirs[n][0]) for n in names]
    np.testing.assert_allclose(ratios, 1, atol=0.06)
