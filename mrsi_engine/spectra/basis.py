"""A basis set: what one unit of each metabolite looks like in this acquisition."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.late_start import at_times
from mrsi_engine.nuclei import Nucleus, nucleus
from mrsi_engine.spectra.landmarks import check_landmarks, sightings
from mrsi_engine.spectra.sequences import sequence_family

#: How far (s) echo times may lie apart: the strongest couplings of protons (16 Hz) turn by three
#: degrees in it, which changes no amplitude by more than 5 %. LCModel warns from 3 ms on.
ECHO_TIME_TOLERANCE = 1e-3

#: Parts of a dwell time by which two first samples may lie apart and be the same, and dwell times
#: that a FID is continued backwards.
_SAME_START, _MOST_PREDICTED = 1e-4, 2.0

#: Steps below the largest sample of a metabolite that tell two bases apart.
_SEEN = 2.0**20


@dataclass(frozen=True, eq=False)
class Basis:
    """FIDs of one unit of each metabolite, in the conventions of :mod:`mrsi_engine.conventions`.

    Parameters
    ----------
    names
        Canonical metabolite names, unique.
    fids
        ``(metabolite, time)`` complex128.
    acquisition
        Axis and sequence timing the FIDs were made for.
    sequence
        E.g. ``"press"``; ``None`` where the source does not say.
    source
        File or simulation the basis came from, for messages and provenance.
    notes
        What was assumed or changed on the way in, sentences for sidecars and reports.

    Raises
    ------
    InputError
        If names repeat, shapes disagree or a FID holds NaN, Inf or only zeros.
    """

    names: tuple[str, ...]
    fids: NDArray[np.complex128]
    acquisition: Acquisition
    sequence: str | None = None
    source: str = "memory"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.fids.shape != (len(self.names), self.acquisition.points):
            raise InputError(
                f"{self.source}: FIDs have shape {self.fids.shape}, expected "
                f"({len(self.names)} metabolites, {self.acquisition.points} points)"
            )
        if not self.names:
            raise InputError(f"{self.source}: the basis holds no metabolite")
        repeated = sorted({n for n in self.names if self.names.count(n) > 1})
        if repeated:
            raise InputError(f"{self.source}: metabolites stand more than once: {repeated}")
        for name, fid in zip(self.names, self.fids, strict=True):
            if not np.isfinite(fid).all():
                raise InputError(f"{self.source}: {name} holds NaN or Inf; export the basis again")
            if not fid.any():
                raise InputError(f"{self.source}: {name} is all zero; export the basis again")

    @property
    def nucleus(self) -> Nucleus:
        """What is known of the basis' nucleus: names, sums, landmarks."""
        return nucleus(self.acquisition.nucleus)

    @property
    def metabolites(self) -> tuple[str, ...]:
        """Names that are neither macromolecules nor lipids."""
        return tuple(n for n in self.names if not self.nucleus.is_macromolecule(n))

    @property
    def macromolecules(self) -> tuple[str, ...]:
        """Names that are macromolecules or lipids."""
        return tuple(n for n in self.names if self.nucleus.is_macromolecule(n))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, axis and samples: two bases that fit alike share it.

        Samples count to 20 bits below the largest of their metabolite. A basis that two machines
        simulate, or one with another number of threads, differs in the last of 52, and is the same.
        """
        digest = hashlib.sha256()
        digest.update("\0".join(self.names).encode())
        a = self.acquisition
        axis = (a.points, a.dwell_time, a.spectrometer_frequency, a.reference_ppm)
        digest.update(repr(axis if a.start_time == 0 else (*axis, a.start_time)).encode())
        largest = np.abs(self.fids).max(axis=1, initial=0.0, keepdims=True)
        samples = self.fids / np.where(largest > 0, largest, 1.0) * _SEEN
        digest.update(" ".join(f"{value:.6g}" for value in largest.flat).encode())
        digest.update(np.rint(np.stack([samples.real, samples.imag])).astype(np.int32).tobytes())
        return digest.hexdigest()

    def __getitem__(self, name: str) -> NDArray[np.complex128]:
        """FID of one metabolite, ``(time,)``."""
        return self.fids[self.names.index(self.nucleus.canonical_name(name))]

    def select(self, keep: Iterable[str]) -> Basis:
        """The basis of the named metabolites, in this basis' order.

        Raises
        ------
        InputError
            If a name is not in the basis.
        """
        wanted = {self.nucleus.canonical_name(n) for n in keep}
        missing = sorted(wanted - set(self.names))
        if missing:
            raise InputError(f"{self.source}: no metabolite {missing}; it has {list(self.names)}")
        index = [i for i, n in enumerate(self.names) if n in wanted]
        return replace(self, names=tuple(self.names[i] for i in index), fids=self.fids[index])

    def extended(self, names: Iterable[str], fids: NDArray[np.complex128]) -> Basis:
        """The basis with columns appended, e.g. parametric macromolecules."""
        stacked = np.concatenate([self.fids, np.asarray(fids, dtype=complex)])
        return replace(self, names=(*self.names, *names), fids=stacked)

    def scaled(self, factor: float) -> Basis:
        """The basis with every FID multiplied by a number."""
        return replace(self, fids=self.fids * factor)

    def landmarks(self) -> dict[str, float]:
        """Where the known singlets of the basis stand, ppm, by name."""
        seen = sightings(self.names, self.fids, self.acquisition)
        return {sighting.mark.name: sighting.near for sighting in seen}

    def check(self) -> Basis:
        """This basis, once its landmarks are known to lie where they should.

        See :func:`mrsi_engine.spectra.landmarks.check_landmarks`; a basis without any is not
        checked.

        Raises
        ------
        InputError
            If they do not: names where they lie and how to state it.
        """
        check_landmarks(self.names, self.fids, self.acquisition, self.source)
        return self

    def conjugated(self) -> Basis:
        """The basis with its frequency axis turned round, for files that store the other sign."""
        return replace(self, fids=self.fids.conj())

    def check_timing(self, scan: Acquisition, sequence: str | None = None) -> None:
        """Raise unless echo time and sequence are the scan's, as far as both are known.

        Parameters
        ----------
        scan
            Whose echo time counts; more than 1 ms apart is another one.
        sequence
            As the scan's header calls it; families of sequences are compared.

        Raises
        ------
        InputError
            If they differ: names both, the simulated basis that fits, and how to accept it.
        """
        found = self._timing_mismatch(scan, sequence)
        if found:
            raise InputError(
                f"{self.source}: {found}. Coupled spins look different then, and their amplitudes "
                f"would be wrong: take a basis for the scan{self._advice(scan, sequence)}, or "
                "accept this one with --basis-te-mismatch allow"
            )

    def accepted_for(self, scan: Acquisition, sequence: str | None = None) -> Basis:
        """This basis, taken in spite of another echo time or sequence, which a note says.

        Its own then count as unknown, so that :meth:`matched_to` takes it.
        """
        found = self._timing_mismatch(scan, sequence)
        if not found:
            return self
        note = f"basis: {found}; accepted with --basis-te-mismatch allow"
        acquisition = replace(self.acquisition, echo_time=None)
        return replace(self, acquisition=acquisition, notes=(*self.notes, note))

    def _timing_mismatch(self, scan: Acquisition, sequence: str | None) -> str:
        own, other = self.acquisition.echo_time, scan.echo_time
        if self.sequence == "fid" and own and other:
            # Headers may split the time from the excitation to the first sample as they like.
            own, other = own + self.acquisition.start_time, other + scan.start_time
        if own and other and abs(own - other) > ECHO_TIME_TOLERANCE:
            return f"it is for an echo time of {1e3 * own:g} ms, the scan has {1e3 * other:g} ms"
        families = sequence_family(self.sequence), sequence_family(sequence)
        if None not in families and families[0] != families[1]:
            return f"it is for {families[0]}, the scan's sequence is {sequence!r}"
        return ""

    def _advice(self, scan: Acquisition, sequence: str | None) -> str:
        """The name of the simulated basis that fits; nothing for other nuclei."""
        echo_time = scan.echo_time or self.acquisition.echo_time
        if scan.nucleus != "1H" or not echo_time:
            return ""
        known = [sequence_family(name) for name in (sequence, self.sequence)]
        family = next((f for f in known if f in ("press", "slaser", "steam", "fid")), "press")
        tesla = round(self.nucleus.field(scan.spectrometer_frequency) * 2) / 2
        return f", e.g. --basis {family}-{tesla:g}t-te{1e3 * echo_time:g}"

    def check_nucleus(self, symbol: str) -> None:
        """Raise unless the basis is of the nucleus of a scan.

        Raises
        ------
        InputError
            If it is of another.
        """
        if self.acquisition.nucleus != symbol:
            raise InputError(
                f"{self.source}: the basis is of {self.acquisition.nucleus}, the scan of {symbol}"
            )

    def matched_to(self, scan: Acquisition) -> Basis:
        """This basis on the dwell time, first sample, length and reference of a scan.

        A reference that differs is a shift in Hz. Times of a FID without echo count from the
        excitation: the delay that such a basis holds already is part of its echo time.

        Raises
        ------
        InputError
            If the basis was made for another nucleus, frequency (beyond 1 %) or echo time (beyond
            1 ms, where both are known), begins later than the scan's FIDs or is shorter.
        """
        own = self.acquisition
        self.check_nucleus(scan.nucleus)
        deviation = own.spectrometer_frequency / scan.spectrometer_frequency - 1
        if abs(deviation) > 0.01:
            raise InputError(
                f"{self.source}: the basis is for {own.spectrometer_frequency:.3f} MHz, the scan "
                f"has {scan.spectrometer_frequency:.3f} MHz; take or simulate one for that field"
            )
        self.check_timing(scan)
        echo_time = self._own_echo_time(scan)
        later = scan.start_time - own.start_time
        if echo_time is not None and own.echo_time is not None:
            later += echo_time - own.echo_time
        self._check_reach(scan, later)
        fids = _resample(self.fids, own, scan, later)
        fids *= np.exp(2j * np.pi * _reference_shift(own, scan) * scan.time)
        return replace(
            self,
            fids=fids,
            acquisition=replace(scan, echo_time=echo_time, repetition_time=own.repetition_time),
        )

    def _own_echo_time(self, scan: Acquisition) -> float | None:
        """The echo time that these FIDs have on the scan's axis, s.

        A FID basis evolves from the excitation on, so that it can be had at a scan's own time from
        the excitation to its time zero, where the scan states one.
        """
        own = self.acquisition
        if self.sequence != "fid" or own.echo_time is None:
            return own.echo_time
        if scan.echo_time:
            return scan.echo_time
        # A start of its own that no echo time stands beside counts from the excitation.
        return 0.0 if scan.start_time > 0 else own.echo_time

    def _check_reach(self, scan: Acquisition, later: float) -> None:
        own = self.acquisition
        if later < -_MOST_PREDICTED * own.dwell_time:
            of_basis, of_scan = (
                f"{1e3 * a.start_time:g} ms after time zero"
                + ("" if a.echo_time is None else f" (echo time {1e3 * a.echo_time:g} ms)")
                for a in (own, scan)
            )
            raise InputError(
                f"{self.source}: the basis begins {of_basis}, {-1e3 * later:.3g} ms later than the "
                f"scan's FIDs, which begin {of_scan}; take a basis that begins at time zero"
            )
        missing = later + scan.duration - own.duration
        if missing > 2 * max(own.dwell_time, scan.dwell_time):
            begins = f" and begin {later * 1e3:.1f} ms later" if later > 0 else ""
            raise InputError(
                f"{self.source}: the basis lasts {own.duration * 1e3:.1f} ms "
                f"({own.points} points), the scan's FIDs {scan.duration * 1e3:.1f} ms{begins}; "
                "take a longer basis or cut the scan with --points"
            )


def compare_bases(
    first: Basis,
    second: Basis,
    *,
    window: tuple[float, float] = (0.2, 4.2),
    broadening: float = 0.0,
) -> dict[str, float]:
    """How alike two bases are, metabolite by metabolite.

    The magnitude of the normalised complex correlation of the spectra inside the window: 1 for
    the same shape whatever its scale and zero-order phase. One Lorentzian width for all
    metabolites is first added to the sharper basis, the one that makes the mean largest.

    Parameters
    ----------
    first, second
        The bases; metabolites that only one of them has are left out.
    window
        Chemical shifts between which they are compared, ppm.
    broadening
        Lorentzian width added to both, Hz, e.g. to compare them as they look in vivo.

    Raises
    ------
    InputError
        If they are for different nuclei or frequencies, or share no metabolite.
    """
    shared = [name for name in first.names if name in second.names]
    if not shared:
        raise InputError(f"{first.source} and {second.source} have no metabolite in common")
    own, other = first.acquisition, second.acquisition
    points = min(own.points, int(other.duration / own.dwell_time))
    axis = replace(own.with_points(points), start_time=max(own.start_time, other.start_time))
    pair = [np.stack([b.matched_to(axis)[name] for name in shared]) for b in (first, second)]
    for fids in pair:
        fids *= np.exp(-np.pi * broadening * axis.time)
    inside = (axis.ppm > min(window)) & (axis.ppm < max(window))

    def correlations(width: float) -> NDArray[np.float64]:
        widths = (max(width, 0.0), max(-width, 0.0))
        a, b = (
            axis.spectrum(fids * np.exp(-np.pi * w * axis.time))[:, inside]
            for fids, w in zip(pair, widths, strict=True)
        )
        product = np.abs((a.conj() * b).sum(axis=1))
        return product / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))

    best = minimize_scalar(lambda w: -correlations(w).mean(), bounds=(-10, 10), method="bounded")
    return dict(zip(shared, correlations(best.x).tolist(), strict=True))


def _reference_shift(own: Acquisition, scan: Acquisition) -> float:
    """Hz that bring a peak from its place in the basis to its place in the scan."""
    return (scan.reference_ppm - own.reference_ppm) * scan.spectrometer_frequency


def _resample(
    fids: NDArray[np.complex128], own: Acquisition, scan: Acquisition, later: float
) -> NDArray[np.complex128]:
    """FIDs at the scan's samples, the first of which is ``later`` s after their own first."""
    skipped = later / own.dwell_time
    alike = math.isclose(own.dwell_time, scan.dwell_time, rel_tol=1e-6)
    if alike and round(skipped) >= 0 and abs(skipped - round(skipped)) <= _SAME_START:
        kept = fids[:, round(skipped) :][:, : scan.points]
        return np.pad(kept, ((0, 0), (0, scan.points - kept.shape[1])))
    # Brought to the middle of the metabolites a FID turns slowly from sample to sample, so a
    # spline of high order is exact to 1e-6 and, unlike a Fourier series, does not ring at t = 0.
    times = later + np.arange(scan.points, dtype=np.float64) * scan.dwell_time
    own_times = np.arange(own.points, dtype=np.float64) * own.dwell_time
    middle = float(own.frequency_of(nucleus(own.nucleus).windows.middle))
    return at_times(fids, own_times, middle, times)
