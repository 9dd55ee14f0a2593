"""How far the errors of the fit are what its Cramér-Rao bounds say, at several SNRs.

Run through ``python tests/benchmarks/bench.py --only monte_carlo``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table

from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages import Quantify
from tests.scenes import (
    GREY_MATTER,
    SEED_SIMULATION,
    THESIS,
    Lineshape,
    Outcome,
    monte_carlo,
    press_basis,
    thesis_basis,
)

SNRS = (20.0, 40.0, 80.0, 160.0)

#: Relative bound under which an estimate is judged.
JUDGED = 0.20

Tables = Mapping[tuple[str, float], list[Outcome]]


def measure(draws: int = 2000, snrs: tuple[float, ...] = SNRS) -> Tables:
    """Outcomes of each metabolite by basis and SNR, the latter the tallest peak's over noise."""
    return {
        (name, snr): monte_carlo(Quantify(), basis, amplitudes, Lineshape(), snr, draws, seed=i)
        for name, basis, amplitudes in scenes()
        for i, snr in enumerate(snrs)
    }


def scenes() -> Iterator[tuple[str, Basis, Mapping[str, float]]]:
    """Bases and amplitudes; that of the thesis only where its data are."""
    yield "PRESS 30 ms", press_basis(), GREY_MATTER
    if SEED_SIMULATION.exists():
        yield "thesis", thesis_basis(), THESIS


def judged(outcomes: list[Outcome]) -> list[Outcome]:
    """Those determined well enough to be judged."""
    return [o for o in outcomes if o.relative_crlb < JUDGED]


def show(console: Console, tables: Tables) -> None:
    """SD over bound and bias of each metabolite, the judged ones bright."""
    for (name, snr), outcomes in tables.items():
        title = f"{name}, SNR {snr:g}, {outcomes[0].draws} draws"
        table = Table("metabolite", "truth", "CRLB %", "SD/CRLB", "bias (SE)", title=title)
        for o in outcomes:
            style = None if o.relative_crlb < JUDGED else "dim"
            figures = (o.truth, 100 * o.relative_crlb, o.efficiency, o.bias)
            table.add_row(o.name, *(f"{f:.3g}" for f in figures), style=style)
        console.print(table)
    if not SEED_SIMULATION.exists():
        console.print(f"the thesis' basis is not there: {SEED_SIMULATION}")


def summary(tables: Tables) -> dict[str, float | int]:
    """The extremes over all judged metabolites."""
    outcomes = [o for table in tables.values() for o in judged(table)]
    return {
        "judged": len(outcomes),
        "draws": outcomes[0].draws,
        "lowest_sd_over_crlb": min(o.efficiency for o in outcomes),
        "highest_sd_over_crlb": max(o.efficiency for o in outcomes),
        "largest_bias_in_se": max(abs(o.bias) for o in outcomes),
    }
