"""A function for each role, which makes quantities of it as stages declare them."""

from __future__ import annotations

from mrsi_engine.quantities.quantity import CRLB, MAIN, Quantity, Role, concentration_name


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
