"""What a fit writes: amplitudes and their sums, ratios, lineshapes and measures of quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.fit.settings import FitSettings
from mrsi_engine.quantities import (
    MAIN,
    Quantity,
    Role,
    amplitude,
    data_share,
    error_part,
    lineshape,
    quality,
    ratio,
    signal,
)
from mrsi_engine.spectra.basis import Basis

_SD_OF_RATIO = "to first order, from the errors of both amplitudes and their covariance"


def amplitude_quantities(basis: Basis) -> list[Quantity]:
    """One for every column of a fitted basis, then the sums its columns allow."""
    single = [
        amplitude(
            name,
            f"amplitude of {name} in units of its basis spectrum",
            role=_role(name, basis),
        )
        for name in basis.names
    ]
    return single + [
        amplitude(
            c.label,
            f"sum of the amplitudes of {' and '.join(c.members)}; its SD is from their covariance",
            role=Role.COMBINATION,
            title=c.title,
        )
        for c in basis.nucleus.sums_of(basis.names)
    ]


def _role(name: str, basis: Basis) -> Role:
    return Role.MACROMOLECULE if basis.nucleus.is_macromolecule(name) else Role.METABOLITE


def amplitude_weights(basis: Basis) -> NDArray[np.float64]:
    """``(quantity, column)`` that makes :func:`amplitude_quantities` of the columns."""
    sums = basis.nucleus.sums_of(basis.names)
    rows = [[float(name in c.members) for name in basis.names] for c in sums]
    return np.vstack([np.eye(len(basis.names)), *rows])


def ratio_quantities(settings: FitSettings, basis: Basis) -> list[Quantity]:
    """Every metabolite and sum over each reference of ``ratio_to``."""
    amplitudes = {q.name: q for q in amplitude_quantities(basis)}
    return [
        _ratio(one, amplitudes[reference])
        for reference in settings.ratio_to
        for one in amplitudes.values()
        if one.role != Role.MACROMOLECULE and one.name != reference
    ]


def _ratio(one: Quantity, reference: Quantity) -> Quantity:
    doc = (
        f"amplitude of {one.label} over that of {reference.label}; its SD is to first order and "
        "knows their covariance"
    )
    return ratio(one, reference, doc, _SD_OF_RATIO)


def lineshape_quantities(settings: FitSettings, basis: Basis) -> list[Quantity]:
    """One for every column of ``theta``, as :class:`mrsi_engine.kernels.lcm.Layout` orders them."""
    phase = "zero-order phase"
    if settings.starts_late:
        phase += ", in the middle of the fit window"
    found = [
        lineshape("phase", "rad", phase, "Phase", adds_to="phase", signed=True, desc="fitphase")
    ]
    for suffix in settings.group_suffixes(basis):
        found += _group_quantities(suffix)
    if settings.starts_late:
        doc = "first-order phase: how much later than those of the basis the FIDs begin"
        found.append(lineshape("delay", "ms", doc, "First-order phase", signed=True))
    if settings.metabolite_shift_sd_hz > 0:
        found += [
            lineshape(
                f"shift_{name}",
                "Hz",
                f"shift of {name} against the others, under its prior",
                f"Shift of {name}",
                of=name,
                signed=True,
            )
            for name in basis.metabolites
        ]
    return found


_WHOSE = {"": "the spectrum", "_mm": "the macromolecules", "_lip": "the lipids"}


def gaussian_name(suffix: str) -> str:
    """What the Gaussian damping of a group is called; the fit iterates its square."""
    return f"gaussian{suffix}"


def _group_quantities(suffix: str) -> list[Quantity]:
    whose = _WHOSE[suffix]
    shift = lineshape(
        "shift",
        "Hz",
        "frequency of the spectrum against the basis; positive is towards lower ppm",
        "Shift",
        adds_to="b0shift",
        signed=True,
        desc="fitshift",
    )
    if suffix:
        short = {"_mm": "MM", "_lip": "Lipid"}[suffix]
        doc = f"shift of {whose} against the metabolites"
        shift = lineshape(f"shift{suffix}", "Hz", doc, f"{short} offset", signed=True)
    return [
        shift,
        lineshape(
            f"lorentzian{suffix}",
            "1/s",
            f"Lorentzian damping of {whose} beyond the basis",
            "Lorentzian damping",
        ),
        lineshape(
            gaussian_name(suffix),
            "1/s",
            f"Gaussian damping of {whose} beyond the basis",
            "Gaussian damping",
        ),
    ]


def measures(settings: FitSettings, basis: Basis) -> list[Quantity]:
    """Quality of the spectrum, then of each estimator's fit."""
    found = [*OF_THE_SPECTRUM, *([BASELINE_DIMENSION] if settings.baseline.adaptive else [])]
    for number, estimator in enumerate(settings.estimators):
        found += [q.by(estimator) if number else q for q in OF_THE_FIT]
        found += data_share_quantities(settings, basis) if estimator == "map" else []
    return found


def data_share_quantities(settings: FitSettings, basis: Basis) -> list[Quantity]:
    """One for every prior of ``"map"``."""
    amplitudes = {q.name: q for q in amplitude_quantities(basis)}
    estimator = MAIN if settings.estimators[0] == "map" else "map"
    return [
        data_share(
            amplitudes[name],
            f"1 - posterior variance / prior variance of {name}: how much of its estimate the data "
            "gave; 1 is all data, 0 is all prior",
            estimator,
        )
        for name in settings.prior_table.constrained(basis)
    ]


def crlb_part(one: Quantity) -> Quantity:
    """The Cramér-Rao bound in the error of a network's own amplitude."""
    doc = f"Cramér-Rao bound of {one.label} at the network's estimate, from the full Fisher matrix"
    return error_part(one, "crlb", doc, title="CRLB", desc="crlbabs")


def epistemic_part(one: Quantity) -> Quantity:
    """What the networks of an ensemble disagree by, in the error of an amplitude."""
    doc = f"SD of {one.label} between the networks of the ensemble: what training left open"
    return error_part(one, "epistemic", doc, title="Epistemic SD")


def network_quantities(basis: Basis, ensemble: bool) -> list[Quantity]:
    """What the errors of a network's own amplitudes are made of."""
    parts = (crlb_part, epistemic_part) if ensemble else (crlb_part,)
    return [part(one) for one in amplitude_quantities(basis) for part in parts]


NOVELTY = quality(
    "novelty",
    "1",
    "how unlike the signals that the network was trained on the spectrum's power is; one in a "
    "thousand of those is above 1",
    "Novelty",
)

BASELINE_DIMENSION = quality(
    "baseline_dimension",
    "1",
    "effective number of curves of the baseline as its stiffness was chosen",
    "Baseline dimension",
)

#: Measures of the data and of the main fit.
OF_THE_SPECTRUM = (
    quality(
        "snr",
        "1",
        "height of the reference peak (1H: NAA, without it Cr or Cho; 31P: PCr; 2H: HDO; else the "
        "tallest of the basis) of the fitted metabolites over the SD of the noise, both in the "
        "real spectrum",
        "SNR",
        fill=0.0,
    ),
    # Of no fit the largest line there can be: limits of MRSIPrep take smaller ones for good.
    quality(
        "fwhm",
        "ppm",
        "full width at half height of the reference singlet as fitted",
        "FWHM",
        fill=999.0,
    ),
    quality("fwhm_hz", "Hz", "full width at half height of the reference singlet as fitted"),
    quality(
        "relative_residual",
        "1",
        "root of the residual's share of the energy of the data in the fit window; for data whose "
        "noise cannot be measured (filtered, apodised, zero-filled)",
        "Relative residual",
    ),
    quality(
        "noise_sd",
        "data units",
        "SD of the noise per real channel of a FID sample, from signal-free points",
        "Noise SD",
    ),
)

#: Measures that depend on how amplitudes are estimated.
OF_THE_FIT = (
    quality(
        "fit_quality",
        "1",
        "SD of the residual in the fit window over the SD of the noise; 1 is noise alone",
        "Fit quality",
    ),
    quality("iterations", "1", "steps of the non-linear fit", "Iterations"),
    quality(
        "condition",
        "1",
        "condition number (1-norm) of the Fisher matrix scaled to a unit diagonal",
        "Condition",
    ),
    quality(
        "converged",
        "1",
        "1 where the fit reached a minimum, the shift inside its bounds; of a network's own "
        "estimates, where signal and parameters are within what it was trained on",
        "Converged",
    ),
)

SIGNALS = (
    signal("corrected", "FID as it went into the fit"),
    signal("fit", "fitted model with its baseline"),
    signal("baseline", "fitted baseline"),
)
