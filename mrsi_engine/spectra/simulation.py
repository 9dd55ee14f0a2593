"""Basis sets by density-matrix simulation with ideal pulses.

Every pulse is instantaneous and perfect; between pulses the spins evolve under the complete
(strong-coupling) Hamiltonian (Ernst, Bodenhausen, Wokaun, Principles of NMR in One and Two
Dimensions, 1987, ch. 2 and 4). With at most seven spins a group, one diagonalisation of a
128 x 128 matrix serves all delays and the acquisition. Relaxation is left out: a Lorentzian
linewidth is applied to the FID.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.spin_systems import SpinGroup, SpinSystem, select_spin_systems

#: Raised whenever the numbers of a simulated basis change.
REVISION = 1

SEQUENCES = ("press", "slaser", "steam", "fid")

#: Mixing time (s) of a named STEAM basis whose name does not state one.
NAMED_MIXING_TIME = 0.010

#: How the name of a simulated basis is written, for messages.
BASIS_NAME_FORM = (
    "SEQUENCE[-NUCLEUS]-FIELDt-teMILLISECONDS, e.g. press-3t-te30, steam-7t-te11-tm10, "
    "fid-31p-7t-te0.5, fid-2h-7t"
)

#: A magnet called 3 T may be 2.89 T: how far a scan's field may lie from the one in a name.
_FIELD_TOLERANCE = 0.06

#: How far (s) a scan's time from the excitation to the first sample may lie from the one in a name.
_DELAY_TOLERANCE = 1e-3

_NAME = re.compile(
    r"(?P<sequence>press|slaser|steam|fid)(?:-(?P<nucleus>\d+[a-z]+))?-(?P<field>\d+(?:\.\d+)?)t"
    r"(?:-te(?P<echo>\d+(?:\.\d+)?))?(?:-tm(?P<mixing>\d+(?:\.\d+)?))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SimulationSettings:
    """Everything that decides what a simulated basis looks like.

    Parameters
    ----------
    sequence
        ``"press"``, ``"slaser"``, ``"steam"`` or ``"fid"``; see :func:`simulate_basis`.
    echo_time
        From the excitation to the echo, s; for ``"fid"`` to the first sample unless that has a
        delay of its own.
    spectrometer_frequency
        MHz.
    points, dwell_time
        Samples of a FID and the time between them, s.
    nucleus
        As NIfTI-MRS writes it.
    reference_ppm
        Chemical shift at 0 Hz, ppm; that of the nucleus unless given.
    te1
        PRESS only: first echo time, s; ``None`` is half of ``echo_time``.
    mixing_time
        STEAM only, and needed there: between second and third pulse, s.
    acquisition_delay
        From the echo, for ``"fid"`` from ``echo_time``, to the first sample, s.
    linewidth
        Lorentzian full width at half maximum of every line, Hz.
    metabolites
        Names in the spin-system table of the nucleus; the usual ones of the brain unless given.

    Raises
    ------
    InputError
        If a value is out of range, not finite, or does not belong to the sequence.
    """

    sequence: str
    echo_time: float
    spectrometer_frequency: float
    points: int = 2048
    dwell_time: float = 0.25e-3
    reference_ppm: float = math.nan
    te1: float | None = None
    mixing_time: float | None = None
    acquisition_delay: float = 0.0
    linewidth: float = 1.0
    metabolites: tuple[str, ...] = ()
    nucleus: str = "1H"

    def __post_init__(self) -> None:
        if self.sequence not in SEQUENCES:
            raise InputError(
                f"sequence: {self.sequence!r} is unknown; choose from {list(SEQUENCES)}"
            )
        for name in ("spectrometer_frequency", "points", "dwell_time"):
            _require(name, getattr(self, name), "positive", getattr(self, name) > 0)
        shortest_ok = self.echo_time > 0 or (self.sequence == "fid" and self.echo_time == 0)
        _require("echo_time", self.echo_time, "positive", shortest_ok)
        for name in ("acquisition_delay", "linewidth"):
            _require(name, getattr(self, name), "zero or more", getattr(self, name) >= 0)
        self._check_timing()
        table = nucleus(self.nucleus)
        if math.isnan(self.reference_ppm) and table.reference_ppm is not None:
            object.__setattr__(self, "reference_ppm", table.reference_ppm)
        _require("reference_ppm", self.reference_ppm, "a number", True)
        chosen = select_spin_systems(self.metabolites or table.simulated, self.nucleus)
        object.__setattr__(self, "metabolites", tuple(system.name for system in chosen))

    def _check_timing(self) -> None:
        if self.te1 is not None:
            if self.sequence != "press":
                raise InputError(f"te1: belongs to press, not to {self.sequence}; leave it out")
            inside = 0 < self.te1 < self.echo_time
            _require("te1", self.te1, f"between 0 and the echo time {self.echo_time:g} s", inside)
        if self.sequence == "steam":
            if self.mixing_time is None:
                raise InputError("mixing_time: missing; a STEAM simulation needs it (s)")
            _require("mixing_time", self.mixing_time, "zero or more", self.mixing_time >= 0)
        elif self.mixing_time is not None:
            raise InputError(f"mixing_time: belongs to steam, not to {self.sequence}; leave it out")

    @property
    def delays(self) -> tuple[float, ...]:
        """Free evolution before, between and after the refocusing pulses, s.

        For STEAM the two halves of the echo time; what happens between them is not refocusing.
        """
        te = self.echo_time
        te1 = te / 2 if self.te1 is None else self.te1
        by_sequence = {
            "fid": (te,),
            "press": (te1 / 2, te / 2, (te - te1) / 2),
            "slaser": (te / 8, te / 4, te / 4, te / 4, te / 8),
            "steam": (te / 2, te / 2),
        }
        *inner, last = by_sequence[self.sequence]
        return (*inner, last + self.acquisition_delay)

    @property
    def acquisition(self) -> Acquisition:
        """The axis of the simulated FIDs; without an echo time counts from the excitation."""
        return Acquisition(
            points=self.points,
            dwell_time=self.dwell_time,
            spectrometer_frequency=self.spectrometer_frequency,
            reference_ppm=self.reference_ppm,
            nucleus=self.nucleus,
            echo_time=self.echo_time,
            start_time=self.acquisition_delay,
        )

    @property
    def description(self) -> str:
        """One line for messages and provenance."""
        timing = f"TE {self.echo_time * 1e3:g} ms"
        if self.mixing_time is not None:
            timing += f", TM {self.mixing_time * 1e3:g} ms"
        of = "" if self.nucleus == "1H" else f" of {self.nucleus}"
        return f"simulated {self.sequence}{of} {timing}, {self.spectrometer_frequency:.3f} MHz"

    def for_scan(self, scan: Acquisition) -> SimulationSettings:
        """These settings on the frequency, axis, first sample and reference of a scan.

        The time from the excitation to the first sample of a FID is the scan's, where that is
        within 1 ms of the one asked for.

        Raises
        ------
        InputError
            If the scan is of another nucleus or its field is more than 6 % from this one.
        """
        if scan.nucleus != self.nucleus:
            raise InputError(
                f"nucleus: the basis asked for is of {self.nucleus}, the scan is of "
                f"{scan.nucleus}; name one for it, e.g. fid-{scan.nucleus.lower()}-7t-te0.5, or "
                "give a basis file"
            )
        field = nucleus(self.nucleus).field
        ratio = scan.spectrometer_frequency / self.spectrometer_frequency
        if abs(ratio - 1) > _FIELD_TOLERANCE:
            raise InputError(
                f"field: the basis asked for is {self.spectrometer_frequency:.1f} MHz "
                f"({field(self.spectrometer_frequency):.2f} T), the scan has "
                f"{scan.spectrometer_frequency:.1f} MHz "
                f"({field(scan.spectrometer_frequency):.2f} T); name that field"
            )
        echo_time, stated = self.echo_time, scan.echo_time or 0.0
        if self.sequence == "fid" and stated + scan.start_time > 0:
            apart = stated + scan.start_time - self.echo_time
            echo_time = stated if abs(apart) <= _DELAY_TOLERANCE else echo_time
        return replace(
            self,
            echo_time=echo_time,
            acquisition_delay=scan.start_time,
            spectrometer_frequency=scan.spectrometer_frequency,
            points=scan.points,
            dwell_time=scan.dwell_time,
            reference_ppm=scan.reference_ppm,
        )


def parse_basis_name(name: str) -> SimulationSettings | None:
    """Settings of a named simulated basis, or ``None`` where the text is no such name.

    ``press-3t-te30``, ``slaser-3t-te40``, ``fid-7t-te1.3`` (time to the first sample) and
    ``steam-7t-te11-tm32`` (10 ms of mixing unless stated); times in ms, field in tesla. Another
    nucleus than the proton stands before the field: ``fid-31p-7t-te0.5``. Without ``te`` the FID
    begins with the excitation.
    :meth:`SimulationSettings.for_scan` then takes frequency and axis from a scan.

    Raises
    ------
    InputError
        If the name is well formed but asks for something impossible.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None or (match["echo"] is None and match["sequence"].lower() != "fid"):
        return None
    sequence, symbol = match["sequence"].lower(), (match["nucleus"] or "1H").upper()
    mixing = float(match["mixing"]) * 1e-3 if match["mixing"] else None
    if sequence == "steam" and mixing is None:
        mixing = NAMED_MIXING_TIME
    return SimulationSettings(
        sequence=sequence,
        echo_time=float(match["echo"] or 0) * 1e-3,
        spectrometer_frequency=float(match["field"]) * nucleus(symbol).gyromagnetic_ratio,
        mixing_time=mixing,
        nucleus=symbol,
    )


def simulate_basis(
    sequence: str,
    *,
    echo_time: float,
    field: float | None = None,
    spectrometer_frequency: float | None = None,
    **settings: Any,
) -> Basis:
    """Simulate a basis set with ideal pulses.

    - ``press``: 90 - TE1/2 - 180 - TE/2 - 180 - TE2/2, ``te1`` half of the echo time unless given.
    - ``slaser``: four refocusing pulses (two adiabatic pairs) spaced evenly as in a CPMG train,
      90 - TE/8 - 180 - TE/4 - 180 - TE/4 - 180 - TE/4 - 180 - TE/8.
    - ``steam``: 90 - TE/2 - 90 - TM - 90 - TE/2, keeping the stimulated echo: coherence orders
      +1, 0 and -1, as gradients select them.
    - ``fid``: 90 - TE, where TE is the acquisition delay.

    The amplitude counts nuclei in every sequence (STEAM's loss of half the signal is made good):
    without relaxation an uncoupled methyl group starts at 3. Of ATP, ``gATP``, ``aATP`` and
    ``bATP`` are the signals of one phosphate each, as the coupling to the others leaves them.

    Parameters
    ----------
    sequence, echo_time, **settings
        See :class:`SimulationSettings`; times in s.
    field, spectrometer_frequency
        One of the two: tesla or MHz.

    Returns
    -------
    Basis
        ``(metabolite, time)`` in the conventions of :mod:`mrsi_engine.conventions`.

    Raises
    ------
    InputError
        If a setting is unknown, out of range or does not belong to the sequence.
    """
    if (field is None) == (spectrometer_frequency is None):
        raise InputError("field: give either the field (T) or the spectrometer frequency (MHz)")
    if spectrometer_frequency is None:
        ratio = nucleus(settings.get("nucleus", "1H")).gyromagnetic_ratio
        spectrometer_frequency = float(field or 0) * ratio
    allowed = SimulationSettings.__dataclass_fields__
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise InputError(f"simulation settings {unknown} are unknown; allowed: {list(allowed)}")
    return simulate(SimulationSettings(sequence, echo_time, spectrometer_frequency, **settings))


def simulate(settings: SimulationSettings) -> Basis:
    """The basis set of complete settings; see :func:`simulate_basis`."""
    systems = select_spin_systems(settings.metabolites, settings.nucleus)
    fids = np.stack([_system_fid(system, settings) for system in systems])
    fids *= np.exp(-np.pi * settings.linewidth * settings.acquisition.time)
    return Basis(
        names=settings.metabolites,
        fids=fids,
        acquisition=settings.acquisition,
        sequence=settings.sequence,
        source=settings.description,
    )


def _system_fid(system: SpinSystem, settings: SimulationSettings) -> NDArray[np.complex128]:
    parts = [
        group.equivalent_copies * group.weight * _group_fid(group, settings)
        for group in system.groups
    ]
    return np.sum(parts, axis=0)


def _group_fid(group: SpinGroup, settings: SimulationSettings) -> NDArray[np.complex128]:
    spins = _Spins(group, settings.acquisition)
    if settings.sequence == "steam":
        density = spins.stimulated_echo(settings.delays, settings.mixing_time or 0.0)
    else:
        density = spins.spin_echoes(settings.delays)
    return spins.acquire(density, settings.points, settings.dwell_time)


class _Spins:
    """Operators of one spin group in the eigenbasis of its Hamiltonian (states are spin bits)."""

    def __init__(self, group: SpinGroup, acquisition: Acquisition) -> None:
        self._pulsed = [n == acquisition.nucleus for n in group.nuclei]
        self._seen = [group.sees(i, acquisition.nucleus) for i in range(len(group.nuclei))]
        self._levels, self._states = np.linalg.eigh(_hamiltonian(group, acquisition))
        moments = _moments(len(group.nuclei))
        self._order = moments[:, self._pulsed].sum(axis=1)

    def spin_echoes(self, delays: Sequence[float]) -> NDArray[np.complex128]:
        """Excite to Fx, then evolve through the delays with a 180 about x between each two."""
        refocus = self._pulse(_rotation_x(np.pi))
        density = self._evolve(self._fx(self._pulsed), delays[0])
        for delay in delays[1:]:
            density = self._evolve(refocus @ density @ refocus.conj().T, delay)
        return density

    def stimulated_echo(
        self, halves: Sequence[float], mixing_time: float
    ) -> NDArray[np.complex128]:
        """Orders +1, 0, -1 of three 90s about y, times -2: the echo is half and inverted."""
        pulse = self._pulse(_rotation_y(np.pi / 2))
        density = self._evolve(self._keep_order(self._fx(self._pulsed), 1), halves[0])
        density = self._keep_order(pulse @ density @ pulse.conj().T, 0)
        density = self._evolve(density, mixing_time)
        return -2 * self._evolve(pulse @ density @ pulse.conj().T, halves[1])

    def acquire(
        self, density: NDArray[np.complex128], points: int, dwell_time: float
    ) -> NDArray[np.complex128]:
        """FID ``(time,)`` seen by F+, so that a spin at +f Hz turns as exp(+2*pi*i*f*t)."""
        raising = self._fx(self._seen) + 1j * self._fy(self._seen)
        amplitudes = density * raising.T * (4 / len(self._levels))
        keep = np.abs(amplitudes) > 1e-12
        frequencies = (self._levels[None, :] - self._levels[:, None])[keep]
        return _sum_of_lines(amplitudes[keep], frequencies, points, dwell_time)

    def _evolve(self, density: NDArray[np.complex128], delay: float) -> NDArray[np.complex128]:
        phases = np.exp(-2j * np.pi * self._levels * delay)
        return density * np.outer(phases, phases.conj())

    def _keep_order(self, density: NDArray[np.complex128], order: int) -> NDArray[np.complex128]:
        product = self._states @ density @ self._states.T
        product *= np.isclose(self._order[:, None] - self._order[None, :], order)
        return self._states.T @ product @ self._states

    def _pulse(self, rotation: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """A pulse on every spin of the nucleus; others are left as they are."""
        whole = np.eye(1, dtype=complex)
        for pulsed in self._pulsed:
            whole = np.kron(whole, rotation if pulsed else np.eye(2))
        return self._states.T @ whole @ self._states

    def _fx(self, spins: Sequence[bool]) -> NDArray[np.complex128]:
        return self._sum_operator(np.array([[0, 0.5], [0.5, 0]]), spins)

    def _fy(self, spins: Sequence[bool]) -> NDArray[np.complex128]:
        return self._sum_operator(np.array([[0, -0.5j], [0.5j, 0]]), spins)

    def _sum_operator(self, single: NDArray[Any], spins: Sequence[bool]) -> NDArray[np.complex128]:
        size = len(self._levels)
        total = np.zeros((size, size), complex)
        for spin, counts in enumerate(spins):
            if counts:
                left, right = np.eye(2**spin), np.eye(size // 2 ** (spin + 1))
                total += np.kron(np.kron(left, single), right)
        return self._states.T @ total @ self._states


def _moments(spins: int) -> NDArray[np.float64]:
    """+1/2 or -1/2 of each spin in each product state, ``(state, spin)``; the first spin leads."""
    states = np.arange(2**spins)[:, None]
    bits = (states >> np.arange(spins)[::-1]) & 1
    return 0.5 - bits.astype(np.float64)


def _hamiltonian(group: SpinGroup, acquisition: Acquisition) -> NDArray[np.float64]:
    """Shifts and couplings in Hz, ``(state, state)``, pairs of the nucleus coupled strongly."""
    moments = _moments(len(group.nuclei))
    ours = np.array([n == acquisition.nucleus for n in group.nuclei])
    offsets = np.where(ours, acquisition.frequency_of(group.shifts_ppm), 0.0)
    energy = moments @ offsets
    flips = np.zeros((len(energy), len(energy)))
    states = np.arange(len(energy))
    for i, j, coupling in group.couplings_hz:
        energy = energy + coupling * moments[:, i] * moments[:, j]
        if ours[i] and ours[j]:
            opposite = states[moments[:, i] != moments[:, j]]
            both = (1 << (len(ours) - 1 - i)) | (1 << (len(ours) - 1 - j))
            flips[opposite, opposite ^ both] += coupling / 2
    return np.diag(energy) + flips


def _sum_of_lines(
    amplitudes: NDArray[np.complex128],
    frequencies: NDArray[np.float64],
    points: int,
    dwell_time: float,
) -> NDArray[np.complex128]:
    # exp(2*pi*i*f*(q*stride + r)*dt) is a product of a coarse and a fine factor, so the sum over
    # thousands of transitions is one matrix product and few exponentials.
    stride = math.isqrt(points) + 1
    step = 2j * np.pi * dwell_time * frequencies
    coarse = np.exp(np.outer(np.arange(stride) * stride, step)) * amplitudes
    fine = np.exp(np.outer(step, np.arange(stride)))
    return (coarse @ fine).ravel()[:points]


def _rotation_x(angle: float) -> NDArray[np.complex128]:
    cosine, sine = math.cos(angle / 2), math.sin(angle / 2)
    return np.array([[cosine, -1j * sine], [-1j * sine, cosine]])


def _rotation_y(angle: float) -> NDArray[np.complex128]:
    cosine, sine = math.cos(angle / 2), math.sin(angle / 2)
    return np.array([[cosine, -sine], [sine, cosine]], dtype=complex)


def _require(name: str, value: float, wanted: str, holds: bool) -> None:
    if not (holds and math.isfinite(value)):
        raise InputError(f"{name}: found {value!r}, expected {wanted}")
