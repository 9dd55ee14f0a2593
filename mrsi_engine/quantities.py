"""What a number is: its role, whose it is, how it was estimated, its unit and its place in files.

A stage declares its quantities here, once. Stores keep every field as a coordinate, and maps,
tables, the report and the stages after it go by the fields, never by how a name is spelled.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
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

_PARAMETERS = (*AMPLITUDES, *_WITH_SD_MAP, Role.LINESHAPE)
_MEASURES = (Role.QUALITY, Role.ERROR_PART, Role.DATA_SHARE, Role.REASON)

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

#: Labels of the maps, and columns of the table, that every result has.
MAPS_OF_EVERY_RESULT = ("status", "flags", "brainmask")
_COLUMNS_OF_EVERY_RESULT = ("x", "y", "z", "x_mm", "y_mm", "z_mm", "status", "flags")

#: The signal that is made of others at export.
RESIDUAL = "residual"


@dataclass(frozen=True)
class Quantity:
    """One thing a stage writes. The functions of this module make those of each role.

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
        sd = ("_sd",) if self.role in _PARAMETERS else ()
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


@dataclass(frozen=True)
class Declaration:
    """Everything a stage, or a whole pipeline, writes.

    ``parameters`` have an estimate and an SD, ``measures`` are single numbers; both are
    ``(voxel,)`` each. ``signals`` are ``(voxel, time)`` and stored only on request.

    Raises
    ------
    InputError
        If a quantity stands among those of another kind.
    """

    parameters: tuple[Quantity, ...] = ()
    measures: tuple[Quantity, ...] = ()
    signals: tuple[Quantity, ...] = ()

    def __post_init__(self) -> None:
        allowed = {"parameters": _PARAMETERS, "measures": _MEASURES, "signals": (Role.SIGNAL,)}
        for kind, roles in allowed.items():
            for q in getattr(self, kind):
                if q.role not in roles:
                    raise InputError(
                        f"quantity {q.name!r}: a {q.role} cannot be one of the {kind}, which are "
                        f"{', '.join(roles)}"
                    )

    def __add__(self, other: Declaration) -> Declaration:
        """Both declarations, in order."""
        return Declaration(
            self.parameters + other.parameters,
            self.measures + other.measures,
            self.signals + other.signals,
        )

    def of_stage(self, stage: str) -> Declaration:
        """The same, each quantity with the stage that writes it."""
        kinds = (self.parameters, self.measures, self.signals)
        return Declaration(*(tuple(replace(q, stage=stage) for q in kind) for kind in kinds))

    def check(self) -> Declaration:
        """This declaration, once no two quantities share a name, a map or a column.

        Raises
        ------
        InputError
            If two do: names both, and the stages that write them.
        """
        numbers = (*self.parameters, *self.measures)
        _check_differ("name", [(q, (q.name,)) for q in numbers])
        _check_differ("name", [(q, (q.name,)) for q in self.signals])
        _check_differ("map", [(q, q.maps) for q in (*numbers, *self.signals)], _MAPS_TAKEN)
        _check_differ("column", [(q, q.columns) for q in numbers], _COLUMNS_TAKEN)
        return self


_MAPS_TAKEN = tuple(f"desc-{d}" for d in (*MAPS_OF_EVERY_RESULT, *TOTALS, RESIDUAL))
_COLUMNS_TAKEN = (
    *_COLUMNS_OF_EVERY_RESULT,
    *(f"{t.column}{end}" for t in TOTALS.values() if t.column for end in ("", "_sd")),
)


def _check_differ(
    what: str, named: Sequence[tuple[Quantity, tuple[str, ...]]], taken: tuple[str, ...] = ()
) -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for name in taken:
        owners[name].append("what every result has")
    for quantity, names in named:
        for name in names:
            owners[name].append(f"{quantity.name!r} of stage {quantity.stage or 'unknown'!r}")
    for name, several in owners.items():
        if len(several) > 1 and len(set(several)) == 1:
            raise InputError(
                f"the {what} {name!r} would be that of {several[0]} twice: let that stage stand "
                "once in the pipeline"
            )
        if len(several) > 1:
            raise InputError(
                f"the {what} {name!r} would be that of {' and of '.join(several)}; declare one of "
                "them with another name or label"
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


def amplitude(
    name: str,
    doc: str,
    *,
    role: Role = Role.METABOLITE,
    title: str = "",
    units: str = "data units",
    sd_doc: str = CRLB,
) -> Quantity:
    """The amount of a metabolite, of macromolecules or, as ``role`` says, a sum of several."""
    return Quantity(
        name, role, units, doc, title, of=name, sd_doc=sd_doc, fill=0.0, met=name, desc="signal"
    )


def ratio(numerator: Quantity, reference: Quantity, doc: str, sd_doc: str) -> Quantity:
    """An amplitude over another one of the same fit."""
    name = f"{numerator.name}_per_{reference.name}"
    return Quantity(
        name,
        Role.RATIO,
        "1",
        doc,
        f"{numerator.label}/{reference.label}",
        of=numerator.of,
        reference=reference.of,
        sd_doc=sd_doc,
        fill=0.0,
        met=name,
        desc="ratio",
    )


def concentration(
    scaled: Quantity, units: str, doc: str, sd_doc: str, *, reference: str = ""
) -> Quantity:
    """An amplitude scaled to a concentration, or to a ratio that stands for one."""
    return Quantity(
        concentration_name(scaled.name),
        Role.CONCENTRATION,
        units,
        doc,
        scaled.label,
        of=scaled.of,
        reference=reference,
        sd_doc=sd_doc,
        fill=0.0,
        met=scaled.met,
        desc="conc",
    )


def property_of(
    one: Quantity, name: str, units: str, doc: str, sd_doc: str, *, title: str = ""
) -> Quantity:
    """Anything else that is estimated, with an SD, of a metabolite: a relaxation time, say.

    ``name`` is one word for all metabolites, ``title`` what people read before the metabolite's.
    """
    return Quantity(
        f"{name}_{one.name}",
        Role.PROPERTY,
        units,
        doc,
        f"{title or name} of {one.label}",
        of=one.of,
        sd_doc=sd_doc,
        met=one.met,
        desc=name,
    )


def measure_of(
    one: Quantity,
    name: str,
    units: str,
    doc: str,
    *,
    title: str = "",
    fill: float | None = None,
    desc: str = "",
    role: Role = Role.QUALITY,
) -> Quantity:
    """A number without an SD about one metabolite; ``name`` and ``title`` as above."""
    return Quantity(
        f"{name}_{one.name}",
        role,
        units,
        doc,
        f"{title or name} of {one.label}",
        of=one.of,
        fill=fill,
        met=one.met,
        desc=desc or name,
    )


def error_part(one: Quantity, name: str, doc: str, *, title: str, desc: str = "") -> Quantity:
    """A part of what the SD of an amplitude is made of, in its unit."""
    return measure_of(one, name, one.units, doc, title=title, desc=desc, role=Role.ERROR_PART)


def data_share(one: Quantity, doc: str, estimator: str = MAIN) -> Quantity:
    """How much of an estimate with a prior the data gave, 0 to 1; ``estimator`` is the one."""
    name = f"data_share_{one.name}"
    title = f"Data share of {one.label}"
    return Quantity(name, Role.DATA_SHARE, "1", doc, title, of=one.of, estimator=estimator)


def lineshape(
    name: str,
    units: str,
    doc: str,
    title: str = "",
    *,
    of: str = "",
    adds_to: str = "",
    signed: bool = False,
    sd_doc: str = CRLB,
    desc: str = "",
) -> Quantity:
    """A shift, phase or damping; it moves a total only if it says which in ``adds_to``."""
    return Quantity(
        name,
        Role.LINESHAPE,
        units,
        doc,
        title,
        of=of,
        adds_to=adds_to,
        signed=signed,
        sd_doc=sd_doc,
        desc=desc,
    )


def quality(
    name: str,
    units: str,
    doc: str,
    title: str = "",
    *,
    fill: float | None = None,
    scale_with: str = "",
) -> Quantity:
    """A measure of the spectrum, of the fit or of what a stage did."""
    return Quantity(name, Role.QUALITY, units, doc, title, fill=fill, scale_with=scale_with)


def reason(name: str, doc: str, title: str = "") -> Quantity:
    """A code, 0 where all is well, of why a voxel has no concentrations of the same stage."""
    return Quantity(name, Role.REASON, "1", doc, title)


def signal(name: str, doc: str, units: str = "data units") -> Quantity:
    """FIDs, ``(voxel, time)``."""
    return Quantity(name, Role.SIGNAL, units, doc)
