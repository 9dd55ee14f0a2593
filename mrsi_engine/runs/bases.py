"""The basis a user named: of a file, or simulated for the scan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mrsi_engine.choices import TimingMismatch
from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_cache import cached_basis
from mrsi_engine.io.basis_files import read_basis
from mrsi_engine.io.places import place
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.spectra.simulation import BASIS_NAME_FORM, parse_basis_name

#: Echo time (s) from which macromolecules have decayed and are not added to a simulated basis.
_LONG_ECHO = 0.1


@dataclass(frozen=True)
class BasisChoice:
    """A basis by file, folder or name, what a file does not say, and what may differ."""

    source: str
    reference_ppm: float | None = None
    conjugate: bool = False
    te_mismatch: TimingMismatch = "refuse"


def basis_for(own: str | None, shared: BasisChoice | None) -> BasisChoice | None:
    """The basis of a scan of several: how to read that of all says nothing of one of its own."""
    if own is None:
        return shared
    return BasisChoice(own, te_mismatch="refuse" if shared is None else shared.te_mismatch)


def load_basis(choice: BasisChoice, acquisition: Acquisition, sequence: str | None = None) -> Basis:
    """The basis a user named for a scan: a file, a folder, or the name of a simulated one.

    A simulated basis is made for the scan's axis, once, and has macromolecules: the measured
    pattern at 3 T, single lines at other fields, none at echo times of 100 ms or more or of a
    nucleus whose spectra have none.

    Parameters
    ----------
    acquisition
        Of the scan.
    sequence
        As the scan's header calls it, where it does.

    Raises
    ------
    InputError
        If there is no such file and the name is not of a simulated basis, the basis is wrong, or
        something is said of a simulated basis that only a file can leave open; if it is for
        another echo time or sequence than the scan's and that was not allowed.
    """
    basis = _read_or_simulated(choice, acquisition)
    if sequence is None and basis.sequence is not None:
        note = f"basis: for {basis.sequence}; the header states no SequenceName to compare it with"
        basis = replace(basis, notes=(*basis.notes, note))
    if choice.te_mismatch == "allow":
        return basis.accepted_for(acquisition, sequence)
    basis.check_timing(acquisition, sequence)
    return basis


def _read_or_simulated(choice: BasisChoice, acquisition: Acquisition) -> Basis:
    if not place(choice.source).exists():
        settings = parse_basis_name(choice.source)
        if settings is None:
            raise InputError(
                f"{choice.source}: no such basis file or folder, and not the name of a simulated "
                f"basis ({BASIS_NAME_FORM})"
            )
        if choice.reference_ppm is not None or choice.conjugate:
            raise InputError(
                f"{choice.source}: a simulated basis knows its reference and its frequency axis; "
                "leave out --basis-reference and --basis-conjugate"
            )
        return with_default_macromolecules(cached_basis(settings.for_scan(acquisition)))
    return read_basis(
        choice.source,
        reference_ppm=choice.reference_ppm,
        conjugate=choice.conjugate,
        symbol=acquisition.nucleus,
    )


def with_default_macromolecules(basis: Basis) -> Basis:
    """A simulated basis with the macromolecules its field and echo time call for."""
    echo_time = basis.acquisition.echo_time or 0.0
    decayed = basis.sequence != "fid" and echo_time >= _LONG_ECHO
    known = basis.nucleus.macromolecules
    if known is None or basis.macromolecules or decayed:
        return basis
    measured = known.pattern.holds_at(basis.acquisition.spectrometer_frequency)
    return with_macromolecules(basis, "pattern" if measured else "lines")


def own_axis(choice: BasisChoice) -> Acquisition:
    """The axis that a basis has when no scan says otherwise."""
    named = None if place(choice.source).exists() else parse_basis_name(choice.source)
    if named is not None:
        return named.acquisition
    return read_basis(
        choice.source, reference_ppm=choice.reference_ppm, conjugate=choice.conjugate
    ).acquisition
