"""Parametric macromolecules (MM) and lipids as columns of a basis.

Tables of measured lines ship here. ``PATTERN_3T``: 18 Lorentzian lines, the AMARES
parametrisation of the macromolecule signal of the ISMRM 2016 fitting challenge used by Shamaei et
al. (Comput Biol Med 2023;158:106837), fitted at 3 T. Its published offsets count from 4.7 ppm;
read so, its peaks stand at the literature's 0.92, 1.21, 1.39, 2.04, 2.26, 2.99 and 3.21 ppm
(Cudalbu et al., NMR Biomed 2021;34:e4393). ``LINES``: the Gaussian MM and lipid components that
LCModel simulates by default (Provencher, LCModel manual, section 11.7), with the lines between 3
and 4 ppm that it lacks taken from ``PATTERN_3T``. Above 190 MHz (7 T) they have the widths that
LCModel 6.3 takes there, a third of those at 3 T in ppm; any line may be Lorentzian instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.spectra.basis import Basis

MacromoleculeModel = Literal["none", "pattern", "lines"]
LineShape = Literal["gaussian", "lorentzian"]

_Envelope = Callable[[float, NDArray[np.float64]], NDArray[np.float64]]

_PATTERN_MHZ = 123.23
_PATTERN_TOLERANCE = 0.06
_SHARPER_ABOVE_MHZ, _SEVEN_TESLA_MHZ = 190.0, 298.0


@dataclass(frozen=True)
class Line:
    """One line: position (ppm), full width at half maximum (ppm), amplitude (protons)."""

    ppm: float
    fwhm: float
    amplitude: float


# (ppm, FWHM in Hz at 123.23 MHz, amplitude as published)
_AMARES = (
    (3.936, 7.39, 0.314),
    (3.854, 10.6, 1.30),
    (3.717, 14.9, 1.62),
    (3.590, 16.6, 1.50),
    (3.170, 11.3, 0.678),
    (2.980, 12.9, 2.25),
    (2.830, 19.1, 0.674),
    (2.580, 21.4, 1.43),
    (2.290, 31.7, 4.29),
    (2.030, 23.9, 8.10),
    (1.760, 23.1, 1.48),
    (1.460, 15.6, 1.85),
    (1.610, 19.1, 2.85),
    (1.370, 12.0, 1.52),
    (1.290, 11.4, 0.877),
    (1.200, 13.5, 1.15),
    (0.960, 12.0, 1.60),
    (0.880, 10.8, 2.21),
)

# The pair at 0.88 and 0.96 ppm is MM09: three protons, as LCModel counts it.
_PROTONS = 3.0 / (1.60 + 2.21)

PATTERN_3T = tuple(Line(p, width / _PATTERN_MHZ, a * _PROTONS) for p, width, a in _AMARES)

#: Columns of the ``"lines"`` model.
MACROMOLECULE_LINES: dict[str, tuple[Line, ...]] = {
    "MM09": (Line(0.91, 0.14, 3.0),),
    "MM12": (Line(1.21, 0.15, 2.0),),
    "MM14": (Line(1.43, 0.17, 2.0),),
    "MM17": (Line(1.67, 0.15, 2.0),),
    "MM20": (
        Line(2.08, 0.15, 1.33),
        Line(2.25, 0.20, 0.33),
        Line(1.95, 0.15, 0.33),
        Line(3.00, 0.20, 0.40),
    ),
    "MM32": PATTERN_3T[4:5],
    "MM36": PATTERN_3T[3:4],
    "MM38": PATTERN_3T[0:3],
}

#: Mobile lipids, as columns of their own.
LIPID_LINES: dict[str, tuple[Line, ...]] = {
    "Lip09": (Line(0.89, 0.14, 3.0),),
    "Lip13a": (Line(1.28, 0.15, 2.0),),
    "Lip13b": (Line(1.28, 0.089, 2.0),),
    "Lip20": (Line(2.04, 0.15, 1.33), Line(2.25, 0.15, 0.67), Line(2.80, 0.20, 0.87)),
}


#: Both at high field, where lines are sharper in ppm.
_SHARPER: dict[str, tuple[Line, ...]] = {
    "MM09": (Line(0.91, 0.05, 3.0),),
    "MM12": (Line(1.21, 0.05, 2.0),),
    "MM14": (Line(1.43, 0.06, 2.0),),
    "MM17": (Line(1.67, 0.05, 2.0),),
    "MM20": (
        Line(2.08, 0.05, 1.33),
        Line(2.25, 0.07, 0.33),
        Line(1.95, 0.05, 0.33),
        Line(3.00, 0.07, 0.40),
    ),
    "Lip09": (Line(0.89, 0.05, 3.0),),
    "Lip13a": (Line(1.28, 0.05, 2.0),),
    "Lip13b": (Line(1.28, 0.029, 2.0),),
    "Lip20": (Line(2.04, 0.05, 1.33), Line(2.25, 0.05, 0.67), Line(2.80, 0.07, 0.87)),
}


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
    frequency = acquisition.spectrometer_frequency
    if abs(frequency / _PATTERN_MHZ - 1) > _PATTERN_TOLERANCE:
        raise InputError(
            f"macromolecules: the pattern was measured at {_PATTERN_MHZ} MHz (3 T), this is "
            f"{frequency:.1f} MHz; use the model 'lines' or a measured macromolecule basis"
        )
    return {
        f"MM{line.ppm:.2f}": _lines_fid((line,), acquisition, delay, _lorentzian)
        for line in PATTERN_3T
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
    table = macromolecule_table(acquisition.spectrometer_frequency, lipids=lipids)
    envelope = {"gaussian": _gaussian, "lorentzian": _lorentzian}[shape]
    return {name: _lines_fid(lines, acquisition, delay, envelope) for name, lines in table.items()}


def macromolecule_table(frequency: float, *, lipids: bool = False) -> dict[str, tuple[Line, ...]]:
    """Lines of each macromolecule, and lipid on request, at a spectrometer frequency in MHz."""
    table = MACROMOLECULE_LINES | (LIPID_LINES if lipids else {})
    if frequency <= _SHARPER_ABOVE_MHZ:
        return table
    return {name: _SHARPER.get(name) or tuple(map(_sharper, table[name])) for name in table}


def _sharper(line: Line) -> Line:
    # Lines that are not in the table: as wide in Hz at 7 T as at 3 T.
    return Line(line.ppm, line.fwhm * _PATTERN_MHZ / _SEVEN_TESLA_MHZ, line.amplitude)


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
        columns = {name: fid for name, fid in columns.items() if name in LIPID_LINES}
    if model == "pattern":
        columns = {"MM": macromolecule_pattern(acquisition, delay=delay), **columns}
    return basis.extended(columns, np.stack(list(columns.values())))


def is_lipid(name: str) -> bool:
    """Whether a column is a lipid's."""
    return name.upper().startswith("LIP")


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
