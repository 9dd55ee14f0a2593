"""What a fit writes: amplitudes and their sums, ratios, lineshapes and measures of quality."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import COMBINATIONS, Quantity, is_macromolecule, label_title
from mrsi_engine.fit.settings import FitSettings
from mrsi_engine.spectra.basis import Basis


def amplitude_quantities(basis: Basis) -> list[Quantity]:
    """One for every column of a fitted basis, then the sums its columns allow."""
    single = [
        Quantity(
            name,
            "data units",
            f"amplitude of {name} in units of its basis spectrum",
            kind="macromolecule" if is_macromolecule(name) else "metabolite",
        )
        for name in basis.names
    ]
    return single + [
        Quantity(
            c.label,
            "data units",
            f"sum of the amplitudes of {' and '.join(c.members)}; its SD is from their covariance",
            c.title,
            "combination",
        )
        for c in COMBINATIONS
        if set(c.members) <= set(basis.names)
    ]


def amplitude_weights(basis: Basis) -> NDArray[np.float64]:
    """``(quantity, column)`` that makes :func:`amplitude_quantities` of the columns."""
    sums = [c for c in COMBINATIONS if set(c.members) <= set(basis.names)]
    rows = [[float(name in c.members) for name in basis.names] for c in sums]
    return np.vstack([np.eye(len(basis.names)), *rows])


def ratio_pairs(settings: FitSettings, basis: Basis) -> list[tuple[Quantity, str]]:
    """Every metabolite and sum with each reference of ``ratio_to`` that it is divided by."""
    return [
        (amplitude, reference)
        for reference in settings.ratio_to
        for amplitude in amplitude_quantities(basis)
        if amplitude.kind != "macromolecule" and amplitude.name != reference
    ]


def ratio_quantity(amplitude: Quantity, reference: str) -> Quantity:
    """An amplitude over another one."""
    whose = label_title(reference)
    return Quantity(
        f"{amplitude.name}_per_{reference}",
        "1",
        f"amplitude of {amplitude.label} over that of {whose}; its SD is to first order and knows "
        "their covariance",
        f"{amplitude.label}/{whose}",
        "ratio",
    )


def lineshape_quantities(settings: FitSettings, basis: Basis) -> list[Quantity]:
    """One for every column of ``theta``, as :class:`mrsi_engine.kernels.lcm.Layout` orders them."""
    phase = "zero-order phase"
    if settings.starts_late:
        phase += ", in the middle of the fit window"
    found = [Quantity("phase", "rad", phase, "Phase", "lineshape")]
    for suffix in settings.group_suffixes(basis):
        found += _group_quantities(suffix)
    if settings.starts_late:
        doc = "first-order phase: how much later than those of the basis the FIDs begin"
        found.append(Quantity("delay", "ms", doc, "First-order phase", "lineshape"))
    if settings.metabolite_shift_sd_hz > 0:
        found += [
            Quantity(
                f"shift_{name}",
                "Hz",
                f"shift of {name} against the others, under its prior",
                f"Shift of {name}",
                "lineshape",
            )
            for name in basis.metabolites
        ]
    return found


_WHOSE = {"": "the spectrum", "_mm": "the macromolecules", "_lip": "the lipids"}


def _group_quantities(suffix: str) -> list[Quantity]:
    whose, kind = _WHOSE[suffix], "lineshape"
    shift = Quantity(
        "shift",
        "Hz",
        "frequency of the spectrum against the basis; positive is towards lower ppm",
        "Shift",
        kind,
    )
    if suffix:
        short = {"_mm": "MM", "_lip": "Lipid"}[suffix]
        doc = f"shift of {whose} against the metabolites"
        shift = Quantity(f"shift{suffix}", "Hz", doc, f"{short} offset", kind)
    return [
        shift,
        Quantity(
            f"lorentzian{suffix}",
            "1/s",
            f"Lorentzian damping of {whose} beyond the basis",
            "Lorentzian damping",
            kind,
        ),
        Quantity(
            f"gaussian{suffix}",
            "1/s",
            f"Gaussian damping of {whose} beyond the basis",
            "Gaussian damping",
            kind,
        ),
    ]


def measures(settings: FitSettings, basis: Basis) -> list[Quantity]:
    """Quality of the spectrum, then of each estimator's fit."""
    found = [*OF_THE_SPECTRUM, *([BASELINE_DIMENSION] if settings.adaptive else [])]
    for number, estimator in enumerate(settings.estimators):
        found += [suffixed(q, estimator) if number else q for q in OF_THE_FIT]
        found += data_share_quantities(settings, basis) if estimator == "map" else []
    return found


def data_share_quantities(settings: FitSettings, basis: Basis) -> list[Quantity]:
    """One for every prior of ``"map"``."""
    return [
        Quantity(
            f"data_share_{name}",
            "1",
            f"1 - posterior variance / prior variance of {name}: how much of its estimate the data "
            "gave; 1 is all data, 0 is all prior",
            f"Data share of {name}",
        )
        for name in settings.prior_table.constrained(basis)
    ]


def network_quantities(basis: Basis, ensemble: bool) -> list[Quantity]:
    """What the errors of a network's own amplitudes are made of."""
    found = []
    for amplitude in amplitude_quantities(basis):
        name, label = amplitude.name, amplitude.label
        doc = f"Cramér-Rao bound of {label} at the network's estimate, from the full Fisher matrix"
        found.append(Quantity(f"crlb_{name}", "data units", doc, f"CRLB of {label}"))
        if ensemble:
            doc = f"SD of {label} between the networks of the ensemble: what training left open"
            title = f"Epistemic SD of {label}"
            found.append(Quantity(f"epistemic_{name}", "data units", doc, title))
    return found


def suffixed(quantity: Quantity, estimator: str) -> Quantity:
    """A quantity of another estimator than the main one."""
    return replace(
        quantity,
        name=f"{quantity.name}_{estimator}",
        title=f"{quantity.label} ({estimator})",
        doc=f"{quantity.doc}; estimator {estimator!r}",
    )


NOVELTY = Quantity(
    "novelty",
    "1",
    "how unlike the signals that the network was trained on the spectrum's power is; one in a "
    "thousand of those is above 1",
    "Novelty",
)

BASELINE_DIMENSION = Quantity(
    "baseline_dimension",
    "1",
    "effective number of curves of the baseline as its stiffness was chosen",
    "Baseline dimension",
)

#: Measures of the data and of the main fit.
OF_THE_SPECTRUM = (
    Quantity(
        "snr",
        "1",
        "height of the reference peak (NAA; without it Cr or Cho) of the fitted metabolites over "
        "the SD of the noise, both in the real spectrum",
        "SNR",
    ),
    Quantity("fwhm", "ppm", "full width at half height of the reference singlet as fitted", "FWHM"),
    Quantity("fwhm_hz", "Hz", "full width at half height of the reference singlet as fitted"),
    Quantity(
        "relative_residual",
        "1",
        "root of the residual's share of the energy of the data in the fit window; for data whose "
        "noise cannot be measured (filtered, apodised, zero-filled)",
        "Relative residual",
    ),
    Quantity(
        "noise_sd",
        "data units",
        "SD of the noise per real channel of a FID sample, from signal-free points",
        "Noise SD",
    ),
)

#: Measures that depend on how amplitudes are estimated.
OF_THE_FIT = (
    Quantity(
        "fit_quality",
        "1",
        "SD of the residual in the fit window over the SD of the noise; 1 is noise alone",
        "Fit quality",
    ),
    Quantity("iterations", "1", "steps of the non-linear fit", "Iterations"),
    Quantity(
        "condition",
        "1",
        "condition number (1-norm) of the Fisher matrix scaled to a unit diagonal",
        "Condition",
    ),
    Quantity(
        "converged",
        "1",
        "1 where the fit reached a minimum, the shift inside its bounds; of a network's own "
        "estimates, where signal and parameters are within what it was trained on",
        "Converged",
    ),
)

SIGNALS = (
    Quantity("corrected", "data units", "FID as it went into the fit"),
    Quantity("fit", "data units", "fitted model with its baseline"),
    Quantity("baseline", "data units", "fitted baseline"),
)
