"""What stands out in a group table: scans unlike those of their protocol, and batches that differ.

Both go by ranks and medians, so that a few bad scans change nothing. Batch effects are looked for
with the test of Kruskal and Wallis (J Am Stat Assoc 1952;47:583) in what is left after the median
of each protocol; its effect size is epsilon squared, the share of the variance of ranks between
batches (Kelley, PNAS 1935;21:554; Tomczak and Tomczak, Trends Sport Sci 2014;1:19). As many tests
are made at once, their p values are corrected for the false discovery rate (Benjamini and Hochberg,
J R Stat Soc B 1995;57:289).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, kruskal

from mrsi_engine.kernels.noise import MAD_TO_SD
from mrsi_engine.nuclei import nucleus
from mrsi_engine.quantities import Role
from mrsi_engine.report.columns import MEDIAN
from mrsi_engine.report.group_table import GroupTable

#: A scan farther from the median of its protocol than so many robust SDs is an outlier (Iglewicz
#: and Hoaglin 1993), where at least so many scans say what is usual.
MAX_DEVIATIONS = 3.5
FEWEST_USUAL = 8

#: Fewest scans of a batch that is compared, and the rate of false discoveries that is borne.
FEWEST_IN_BATCH = 5
FALSE_DISCOVERIES = 0.05

#: Most batches of a column of the cohort's table that is taken for one of them.
_MOST_BATCHES = 20

#: Columns of a cohort's own table, in lower case, that say where and by what a scan was made. The
#: others are what a study is about, and nobody wants them tested in passing.
TECHNICAL = frozenset(
    {"site", "scanner", "center", "centre", "institution", "vendor", "coil", "software", "operator"}
)

#: Measures of quality that are drawn and compared, as far as the scans have them.
_QUALITY = (
    ("usable_share", "Usable voxels"),
    ("snr_median", "SNR"),
    ("fwhm_median", "Linewidth"),
    ("fit_quality_median", "Fit quality"),
    ("relative_residual_median", "Relative residual"),
    ("b0_shift_median", "Frequency"),
    ("b0_shift_spread", "Spread of frequency"),
    ("fpc_shift_spread_median", "Frequency between transients"),
    ("water_residual_median", "Water residual"),
    ("lipid_ratio_median", "Lipid ratio"),
)

#: Columns of a summary by which scans are put into batches, beside protocol and scanner.
_BATCHES = ("scanner_software", "pipeline", "basis", "mask")


@dataclass(frozen=True)
class Measured:
    """A column that is drawn and compared; ``kind`` is ``"quality"`` or ``"amount"``."""

    column: str
    title: str
    unit: str
    kind: str


@dataclass(frozen=True)
class Batch:
    """One batch of several: its name, its scans, their median."""

    name: str
    scans: int
    median: float


@dataclass(frozen=True)
class BatchTest:
    """Whether a measure differs between batches.

    ``p`` is corrected for all tests made; ``effect`` is epsilon squared, 0 to 1.
    """

    factor: str
    measured: Measured
    batches: tuple[Batch, ...]
    p: float
    effect: float


def measured_columns(table: GroupTable) -> list[Measured]:
    """What is drawn and compared: quality, then ratios and concentrations of main amplitudes."""
    done = table.done
    known = {name for name in done if done[name].notna().any()}
    found = [
        Measured(name, title, table.columns[name].unit, "quality")
        for name, title in _QUALITY
        if name in known
    ]
    amounts = [q for q in table.quantities if q.role in (Role.RATIO, Role.CONCENTRATION)]
    present = {name for q in amounts for name in (q.of, q.reference)}
    principal = _principal(done["nucleus"], present)
    for quantity in sorted(amounts, key=lambda q: q.role != Role.RATIO):
        name = f"{quantity.name}_{MEDIAN.suffix}"
        if quantity.of in principal and name in known:
            found.append(Measured(name, quantity.label, quantity.units, "amount"))
    return found


def _principal(symbols: pd.Series, present: Collection[str]) -> set[str]:
    """Labels of the main amplitudes of these nuclei; the first part of a sum that is not there."""
    tables = [nucleus(str(symbol)) for symbol in symbols.dropna().unique()]
    return {
        label if label in present else table.members_of(label)[0]
        for table in tables
        for label in table.principal
    }


def classes_of(table: GroupTable, column: str) -> list[tuple[str, int]]:
    """Words in a column of scans with results, the most frequent first, and how many have each."""
    counts = table.done[column].fillna("").value_counts(sort=True)
    return [(str(name), int(count)) for name, count in counts.items()]


def outliers(values: NDArray[np.floating], classes: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Which values ``(scan,)`` are unlike the others of their class."""
    found = np.zeros(len(values), bool)
    for name in np.unique(classes):
        inside = (classes == name) & np.isfinite(values)
        if inside.sum() >= FEWEST_USUAL:
            off = np.abs(values[inside] - np.median(values[inside]))
            found[inside] = off > MAX_DEVIATIONS * MAD_TO_SD * np.median(off)
    return found


def usual_range(values: NDArray[np.floating]) -> tuple[float, float, float] | None:
    """Lower bound, median and upper bound of what is usual; ``None`` of too few values."""
    known = values[np.isfinite(values)]
    if len(known) < FEWEST_USUAL:
        return None
    middle = float(np.median(known))
    width = MAX_DEVIATIONS * MAD_TO_SD * float(np.median(np.abs(known - middle)))
    return middle - width, middle, middle + width


def numbers(frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """A column as numbers, NaN where there is none, ``(scan,)``."""
    return frame[column].to_numpy(dtype=float, na_value=np.nan)


def batch_tests(table: GroupTable, columns: Sequence[Measured]) -> list[BatchTest]:
    """All tests of batch effects, the strongest first; empty where there is nothing to compare."""
    factors = _factors(table)
    protocols = factors["protocol"].fillna("").to_numpy(dtype=str)
    values = {c: numbers(table.done, c.column) for c in columns}
    tests = [
        test
        for name, factor in factors.items()
        for c in columns
        if (test := _test(name, factor, c, values[c], protocols)) is not None
    ]
    if not tests:
        return []
    corrected = false_discovery_control([t.p for t in tests])
    found = [
        BatchTest(t.factor, t.measured, t.batches, float(p), t.effect)
        for t, p in zip(tests, corrected, strict=True)
    ]
    return sorted(found, key=lambda t: (t.p, -t.effect))


def _factors(table: GroupTable) -> Mapping[str, pd.Series]:
    """What puts scans into batches, by its name: a word or none for each scan."""
    done = table.done
    scanner = (done["manufacturer"].fillna("") + " " + done["model"].fillna("")).str.strip()
    of_table = (name for name in table.metadata if name.lower() in TECHNICAL)
    return {
        "protocol": done["protocol"],
        "scanner": scanner.where(scanner != ""),
        **{name: done[name] for name in (*_BATCHES, *of_table)},
    }


def _test(
    name: str,
    factor: pd.Series,
    measured: Measured,
    values: NDArray[np.float64],
    protocols: NDArray[np.str_],
) -> BatchTest | None:
    """The test of one measure between the batches of one factor, not corrected."""
    known = np.isfinite(values) & factor.notna().to_numpy()
    named = factor.to_numpy(dtype=object)
    batches = dict(_batches(named[known].astype(str)))
    if not 2 <= len(batches) <= _MOST_BATCHES:
        return None
    aligned = values if name == "protocol" else _without_medians(values, protocols, known)
    groups = [aligned[known][inside] for inside in batches.values()]
    every = np.concatenate(groups)
    if np.ptp(every) <= 1e-12 * np.abs(values[known]).max():
        return None
    statistic, p = kruskal(*groups)
    told = tuple(
        Batch(batch, int(inside.sum()), float(np.median(values[known][inside])))
        for batch, inside in batches.items()
    )
    return BatchTest(name, measured, told, float(p), float(statistic) / (len(every) - 1))


def _batches(names: NDArray[np.str_]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Batches of enough scans, the largest first."""
    found, counts = np.unique(names, return_counts=True)
    for i in np.argsort(-counts, kind="stable"):
        if counts[i] >= FEWEST_IN_BATCH:
            yield str(found[i]), names == found[i]


def _without_medians(
    values: NDArray[np.float64], classes: NDArray[np.str_], known: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Values less the median of their class."""
    left = values.copy()
    for name in np.unique(classes[known]):
        inside = known & (classes == name)
        left[inside] -= np.median(values[inside])
    return left
