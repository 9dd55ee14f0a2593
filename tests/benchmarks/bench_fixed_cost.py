"""CPU seconds of one small scan by step, in a process that is warm: what is not the fit itself.

Several scans of one protocol with other seeds, each into a new folder, with ``workers=0``. Run it
alone: ``python tests/benchmarks/bench_fixed_cost.py [SCANS] [--profile FILE]``. Functions are timed
with :func:`time.process_time`, each without those that are timed inside it; kernels are what the
pipeline spends on blocks and on passes, not on the few voxels that a report is drawn of again.
"""

from __future__ import annotations

import argparse
import cProfile
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs import one_scan
from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.runs.one_scan import Inputs, Options
from mrsi_engine.spectra.phantom import PhantomSettings

#: What is timed: step, module, function. Those that are not there (any more) are left out.
STEPS = (
    ("check", "runs.one_scan", "check_scan"),
    ("import", "runs.one_scan", "import_once"),
    ("plan", "engine.plan", "plan"),
    ("passes", "engine.passes", "run_part"),
    ("passes", "engine.passes", "finish_pass"),
    ("passes", "engine.passes", "next_pass"),
    ("blocks", "engine.blocks", "run_block"),
    ("tables", "pipeline.pipeline", "prepare_pipeline"),
    ("run", "engine.driver", "run"),
    ("finalise", "engine.finish", "finalise"),
    ("delay", "runs.delay", "note_delay"),
    ("delay", "runs.delay", "unstated_delay"),
    ("open result", "runs.opened", "open_run"),
    ("summary", "report.summary", "write_summary"),
    ("verdict", "report.verdict", "verdict_on"),
    ("open result", "io.result_store", "open_result"),
    ("maps", "io.maps", "export_maps"),
    ("parquet", "io.tables", "write_table"),
    ("voxels again", "runs.reporting", "fitted_examples"),
    ("voxels again", "runs.reporting", "traced_examples"),
    ("voxels again", "runs.reporting", "drawn_again"),
    ("report", "report.html", "write_report"),
    ("figures", "report.svg", "figure_uri"),
    ("figures", "report.svg", "chart_uri"),
    ("mosaics", "report.pictures", "picture"),
)


#: Voxels of the scan that makes the process warm.
_WARM = (8, 8, 1)


class Clock:
    """CPU seconds by step, each without the steps within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.process_time()

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self._count()
        # The kernels are of blocks and passes; tables are made once wherever they are asked for.
        self._open.append(step)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def within(self, step: str) -> bool:
        return step in self._open

    def _count(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def timed(clock: Clock, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its seconds on the clock."""

    @wraps(function)
    def counted(*given: Any, **named: Any) -> Any:
        with clock(step):
            return function(*given, **named)

    return counted


def watch(clock: Clock) -> None:
    """Time every step, wherever its function was imported to."""
    for step, module, name in STEPS:
        function = getattr(import_module(f"mrsi_engine.{module}"), name, None)
        if function is not None:
            _replace(function, timed(clock, step, function))
    prepared = import_module("mrsi_engine.pipeline.pipeline").PreparedPipeline
    called = prepared.__call__

    def kernels(self: Any, *given: Any) -> Any:
        counted = clock.within("blocks") or clock.within("passes")
        with clock("kernels" if counted else "voxels again"):
            return called(self, *given)

    prepared.__call__ = kernels
    procedure = import_module("mrsi_engine.engine.procedure").Procedure
    summarised = procedure.summarise
    procedure.summarise = timed(clock, "kernels", summarised)


def _replace(old: Any, new: Any) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("mrsi_engine"):
            for key, value in list(vars(module).items()):
                if value is old:
                    setattr(module, key, new)


def measure(
    scans: int, shape: tuple[int, int, int], profile: str | None = None, pipeline: str = ""
) -> dict[str, float]:
    """Median CPU seconds by step over all scans but the first, which makes the process warm."""
    clock, told = Clock(), []
    profiler = cProfile.Profile(time.process_time) if profile else None
    with tempfile.TemporaryDirectory() as folder:
        shapes = [_WARM, *[shape] * scans]
        inputs = [_simulated(Path(folder, f"scan{n}"), s, n) for n, s in enumerate(shapes)]
        watch(clock)
        run = one_scan.process
        for n, scan in enumerate(inputs):
            clock.seconds.clear()
            if profiler and n == 1:
                profiler.enable()
            with clock("rest"):
                run(
                    scan,
                    BasisChoice("press-3t-te30"),
                    Pipeline.load(pipeline or "brain-1h-3t"),
                    Path(folder, f"out{n}"),
                    Options(workers=0),
                )
            told.append(dict(clock.seconds))
            print(f"scan {n}: {sum(told[-1].values()):.2f} s", file=sys.stderr)
    if profiler and profile:
        profiler.disable()
        profiler.dump_stats(profile)
    steps = {step for one in told[1:] for step in one}
    return {step: statistics.median(one.get(step, 0.0) for one in told[1:]) for step in steps}


def _simulated(folder: Path, shape: tuple[int, int, int], seed: int) -> Inputs:
    phantom = simulate_scan(folder, PhantomSettings(shape=shape, seed=seed + 1, nuisance="water"))
    files = {name: folder / f"{name}.nii.gz" for name in phantom.tissue}
    return Inputs.of(
        folder / "scan.nii.gz",
        mask=folder / "mask.nii.gz",
        water=folder / "water.nii.gz",
        tissue=files,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scans", type=int, nargs="?", default=10)
    parser.add_argument("--shape", type=int, nargs=3, default=(8, 8, 1))
    parser.add_argument("--pipeline", default="")
    parser.add_argument("--profile")
    given = parser.parse_args()
    seconds = measure(given.scans, tuple(given.shape), given.profile, given.pipeline)
    for step, value in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"{step:14s} {value:7.3f}")
    fixed = sum(value for step, value in seconds.items() if step != "kernels")
    print(f"{'sum':14s} {sum(seconds.values()):7.3f}\n{'without kernels':14s} {fixed:7.3f}")


if __name__ == "__main__":
    main()
