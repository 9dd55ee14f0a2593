"""Tables of nuclei: reference, names and spellings, sums, landmarks, windows and bands.

A nucleus is one TOML file beside this one, named by its symbol (``31p.toml``); adding a file adds
the nucleus. Every number of a spectrum that depends on the nucleus stands there with its source,
and code asks the nucleus of its acquisition. Shifts are in ppm, ranges are (low, high).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from functools import cache, cached_property
from importlib import resources
from typing import Annotated, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mrsi_engine.errors import InputError

_TABLES = resources.files("mrsi_engine.nuclei")

_SEPARATORS = re.compile(r"[-_\s.,()\[\]/']+")


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError(f"a range is (low, high), found {value}")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_Found = TypeVar("_Found", bound=_Table)


class Sum(_Table):
    """A sum of metabolites that is reported as one because its parts overlap.

    ``label`` stands in file names (no ``+``), ``title`` in tables and figures.
    """

    label: str
    title: str
    members: tuple[str, ...]


class Landmark(_Table):
    """The line by which a metabolite's spectrum is recognised, the tallest it has.

    A line of a basis may lie ``tolerance`` from ``ppm``. ``spins`` is the number of observed nuclei
    a molecule that make it; 0 for a multiplet, whose height tells no amplitude.
    """

    name: str
    ppm: float
    tolerance: float = Field(gt=0)
    spins: int = Field(default=0, ge=0)


class Windows(_Table):
    """Ranges of the spectrum.

    Parameters
    ----------
    fit
        What is fitted unless a pipeline says otherwise.
    signal
        What holds signal; noise is measured outside it.
    shown, drawn
        What the report shows of spectra before the fit, and of fits whose window is not known.
    metabolites
        Where metabolites are seen best, whose change tells what a correction took from them.
    middle
        Middle of the metabolites: brought there, FIDs turn slowly.
    """

    fit: Range
    signal: Range
    shown: Range
    drawn: Range
    metabolites: Range
    middle: float


class Lines(_Table):
    """How lines lie in a spectrum that is measured without a fit.

    Parameters
    ----------
    within
        Where the tallest one is looked for.
    search
        How far from where it is expected a line may stand.
    foot
        From the tip of a line to its feet.
    drift
        Largest shift between two signals of a voxel.
    max_fwhm
        Full width at half height up to which a spectrum is of use.
    """

    within: Range
    search: float = Field(gt=0)
    foot: float = Field(gt=0)
    drift: float = Field(gt=0)
    max_fwhm: float = Field(gt=0)


class AlignmentLines(_Table):
    """What frequency and phase correction goes by.

    Parameters
    ----------
    line, line_window
        The line that frequency and phase are referred to, and what is fitted of it.
    singlets, singlets_window
        (ppm, usual relative height) of the lines that it is found among, and where they lie.
    template, pick, k_means, similarity
        Windows of the template's comparison, of the tallest line of the first template, of the
        choice by k-means, and of the similarity index.
    """

    line: float
    line_window: Range
    singlets: tuple[tuple[float, float], ...]
    singlets_window: Range
    template: Range
    pick: Range
    k_means: Range
    similarity: Range


class Water(_Table):
    """Water: where it stands, what is removed, where its residue is measured, where tails begin."""

    ppm: float
    band: Range
    residual: Range
    tails: Range


class Lipids(_Table):
    """Subcutaneous lipids.

    Parameters
    ----------
    band
        Where their lines stand.
    reach
        How far they reach beyond it.
    background, brain, lactate
        Where what is no lipid is modelled, where brain is seen without lipids, and lactate and
        alanine.
    ratio, ratio_to
        Where lipids, and what they are compared with, are measured to judge a voxel.
    simulated, tails
        Where simulated lipid lines lie, and the lines whose tails reach the metabolites.
    """

    band: Range
    reach: float = Field(gt=0)
    background: Range
    brain: Range
    lactate: Range
    ratio: Range
    ratio_to: Range
    simulated: Range
    tails: Range


class Line(_Table):
    """One line: position (ppm), full width at half maximum (ppm), amplitude (nuclei)."""

    ppm: float
    fwhm: float = Field(gt=0)
    amplitude: float


class Pattern(_Table):
    """A measured pattern of broad lines: (ppm, FWHM in Hz, amplitude) at ``frequency`` MHz.

    It holds within ``tolerance`` (relative) of the frequency. Amplitudes are multiplied so that
    the lines ``unit_lines`` together have ``unit`` nuclei.
    """

    frequency: float = Field(gt=0)
    tolerance: float = Field(gt=0)
    lines: tuple[tuple[float, float, float], ...]
    unit_lines: tuple[int, ...]
    unit: float = Field(gt=0)

    def holds_at(self, spectrometer_frequency: float) -> bool:
        """Whether the pattern stands for spectra at a frequency in MHz."""
        return abs(spectrometer_frequency / self.frequency - 1) <= self.tolerance

    @cached_property
    def scaled(self) -> tuple[Line, ...]:
        """The lines with widths in ppm and amplitudes in nuclei."""
        factor = self.unit / sum(self.lines[i][2] for i in self.unit_lines)
        return tuple(
            Line(ppm=ppm, fwhm=width / self.frequency, amplitude=amplitude * factor)
            for ppm, width, amplitude in self.lines
        )


class Macromolecules(_Table):
    """Broad lines of a spectrum: columns of macromolecules and mobile lipids by name.

    Parameters
    ----------
    pattern
        Measured as a whole.
    columns, lipid_columns
        Lines of each column, in ppm at 3 T.
    of_pattern
        Columns made of lines of the pattern, by their numbers.
    sharp_above
        Spectrometer frequency (MHz) above which ``sharp_columns`` hold; columns that are not
        there are then as wide in Hz at ``sharp_frequency`` as at that of the pattern.
    """

    pattern: Pattern
    columns: dict[str, tuple[Line, ...]]
    of_pattern: dict[str, tuple[int, ...]]
    lipid_columns: dict[str, tuple[Line, ...]]
    sharp_above: float
    sharp_frequency: float
    sharp_columns: dict[str, tuple[Line, ...]]


class Nucleus(_Table):
    """Everything that depends on the nucleus and on nothing else.

    Parameters
    ----------
    symbol
        As NIfTI-MRS writes it, e.g. ``"31P"``.
    gyromagnetic_ratio
        Over 2 pi, MHz/T; without sign.
    reference_ppm, reference
        Chemical shift at 0 Hz of a scan whose header does not say, and what stands there; ``None``
        where the header must say.
    basis_reference_ppm
        The same of a basis file.
    spectra
        What spectra of this nucleus are called, for messages: ``"proton"``.
    pipeline
        Ready-made pipeline for it; empty where there is none.
    names
        Canonical names with the other spellings that are known.
    sums
        Sums of metabolites that are reported.
    outliers
        Amplitudes by which a voxel is compared with the rest of the scan.
    principal
        Labels that figures show unless told otherwise.
    ratio_to
        What ratios are to unless told otherwise.
    landmarks
        Lines that say whether a basis lies right.
    landmark_search
        How far from a landmark its line is looked for, ppm.
    reference_peaks
        Landmarks that SNR and linewidth are read from: the first that basis and window have.
    unit_singlets
        Landmarks that the unit of a basis is read from, those that nothing overlaps first.
    patterns
        Strong patterns by which the start of a fit is found; members of one overlap.
    broad, lipid
        How names of columns of macromolecules or lipids begin, and those of lipids alone.
    simulated
        What a simulated basis holds unless told otherwise.
    creatine_ch2
        Where creatine's CH2 lies, where it may be fitted apart.
    windows, lines, alignment, water, lipids, macromolecules
        See there; ``None`` where spectra of this nucleus have no such thing.
    """

    symbol: str
    gyromagnetic_ratio: float = Field(gt=0)
    reference_ppm: float | None = None
    reference: str
    basis_reference_ppm: float | None = None
    spectra: str
    pipeline: str = ""
    names: dict[str, tuple[str, ...]]
    sums: tuple[Sum, ...] = ()
    outliers: tuple[str, ...] = ()
    principal: tuple[str, ...] = ()
    ratio_to: str
    landmarks: tuple[Landmark, ...]
    landmark_search: float = Field(gt=0)
    reference_peaks: tuple[str, ...]
    unit_singlets: tuple[str, ...] = ()
    patterns: tuple[tuple[str, ...], ...] = ()
    broad: tuple[str, ...] = ()
    lipid: tuple[str, ...] = ()
    simulated: tuple[str, ...] = ()
    creatine_ch2: Range | None = None
    windows: Windows
    lines: Lines
    alignment: AlignmentLines | None = None
    water: Water | None = None
    lipids: Lipids | None = None
    macromolecules: Macromolecules | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        spellings: dict[str, str] = {}
        for name, others in self.names.items():
            for spelling in map(_plain, (name, *others)):
                if spellings.setdefault(spelling, name) != name:
                    raise ValueError(f"{spelling!r} is {name} and {spellings[spelling]}")
        named = {mark.name for mark in self.landmarks}
        for field in ("reference_peaks", "unit_singlets"):
            if unknown := set(getattr(self, field)) - named:
                raise ValueError(f"{field}: {sorted(unknown)} are no landmarks")
        for one in (*named, *(m for s in self.sums for m in s.members), *self.simulated):
            if one not in self.names:
                raise ValueError(f"{one!r} is not among the names")
        return self

    @cached_property
    def _by_spelling(self) -> Mapping[str, str]:
        return {
            _plain(spelling): name
            for name, others in self.names.items()
            for spelling in (name, *others)
        }

    def canonical_name(self, name: str) -> str:
        """The one spelling of a metabolite used here; a name that is not known is kept as it is.

        Case and separators do not count: ``n-acetylaspartate``, ``N_AcetylAspartate`` and ``naa``
        are all ``NAA``.
        """
        stripped = name.strip()
        return self._by_spelling.get(_plain(stripped), stripped)

    def title_of(self, label: str) -> str:
        """What people read for a label: ``NAANAAG`` is ``tNAA``, others stand for themselves."""
        return next((s.title for s in self.sums if s.label == label), label)

    def label_of(self, title: str) -> str:
        """The label of a sum that people call so, ``CrPCr`` of ``tCr``; others as they are."""
        return next((s.label for s in self.sums if s.title == title), title)

    def sums_of(self, names: Collection[str]) -> tuple[Sum, ...]:
        """The sums whose members are all among the names."""
        return tuple(s for s in self.sums if set(s.members) <= set(names))

    def members_of(self, name: str) -> tuple[str, ...]:
        """Members of a sum by its label or title; any other name stands for itself."""
        found = (s.members for s in self.sums if name in (s.label, s.title))
        return next(found, (self.canonical_name(name),))

    def is_macromolecule(self, name: str) -> bool:
        """Whether a column belongs to macromolecules or lipids rather than to a metabolite."""
        return bool(self.broad) and name.upper().startswith(self.broad)

    def is_lipid(self, name: str) -> bool:
        """Whether a column is a lipid's."""
        return bool(self.lipid) and name.upper().startswith(self.lipid)

    def landmark(self, name: str) -> Landmark:
        """The landmark of a metabolite.

        Raises
        ------
        KeyError
            If it has none.
        """
        return {mark.name: mark for mark in self.landmarks}[name]

    def landmarks_among(self, names: Iterable[str]) -> tuple[Landmark, ...]:
        """Landmarks of those of the names that have one."""
        among = set(names)
        return tuple(mark for mark in self.landmarks if mark.name in among)

    def water_for(self, who: str) -> Water:
        """What is known of water.

        Raises
        ------
        InputError
            If spectra of this nucleus have none to be told apart: names ``who`` asked.
        """
        return self._needed(self.water, who, "no water that is not itself a metabolite")

    def lipids_for(self, who: str) -> Lipids:
        """What is known of lipids; see :meth:`water_for`."""
        return self._needed(self.lipids, who, "no lipids of the scalp")

    def alignment_for(self, who: str) -> AlignmentLines:
        """What frequency and phase correction goes by; see :meth:`water_for`."""
        return self._needed(self.alignment, who, "no table of lines to align spectra by")

    def _needed(self, found: _Found | None, who: str, lacking: str) -> _Found:
        if found is None:
            other = f"; ready-made for it is --pipeline {self.pipeline}" if self.pipeline else ""
            raise InputError(f"{who}: there is {lacking} in {self.symbol}; leave it out{other}")
        return found

    def field(self, spectrometer_frequency: float) -> float:
        """Field (T) of a spectrometer frequency in MHz."""
        return spectrometer_frequency / self.gyromagnetic_ratio


@cache
def known_nuclei() -> tuple[str, ...]:
    """Symbols of the nuclei that have a table, the proton first."""
    found = [f.name.removesuffix(".toml").upper() for f in _TABLES.iterdir() if _is_table(f.name)]
    return tuple(sorted(found, key=lambda s: (s != "1H", s)))


@cache
def nucleus(symbol: str) -> Nucleus:
    """The table of a nucleus, by its symbol as NIfTI-MRS writes it.

    Raises
    ------
    InputError
        If there is none: names those that there are.
    """
    if symbol.upper() not in known_nuclei():
        raise InputError(
            f"nucleus {symbol!r}: not among those that are known ({', '.join(known_nuclei())}). "
            "Where this is a mistake of the header, correct ResonantNucleus; a further nucleus is "
            "a file beside mrsi_engine/nuclei/31p.toml with its reference, names and windows"
        )
    text = (_TABLES / f"{symbol.lower()}.toml").read_text(encoding="utf-8")
    try:
        return Nucleus.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise InputError(f"{symbol.lower()}.toml: {error}") from error


def _is_table(name: str) -> bool:
    return name.endswith(".toml") and not name.startswith(".")


def _plain(spelling: str) -> str:
    """A spelling without case, separators and Greek letters, which files write in many ways."""
    text = spelling.casefold()
    for letter, word in (("α", "alpha"), ("β", "beta"), ("γ", "gamma")):
        text = text.replace(letter, word)
    return _SEPARATORS.sub("", text)
