"""Parametric macromolecules (MM) and lipids as columns of a basis.

Their lines stand in the table of the nucleus with their sources: a pattern measured as a whole at
3 T, and single components, sharper in ppm at high field. Any line of the latter may be Lorentzian
instead of Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus
from mrsi_engine.nuclei.nuclei import Line, Macromolecules
from mrsi_engine.spectra.basis import Basis

MacromoleculeModel = Literal["none", "pattern", "lines"]
LineShape = Literal["gaussian", "lorentzian"]

_Envelope = Callable[[float, NDArray[np.float64]], NDArray[np.float64]]


def macromolecule_pattern(
    acquisition: Acquisition, *, delay: float = 0.0
) -> NDArray[np.complex128]:
    """The whole macromolecule signal of a 3 T brain as one FID, ``(time,)``.

    Parameters
    ----------
    acquisition
        Axis to make it for.
    delay
        From the excitation to the first sample where no echo refocuses the shift, s.

    Raises
    ------
    InputError
        If the spectrometer frequency is not one of 3 T, where the widths were measured.
    """
    return np.sum(list(pattern_lines(acquisition, delay=delay).values()), axis=0)


def pattern_lines(
    acquisition: Acquisition, *, delay: float = 0.0
) -> dict[str, NDArray[np.complex128]]:
    """The lines of :func:`macromolecule_pattern` one by one, ``(time,)`` each: ``MM3.94``...

    Raises
    ------
    InputError
        If the spectrometer frequency is not one of 3 T, where the widths were measured.
    """
    pattern, frequency = _table(acquisition).pattern, acquisition.spectrometer_frequency
    if not pattern.holds_at(frequency):
        raise InputError(
            f"macromolecules: the pattern was measured at {pattern.frequency} MHz (3 T), this is "
            f"{frequency:.1f} MHz; use the model 'lines' or a measured macromolecule basis"
        )
    return {
        f"MM{line.ppm:.2f}": _lines_fid((line,), acquisition, delay, _lorentzian)
        for line in pattern.scaled
    }


def macromolecule_lines(
    acquisition: Acquisition,
    *,
    lipids: bool = False,
    delay: float = 0.0,
    shape: LineShape = "gaussian",
) -> dict[str, NDArray[np.complex128]]:
    """Macromolecules, and lipids on request, as one FID ``(time,)`` a component.

    Parameters
    ----------
    acquisition
        Axis to make them for.
    lipids
        Whether to add Lip09, Lip13a, Lip13b and Lip20.
    delay
        From the excitation to the first sample where no echo refocuses the shift, s.
    shape
        Of every line; the widths are the same.
    """
    table = macromolecule_table(acquisition, lipids=lipids)
    envelope = {"gaussian": _gaussian, "lorentzian": _lorentzian}[shape]
    return {name: _lines_fid(lines, acquisition, delay, envelope) for name, lines in table.items()}


def macromolecule_table(
    acquisition: Acquisition, *, lipids: bool = False
) -> dict[str, tuple[Line, ...]]:
    """Lines of each macromolecule, and lipid on request, at the field of an acquisition.

    Raises
    ------
    InputError
        If spectra of its nucleus have none.
    """
    known = _table(acquisition)
    pattern = known.pattern.scaled
    table = known.columns | {n: tuple(pattern[i] for i in at) for n, at in known.of_pattern.items()}
    table |= known.lipid_columns if lipids else {}
    if acquisition.spectrometer_frequency <= known.sharp_above:
        return table
    ratio = known.pattern.frequency / known.sharp_frequency
    return {
        name: known.sharp_columns.get(name) or tuple(_sharper(line, ratio) for line in lines)
        for name, lines in table.items()
    }


def _table(acquisition: Acquisition) -> Macromolecules:
    found = nucleus(acquisition.nucleus).macromolecules
    if found is None:
        raise InputError(
            f"macromolecules: no lines are known for {acquisition.nucleus}; set the macromolecule "
            "model to none, or give a basis that holds them"
        )
    return found


def _sharper(line: Line, ratio: float) -> Line:
    """A line that is as wide in Hz as at the field of the pattern."""
    return line.model_copy(update={"fwhm": line.fwhm * ratio})


def with_macromolecules(
    basis: Basis,
    model: MacromoleculeModel = "pattern",
    *,
    lipids: bool = False,
    shape: LineShape = "gaussian",
) -> Basis:
    """The basis with macromolecule columns appended, in protons as the metabolites are.

    Parameters
    ----------
    basis
        A basis of metabolites. Where its sequence is ``"fid"``, its echo time is the acquisition
        delay and the lines carry the phase they gain in it.
    model
        ``"pattern"`` adds one column ``MM``, ``"lines"`` one a component (``MM09``, ``MM12``...),
        ``"none"`` nothing.
    lipids
        Whether to add the lipid columns as well.
    shape
        Of the lines of ``"lines"`` and of lipids; the pattern is Lorentzian as it was measured.

    Raises
    ------
    InputError
        If the model is unknown, the basis already has what is to be added, or the pattern is
        asked for at a field it was not measured at.
    """
    if model not in ("none", "pattern", "lines"):
        raise InputError(
            f"macromolecules: model {model!r} is unknown; choose none, pattern or lines"
        )
    if model == "none" and not lipids:
        return basis
    is_lipid = basis.nucleus.is_lipid
    twice = [n for n in basis.macromolecules if (lipids if is_lipid(n) else model != "none")]
    if twice:
        raise InputError(
            f"{basis.source}: the basis already has {twice}; set the macromolecule model to none, "
            "or leave those columns out"
        )
    acquisition = basis.acquisition
    delay = (acquisition.echo_time or 0.0) if basis.sequence == "fid" else 0.0
    columns = macromolecule_lines(acquisition, lipids=lipids, delay=delay, shape=shape)
    if model != "lines":
        columns = {name: fid for name, fid in columns.items() if is_lipid(name)}
    if model == "pattern":
        columns = {"MM": macromolecule_pattern(acquisition, delay=delay), **columns}
    return basis.extended(columns, np.stack(list(columns.values())))


def _lines_fid(
    lines: tuple[Line, ...], acquisition: Acquisition, delay: float, envelope: _Envelope
) -> NDArray[np.complex128]:
    total = np.zeros(acquisition.points, complex)
    for line in lines:
        turn = 2j * np.pi * acquisition.frequency_of(line.ppm)
        width = line.fwhm * acquisition.spectrometer_frequency
        carrier = line.amplitude * np.exp(turn * (acquisition.time + delay))
        total += carrier * envelope(width, acquisition.time)
    return total


def _lorentzian(fwhm: float, time: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.pi * fwhm * time)


def _gaussian(fwhm: float, time: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-((np.pi * fwhm * time) ** 2) / (4 * np.log(2)))
