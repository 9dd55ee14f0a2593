"""Measure the engine: ``bench.py [--out FILE] [--only NAME ...] [--quick]``.

Prints a table and writes one JSON object, a key a measurement. Times of one core are CPU time of
one thread, so that other work on the machine does not count; every figure is a median of runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Run as a script, the folder of this file is on the path, but not that of the tests.
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from mrsi_engine.pipeline.pipeline import Pipeline  # noqa: E402
from mrsi_engine.pipeline.stage import Block, Context, Stage  # noqa: E402
from mrsi_engine.stages import Quantify, WaterRemoval  # noqa: E402
from tests.benchmarks import monte_carlo  # noqa: E402
from tests.scenes import (  # noqa: E402
    GREY_MATTER,
    Lineshape,
    clean_fid,
    noise,
    press_basis,
    sd_for_snr,
)

Figures = dict[str, Any]

MEASUREMENTS: dict[str, Callable[[bool], Figures]] = {}

#: What the project promises; a figure above it is printed in red.
BARS = {
    ("nlls_simple", "ms_per_voxel_core"): 1.0,
    ("nlls_full", "ms_per_voxel_core"): 2.5,
    ("engine", "overhead_fraction"): 0.15,
}


def measurement(function: Callable[[bool], Figures]) -> Callable[[bool], Figures]:
    """Register a function of ``quick`` under its name."""
    MEASUREMENTS[function.__name__] = function
    return function


@measurement
def nlls_simple(quick: bool) -> Figures:
    """Quantify end to end: 20 metabolites and MM, one lineshape group, Cramér-Rao bounds."""
    return timed(Quantify(), brain(Lineshape()), quick)


@measurement
def nlls_full(quick: bool) -> Figures:
    """Two lineshape groups, Voigt lines and a spline baseline."""
    stage = Quantify(
        lineshape="voigt", macromolecules={"lineshape": "own"}, baseline={"kind": "spline"}
    )
    truth = Lineshape(gaussian=8.0, lorentzian_mm=15.0, gaussian_mm=12.0)
    return timed(stage, brain(truth), quick)


@measurement
def nlls_default(quick: bool) -> Figures:
    """The fit of the default pipeline, its baseline adapted to each voxel."""
    stages = Pipeline.load("brain-1h-3t").stages
    stage = next(s for s in stages if isinstance(s, Quantify))
    return timed(stage, brain(Lineshape()), quick)


@measurement
def nlls_map(quick: bool) -> Figures:
    """As ``nlls_simple`` with the shipped priors."""
    return timed(Quantify(amplitudes="map"), brain(Lineshape()), quick)


@measurement
def nlls_nonnegative(quick: bool) -> Figures:
    """As ``nlls_simple`` with amplitudes that may not be negative."""
    return timed(Quantify(amplitudes="nonnegative"), brain(Lineshape()), quick)


@measurement
def water_hsvd(quick: bool) -> Figures:
    """Removal of residual water, 1024 points."""
    axis = press_basis().acquisition
    water = 3e4 * np.exp((2j * np.pi * axis.frequency_of(4.68) - 15.0) * axis.time)
    return timed(WaterRemoval(), brain(Lineshape()) + water.astype(np.complex64), quick)


@measurement
def engine(quick: bool) -> Figures:
    """A whole run on two workers and what of it is not the fit."""
    return importlib.import_module("tests.benchmarks.bench_engine").measure(
        voxels=5_000 if quick else 50_000
    )


def brain(truth: Lineshape, voxels: int = 2048) -> np.ndarray:
    """Noisy grey-matter FIDs ``(voxel, 1024)`` complex64."""
    basis = press_basis()
    fid = clean_fid(basis, GREY_MATTER, truth)
    rng = np.random.default_rng(0)
    white = noise(rng, voxels, len(fid), sd_for_snr(basis, fid, 40.0))
    return (fid + white).astype(np.complex64)


def timed(stage: Stage, fids: np.ndarray, quick: bool) -> Figures:
    """Median time a voxel of a stage on one core, its tables ready."""
    runs, basis = (3 if quick else 9), press_basis()
    samples = torch.from_numpy(fids[:512] if quick else fids)
    context = Context(basis.acquisition, basis)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        apply = stage.build(context)
        apply(Block(samples[:256]))
        seconds = [_seconds(apply, samples) for _ in range(runs)]
    finally:
        torch.set_num_threads(threads)
    core, wall = (statistics.median(s) / len(samples) for s in zip(*seconds, strict=True))
    return {
        "ms_per_voxel_core": 1e3 * core,
        "voxels_per_s": 1 / core,
        "ms_per_voxel_wall": 1e3 * wall,
        "points": samples.shape[1],
        "columns": len(basis.names),
        "voxels": len(samples),
        "runs": runs,
    }


def _seconds(apply: Callable[[Block], None], fids: torch.Tensor) -> tuple[float, float]:
    block = Block(fids.clone())
    core, wall = time.process_time(), time.perf_counter()
    apply(block)
    return time.process_time() - core, time.perf_counter() - wall


def machine() -> Figures:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def show(console: Console, results: Mapping[str, Figures]) -> None:
    """One row a figure; those that miss their bar in red."""
    table = Table("measurement", "figure", "value", "bar")
    for name, figures in results.items():
        for key, value in figures.items():
            bar = BARS.get((name, key))
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            missed = bar is not None and value > bar
            table.add_row(name, key, f"[red]{text}[/red]" if missed else text, f"{bar or ''}")
        table.add_section()
    console.print(table)


def main(arguments: list[str] | None = None) -> None:
    """Run the measurements asked for."""
    names = [*MEASUREMENTS, "monte_carlo"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME",
                        help=", ".join(names))  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer voxels and runs")
    chosen = parser.parse_args(arguments)
    console = Console()
    results: dict[str, Figures] = {"machine": machine()}
    for name in chosen.only:
        console.print(f"{name} ...")
        if name == "monte_carlo":
            tables = monte_carlo.measure(draws=300 if chosen.quick else 2000)
            monte_carlo.show(console, tables)
            results[name] = monte_carlo.summary(tables)
        else:
            results[name] = MEASUREMENTS[name](chosen.quick)
    show(console, results)
    if chosen.out:
        chosen.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
