"""Measure the router: ``bench_router.py [--out FILE] [--figure FILE] [--only NAME ...] [--quick]``.

The shipped model for simulated PRESS TE 30 ms spectra, on signals drawn as those of its training
and on others. Prints tables and writes one JSON object. Times are CPU time of one thread, methods
in turn, medians of runs.

* ``known``: signals of the training. In how many voxels does ``auto`` end where ``least-squares``
  does, every amplitude within 1 % of its Cramér-Rao bound, and what does each method cost?
* ``strange``: other shifts, linewidths, phases, a missing metabolite, a lipid artefact: errors
  against the truth in units of the bound, which way voxels went, and what was believed.
* ``pieces``: where the time of ``auto`` goes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402

from mrsi_engine.conventions import Status  # noqa: E402
from mrsi_engine.fit import search  # noqa: E402
from mrsi_engine.fit.least_squares import LeastSquares  # noqa: E402
from mrsi_engine.fit.search import Search  # noqa: E402
from mrsi_engine.kernels.evaluation import evaluate  # noqa: E402
from mrsi_engine.kernels.start import StartGrid  # noqa: E402
from mrsi_engine.kernels.tabulated import TabulatedSteps  # noqa: E402
from mrsi_engine.networks.encoders import Encoder  # noqa: E402
from mrsi_engine.networks.model import load_model  # noqa: E402
from mrsi_engine.networks.novelty import Novelty  # noqa: E402
from mrsi_engine.networks.quantification import Recipe  # noqa: E402
from mrsi_engine.networks.simulation import SimulationSettings, Simulator  # noqa: E402
from mrsi_engine.nuclei import nucleus  # noqa: E402
from mrsi_engine.pipeline.pipeline import Pipeline  # noqa: E402
from mrsi_engine.pipeline.stage import Block, Context  # noqa: E402
from mrsi_engine.runs.bases import BasisChoice, load_basis  # noqa: E402
from mrsi_engine.spectra.basis import Basis  # noqa: E402
from mrsi_engine.stages import Quantify  # noqa: E402
from tests.benchmarks.bench import machine  # noqa: E402

MODEL, PIPELINE = "press-3t-te30", "brain-1h-3t"
METHODS = ("network", "auto", "least-squares")

#: The promises: amplitudes are the same within this share of their bound, in this share of voxels,
#: at this rate on one core.
SAME, SHARE, VOXELS_PER_S = 0.01, 0.99, 2000.0

#: Edges between bins of SNR; what errors are shown of; what 95 % of them should be below.
SNRS, SHOWN, LIMIT = (10.0, 20.0, 40.0, 80.0), ("NAANAAG", "CrPCr", "GPCPCh", "Ins", "GluGln"), 1.96

#: A lipid line: ppm and damping (1/s).
LIPID_PPM, LIPID_DAMPING = 1.3, 60.0


@dataclass(frozen=True)
class Case:
    """Signals unlike those of training: ranges that differ, a column that is missing, a lipid line
    of so many heights of an average NAA peak and any phase; and what is changed of the fit.
    """

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    missing: str = ""
    lipid: float = 0.0
    fit: dict[str, Any] = field(default_factory=dict)


CASES = {
    "as in training": Case(),
    "shift +40 Hz": Case({"shift_hz": (35.0, 45.0)}),
    "shift -40 Hz": Case({"shift_hz": (-45.0, -35.0)}),
    "damping 55 to 95 /s": Case({"damping": (55.0, 95.0)}),
    "phase 60 to 120 degrees": Case({"phase_deg": (60.0, 120.0)}),
    "no NAA": Case(missing="NAA"),
    "lipid 1 x NAA": Case(lipid=1.0),
    "lipid 3 x NAA": Case(lipid=3.0),
    "lipid 10 x NAA": Case(lipid=10.0),
    "lipid 3 x NAA, from 1.85 ppm": Case(lipid=3.0, fit={"window_ppm": (1.85, 4.0)}),
    "lipid 10 x NAA, from 1.85 ppm": Case(lipid=10.0, fit={"window_ppm": (1.85, 4.0)}),
}

#: Where the time of a voxel goes. What one of them calls counts as its own.
PIECES: dict[str, tuple[Any, str]] = {
    "noise of the data": (LeastSquares, "_noise"),
    "encoder": (Encoder, "forward"),
    "novelty": (Novelty, "score"),
    "best of the grid": (StartGrid, "best"),
    "window and its frame": (Search, "_framed"),
    "tabulated steps": (TabulatedSteps, "refined"),
    "stiffness of the baseline": (Search, "_with_stiffness"),
    "full steps": (search, "fit"),
    "chi-square": (Search, "_at_noise_level"),
    "rest, from the grid": (Search, "_fitted"),
    "writing": (LeastSquares, "_write"),
    "writing, of the spectrum": (LeastSquares, "_write_spectrum"),
}

Figures = dict[str, Any]
Apply = Callable[[Block], None]


def training() -> SimulationSettings:
    """What the shipped model was trained on."""
    return Recipe.model_validate(load_model(MODEL).card.recipe).simulation


def plain() -> SimulationSettings:
    """The same without nuisances."""
    return training().model_copy(update={"baseline": 0.0, "residual_water": 0.0, "lipids": 0.0})


def made_basis() -> Basis:
    """The basis that the model is for, on its axis."""
    return load_basis(BasisChoice(MODEL), load_model(MODEL).card.axis.acquisition)


def default_fit() -> Quantify:
    """Of the default pipeline."""
    return next(s for s in Pipeline.load(PIPELINE).stages if isinstance(s, Quantify))


def fits() -> dict[str, Quantify]:
    """What is measured: no baseline, and the default pipeline's."""
    return {"simple": Quantify(max_shift_hz=30.0), "default": default_fit()}


def known(quick: bool) -> Figures:
    """Signals of the training: agreement, ways and times, by fit and kind of signals."""
    basis, voxels, runs = made_basis(), 512 if quick else 4096, 3 if quick else 5
    kinds = {"plain": plain()} | ({"nuisances": training()} if training() != plain() else {})
    return {
        f"{fit}, {kind}": agreement(
            race(stage, basis, Simulator(kinds[kind], basis).draw(voxels, seed=21).fids, runs)
        )
        for fit, stage in fits().items()
        for kind in kinds
    }


def applied(stage: Quantify, method: str, basis: Basis) -> Apply:
    """A fit by one method, its tables made."""
    own = stage.model_copy(update={"method": method})
    return own.build(Context(basis.acquisition, basis))


def race(stage: Quantify, basis: Basis, fids: Tensor, runs: int) -> dict[str, tuple[Block, float]]:
    """What each method finds, and the median CPU time (s) it takes, its tables ready."""
    built = {method: applied(stage, method, basis) for method in METHODS}
    for apply in built.values():
        apply(Block(fids[:256]))
    spent, blocks = defaultdict(list), {}
    for _ in range(runs):
        for method, apply in built.items():
            blocks[method] = Block(fids.clone())
            begin = time.process_time()
            apply(blocks[method])
            spent[method].append(time.process_time() - begin)
    return {method: (blocks[method], statistics.median(spent[method])) for method in METHODS}


def agreement(found: dict[str, tuple[Block, float]]) -> Figures:
    """Of ``auto`` with ``least-squares``, over all voxels and by SNR; voxels/s of each method."""
    auto, grid = found["auto"][0], found["least-squares"][0]
    alike, accepted = same(auto, grid), auto.status == Status.NETWORK_REFINED
    bins = torch.bucketize(grid.measures["snr"], torch.tensor(SNRS, dtype=torch.float64))
    edges = ("0", *(f"{s:g}" for s in SNRS), "")
    rows = {"all": bins >= 0}
    rows |= {f"{edges[b]}-{edges[b + 1]}": bins == b for b in range(len(SNRS) + 1)}
    return {
        "voxels_per_s": {m: len(bins) / seconds for m, (_, seconds) in found.items()},
        "same_by_name": dict(zip(amplitudes(grid), map(share, alike), strict=True)),
        "by_snr": {
            name: {
                "voxels": int(chosen.sum()),
                "same": share(alike.all(0)[chosen]),
                "worst": alike[:, chosen].double().mean(1).min().item(),
                "accepted": share(accepted[chosen]),
                "same_accepted": share(alike.all(0)[chosen & accepted]),
            }
            for name, chosen in rows.items()
        },
    }


def amplitudes(block: Block) -> list[str]:
    """Names of columns and their sums."""
    return [name for name in block.estimate if name not in ("shift", "lorentzian", "phase")]


def same(found: Block, other: Block) -> Tensor:
    """Whether amplitudes are the same within 1 % of the other's bound, ``(name, voxel)`` bool."""
    names = amplitudes(other)
    pairs = [(found.estimate[n] - other.estimate[n], other.sd[n]) for n in names]
    return torch.stack([(apart.abs() < SAME * sd) | sd.isnan() for apart, sd in pairs])


def share(of: Tensor) -> float:
    """Of those that are true."""
    return of.double().mean().item()


def strange(quick: bool) -> Figures:
    """Signals unlike the training: the default fit's errors by each method, ways, beliefs."""
    basis, voxels = made_basis(), 128 if quick else 1024
    found: Figures = {}
    for name, case in CASES.items():
        fids, truth = drawn(case, basis, voxels)
        stage = default_fit().model_copy(update={"max_shift_hz": 50.0, **case.fit})
        blocks = {method: Block(fids.clone()) for method in METHODS}
        for method, block in blocks.items():
            applied(stage, method, basis)(block)
        grid = blocks["least-squares"]
        found[name] = {method: judged(block, grid, truth) for method, block in blocks.items()}
    return found


def drawn(case: Case, basis: Basis, voxels: int) -> tuple[Tensor, dict[str, Tensor]]:
    """FIDs ``(voxel, time)`` of a case and their true amplitudes ``(voxel,)``."""
    spans = plain().amplitudes | ({case.missing: (0.0, 0.0)} if case.missing else {})
    settings = plain().model_copy(update={**case.ranges, "amplitudes": spans})
    batch = Simulator(settings, basis).draw(voxels, seed=21)
    truth = dict(zip(basis.names, batch.amplitudes.T.double(), strict=True))
    truth |= {
        c.label: torch.stack([truth[m] for m in c.members]).sum(0) for c in nucleus("1H").sums
    }
    turn = np.exp(2j * np.pi * np.random.default_rng(5).random(voxels))
    artefact = case.lipid * np.outer(turn, lipid(basis))
    return batch.fids + torch.from_numpy(artefact.astype(np.complex64)), truth


def lipid(basis: Basis) -> NDArray[np.complex128]:
    """A line as high as an average NAA peak, ``(time,)``."""
    axis, settings = basis.acquisition, plain()
    amplitude, damping = map(statistics.fmean, (settings.amplitudes["NAA"], settings.damping))
    naa = amplitude * basis["NAA"] * np.exp(-damping * axis.time)
    line = np.exp((2j * np.pi * axis.frequency_of(LIPID_PPM) - LIPID_DAMPING) * axis.time)
    near = (axis.ppm > 1.8) & (axis.ppm < 2.2)
    heights = axis.spectrum(naa).real[near].max(), axis.spectrum(line).real.max()
    return line * heights[0] / heights[1]


def judged(block: Block, grid: Block, truth: dict[str, Tensor]) -> Figures:
    """One method's errors in bounds of ``least-squares``, where voxels went, what is believed."""
    errors = {n: (block.estimate[n] - truth[n]).abs() / grid.sd[n] for n in SHOWN}
    quantiles = torch.tensor([0.5, 0.95], dtype=torch.float64)
    novelty = block.measures.get("novelty")
    return {
        "errors": {
            nucleus("1H").title_of(n): e.nanquantile(quantiles).tolist() for n, e in errors.items()
        },
        "ways": {s.name: share(block.status == s) for s in Status if (block.status == s).any()},
        "novel": None if novelty is None else share(novelty > 1),
        "converged": share(block.measures["converged"] == 1),
        "fit_quality": block.measures["fit_quality"].nanmedian().item(),
        "same": share(same(block, grid).all(0)),
    }


def pieces(quick: bool) -> Figures:
    """Where the time of ``auto`` goes: ms a voxel, by fit; what is left is in ``other``."""
    basis, voxels, runs = made_basis(), 512 if quick else 4096, 3 if quick else 5
    fids = Simulator(plain(), basis).draw(voxels, seed=21).fids
    return {name: split(applied(fit, "auto", basis), fids, runs) for name, fit in fits().items()}


def split(apply: Apply, fids: Tensor, runs: int) -> dict[str, float]:
    """Median CPU time of each piece, ms a voxel, and of one evaluation of the full model."""
    apply(Block(fids[:256]))
    spent: list[dict[str, float]] = []
    for _ in range(runs):
        seconds, begin = dict.fromkeys(PIECES, 0.0), time.process_time()
        with watched(seconds):
            apply(Block(fids.clone()))
        whole = time.process_time() - begin
        spent.append({**seconds, "other": whole - sum(seconds.values()), "whole": whole})
    found = {n: 1e3 * statistics.median(s[n] for s in spent) / len(fids) for n in spent[0]}
    return {**found, "one full evaluation": 1e3 * evaluation(apply, fids[:256], 9 * runs)}


@contextmanager
def watched(seconds: dict[str, float]) -> Iterator[None]:
    """Add to ``seconds`` what is spent in each piece."""
    busy = False

    def around(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **others: Any) -> Any:
            nonlocal busy
            if busy:
                return function(*arguments, **others)
            busy, begin = True, time.process_time()
            found = function(*arguments, **others)
            seconds[name] += time.process_time() - begin
            busy = False
            return found

        return timed

    with ExitStack() as stack:
        for name, (owner, attribute) in PIECES.items():
            timed = around(name, getattr(owner, attribute))
            stack.enter_context(patch.object(owner, attribute, timed))
        yield


def evaluation(apply: Apply, fids: Tensor, runs: int) -> float:
    """Median CPU time (s a voxel) of amplitudes and normal equations, where the fits ended."""
    assert isinstance(apply, LeastSquares)
    solved, spent = apply.solve(Block(fids)), []
    for _ in range(runs):
        begin = time.process_time()
        evaluate(solved.problem, solved.spectra, solved.result.last.theta, None)
        spent.append(time.process_time() - begin)
    return statistics.median(spent) / len(fids)


def percent(value: float | None, digits: int = 1) -> str:
    """A share as people read it."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def barred(text: str, missed: bool) -> str:
    """In red what misses its bar."""
    return f"[red]{text}[/red]" if missed else text


def show_known(console: Console, found: Figures) -> None:
    """Agreement by SNR, and times."""
    columns = ("fit, signals", "SNR", "voxels", "same", "worst amplitude", "accepted")
    table = Table(*columns, "same of these", title="auto against least-squares, % of voxels")
    rates = Table("fit, signals", *METHODS, title="ms a voxel, voxels/s")
    for name, figures in found.items():
        for snr, row in figures["by_snr"].items():
            agreed = barred(percent(row["same"], 2), snr == "all" and row["same"] < SHARE)
            rest = (percent(row[key], 2) for key in ("worst", "accepted", "same_accepted"))
            table.add_row(name if snr == "all" else "", snr, str(row["voxels"]), agreed, *rest)
        table.add_section()
        speeds = figures["voxels_per_s"].items()
        missed = {m: m == "auto" and per_s < VOXELS_PER_S for m, per_s in speeds}
        cells = (barred(f"{1e3 / per_s:.3f}, {per_s:.0f}", missed[m]) for m, per_s in speeds)
        rates.add_row(name, *cells)
    console.print(table, rates)


def show_strange(console: Console, found: Figures) -> None:
    """Errors, ways and beliefs."""
    columns = ("refined", "grid", "no fit", "novel", "converged", "same", "fit quality")
    table = Table("signals", "method", *map(nucleus("1H").title_of, SHOWN), *columns)
    table.title = "|error| / bound, median and 95 %; % of voxels; median fit quality"
    for case, methods in found.items():
        for method, row in methods.items():
            errors = (f"{median:.2f} {high:.1f}" for median, high in row["errors"].values())
            ways = (row["ways"].get(s, 0.0) for s in ("NETWORK_REFINED", "LEAST_SQUARES", "NO_FIT"))
            shares = map(percent, (*ways, row["novel"], row["converged"], row["same"]))
            title = case if method == METHODS[0] else ""
            table.add_row(title, method, *errors, *shares, f"{row['fit_quality']:.2f}")
        table.add_section()
    console.print(table)


def show_pieces(console: Console, found: Figures) -> None:
    """One row a piece."""
    table = Table("piece", *found, title="auto, ms a voxel")
    for name in next(iter(found.values())):
        table.add_row(name, *(f"{column[name]:.4f}" for column in found.values()))
    console.print(table)


def draw(found: Figures) -> Figure:
    """Median to 95 % of the errors of the network alone and of ``auto``, a panel an amplitude."""
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    for axes, title in zip(panels, map(nucleus("1H").title_of, SHOWN), strict=True):
        axes.axvspan(1e-1, LIMIT, color="0.92")
        for method, colour, offset in (("network", "tab:red", -0.15), ("auto", "tab:blue", 0.15)):
            spans = [row[method]["errors"][title] for row in found.values()]
            rows = [number + offset for number in range(len(spans))]
            low, high = zip(*spans, strict=True)
            axes.hlines(rows, low, high, color=colour, lw=2, label=f"{method}: median to 95 %")
            axes.plot(low, rows, "o", color=colour, ms=4)
        axes.set(title=title, xscale="log", xlabel="|error| / Cramér-Rao bound")
    panels[0].set_yticks(range(len(found)), list(found))
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


MEASUREMENTS = {
    "known": (known, show_known),
    "strange": (strange, show_strange),
    "pieces": (pieces, show_pieces),
}


def main(arguments: list[str] | None = None) -> None:
    """Run the measurements asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--figure", type=Path, help="where the figure goes, .svg or .png")
    parser.add_argument("--only", nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    parser.add_argument("--quick", action="store_true", help="fewer voxels and runs")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=200)
    results: dict[str, Figures] = {"machine": machine(), "model": load_model(MODEL).checksum}
    for name in chosen.only:
        measure, show = MEASUREMENTS[name]
        results[name] = measure(chosen.quick)
        show(console, results[name])
    if chosen.out:
        chosen.out.write_text(json.dumps(results, indent=2) + "\n")
    if chosen.figure and "strange" in results:
        draw(results["strange"]).savefig(chosen.figure)


if __name__ == "__main__":
    main()
