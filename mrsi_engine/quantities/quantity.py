"""One quantity: its role, whose it is, its unit, and its names in maps and tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from mrsi_engine.errors import InputError
from mrsi_engine.letters import latin


class Role(StrEnum):
    """What kind of number a quantity is.

    ``METABOLITE``, ``MACROMOLECULE`` and ``COMBINATION`` are amplitudes. ``PROPERTY`` is anything
    else that is estimated of one metabolite, ``QUALITY`` any measure without an SD, ``REASON`` a
    code that says why a voxel has no concentrations of the same stage.
    """

    METABOLITE = "metabolite"
    MACROMOLECULE = "macromolecule"
    COMBINATION = "combination"
    CONCENTRATION = "concentration"
    RATIO = "ratio"
    PROPERTY = "property"
    LINESHAPE = "lineshape"
    QUALITY = "quality"
    ERROR_PART = "error part"
    DATA_SHARE = "data share"
    REASON = "reason"
    SIGNAL = "signal"


#: Roles that are an amount of something, so that a relative CRLB has a meaning.
AMPLITUDES = (Role.METABOLITE, Role.MACROMOLECULE, Role.COMBINATION)

#: Roles whose SD has a map of its own beside that of the estimate.
_WITH_SD_MAP = (Role.CONCENTRATION, Role.RATIO, Role.PROPERTY)

#: Roles that are always about one amplitude.
_ABOUT_ONE = (*AMPLITUDES, *_WITH_SD_MAP, Role.ERROR_PART, Role.DATA_SHARE)

#: Roles that have an estimate and an SD, and those of single numbers.
PARAMETERS = (*AMPLITUDES, *_WITH_SD_MAP, Role.LINESHAPE)
MEASURES = (Role.QUALITY, Role.ERROR_PART, Role.DATA_SHARE, Role.REASON)

#: The estimator that later stages go on with.
MAIN = "main"

#: What the SD of an estimate is.
CRLB = "Cramér-Rao lower bound of the estimate's standard deviation"
POSTERIOR_SD = "Cramér-Rao lower bound of the estimate's standard deviation, with its priors"
NETWORK_SD = (
    "standard deviation of the network's own estimate: Cramér-Rao lower bound there and spread of "
    "an ensemble together, calibrated where the model is"
)


@dataclass(frozen=True)
class Total:
    """What the parameters of several stages add up to, a number of the data as acquired.

    ``name`` is also the label of its map, ``column`` its name in tables, if it stands there. A
    ``circular`` total is an angle.
    """

    name: str
    units: str
    doc: str
    title: str
    column: str = ""
    circular: bool = False


#: Totals by the name that a quantity gives in ``adds_to``.
TOTALS = {
    total.name: total
    for total in (
        Total(
            "b0shift",
            "Hz",
            "frequency of the data as acquired; positive is towards lower ppm",
            "Shift",
            "b0_shift",
        ),
        Total("phase", "rad", "zero-order phase of the data as acquired", "Phase", circular=True),
    )
}

#: Labels of the maps that every result has.
MAPS_OF_EVERY_RESULT = ("status", "flags", "brainmask")

#: The signal that is made of others at export.
RESIDUAL = "residual"


@dataclass(frozen=True)
class Quantity:
    """One thing a stage writes. Those of each role are made by
    :mod:`~mrsi_engine.quantities.making`.

    Parameters
    ----------
    name
        What stages, stores and tables call it.
    role, units, doc
        What it is. ``doc`` becomes the definition in sidecars and tables.
    title
        What people read in tables and figures; the name by default.
    of
        Name of the amplitude it is about, by its main estimator: of a ratio the numerator.
    reference
        Of a ratio, name of the amplitude below.
    estimator
        ``"main"``, or which of the others.
    adds_to
        Name of the one of :data:`TOTALS` that it is a part of.
    sd_doc
        Of a parameter, what its SD is.
    fill
        What is written where there is no number, for programs that cannot read NaN.
    signed
        Whether it lies about zero, so that colours do.
    scale_with
        Name of a quantity that shares its colours: the same before a stage and after it.
    met, desc
        Labels of its map, ``met-MET_desc-DESC``; without ``met`` there is only the other, which is
        the name by default.
    stage
        The stage that writes it; set by the pipeline.

    Raises
    ------
    InputError
        If the fields do not go together.
    """

    name: str
    role: Role
    units: str
    doc: str
    title: str = ""
    of: str = ""
    reference: str = ""
    estimator: str = MAIN
    adds_to: str = ""
    sd_doc: str = ""
    fill: float | None = None
    signed: bool = False
    scale_with: str = ""
    met: str = ""
    desc: str = ""
    stage: str = ""

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise InputError(f"quantity {self.name!r}: {problem}")

    @property
    def label(self) -> str:
        """What people read in tables and figures."""
        return self.title or self.name

    @property
    def maps(self) -> tuple[str, ...]:
        """Entities of the maps it has: of the estimate, and of its errors as far as they do."""
        desc = self.desc or self.name
        first = f"met-{safe_label(self.met)}_" if self.met else ""
        descs = {
            **dict.fromkeys(AMPLITUDES, (desc, "crlb", "sd")),
            **dict.fromkeys(_WITH_SD_MAP, (desc, f"{desc}sd")),
        }.get(self.role, (desc,))
        return tuple(f"{first}desc-{safe_label(d)}" for d in descs)

    @property
    def column(self) -> str:
        """Its name in tables, where an amplitude stands before the parts of its error."""
        return f"{self.met}_{self.desc}" if self.role == Role.ERROR_PART else self.name

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns it has: an SD with a parameter, a relative CRLB with an amplitude."""
        sd = ("_sd",) if self.role in PARAMETERS else ()
        relative = ("_crlb",) if self.role in AMPLITUDES else ()
        return tuple(f"{self.column}{suffix}" for suffix in ("", *sd, *relative))

    def by(self, estimator: str) -> Quantity:
        """The same of another estimator than the main one; it is part of no total."""
        # A part of a total leaves it the short label; where it is none it has that of its name.
        desc = self.name if self.adds_to else self.desc or self.name
        return replace(
            self,
            name=named_by(self.name, estimator),
            title=f"{self.label} ({estimator})",
            doc=f"{self.doc}; estimator {estimator!r}",
            estimator=estimator,
            adds_to="",
            met=self.met and named_by(self.met, estimator),
            desc=desc if self.met else named_by(desc, estimator),
        )

    def _problems(self) -> Iterator[str]:
        if self.role not in list(Role):
            yield f"role {self.role!r}: no such role; there are {', '.join(Role)}"
        # Read back from a store, a role is a plain string.
        object.__setattr__(self, "role", Role(self.role))
        for field in ("name", "units", "doc"):
            if not getattr(self, field):
                yield f"{field} is empty; every number in a file says what it is"
        if self.role in _ABOUT_ONE and not self.of:
            yield f"a {self.role} is about one amplitude; give its name as `of`"
        if self.role == Role.RATIO and not self.reference:
            yield "a ratio has a `reference`, the amplitude it is to"
        if self.reference and self.role not in (Role.RATIO, Role.CONCENTRATION):
            yield f"a {self.role} has no reference, found {self.reference!r}"
        if self.fill is not None and not math.isfinite(self.fill):
            yield f"fill = {self.fill} is no number; leave it out to write NaN"
        if self.adds_to:
            yield from self._problems_of_total()

    def _problems_of_total(self) -> Iterator[str]:
        total = TOTALS.get(self.adds_to)
        if total is None:
            yield f"adds_to = {self.adds_to!r}: no such total; there are {', '.join(TOTALS)}"
        elif self.units != total.units:
            yield f"adds_to = {self.adds_to!r}, which is in {total.units}, found {self.units}"
        elif self.role != Role.LINESHAPE or self.of or self.estimator != MAIN:
            yield (
                f"adds_to = {self.adds_to!r}: only a lineshape parameter of the whole spectrum, by "
                "the main estimator, can be part of a total"
            )


def named_by(name: str, estimator: str) -> str:
    """What a quantity of that name is called where another estimator than the main one has it."""
    return name if estimator == MAIN else f"{name}_{estimator}"


def concentration_name(name: str) -> str:
    """What the concentration of an amplitude of that name is called."""
    return f"{name}_conc"


def safe_label(label: str) -> str:
    """A BIDS label, letters and digits only: ``fit_quality`` is ``fitquality``.

    ``é`` is ``e``, ``γ-ATP`` is ``gammaATP`` and ``GABA+`` is ``GABAplus``, so that names that
    differ in these keep files of their own.

    Raises
    ------
    InputError
        If nothing usable is left.
    """
    safe = re.sub(r"[^A-Za-z0-9]", "", latin(label).replace("+", "plus"))
    if not safe:
        raise InputError(f"label {label!r}: no letter or digit in it, so no file can be named so")
    return safe
