"""A cohort of small scans on two workers of this machine: what it costs beside the kernels.

CPU seconds a scan, memory of the driver over time (a plot), and how long a finished cohort takes to
be found finished. Some scans are broken, some have no mask, and there are two protocols.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mrsi_engine.cohort.ledger import FINISHED, LedgerReader
from mrsi_engine.io.result_store import ResultStore
from tests.chaos.made_cohort import make_cohort
from tests.chaos.watched import Watched, watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reports", default="all")
    parser.add_argument("--out", type=Path, default=Path("cohort-bench"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(Path(scratch), given.scans, given.workers, given.reports, given.out)
    (given.out / "cohort.json").write_text(json.dumps(figures, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:45} {value:10.3f}")


def measure(scratch: Path, scans: int, workers: int, reports: str, out: Path) -> dict[str, float]:
    """Figures of the first run and of the second, which finds all done."""
    tenth = max(1, scans // 20)
    cohort = make_cohort(scratch, scans, broken=tenth, without_mask=tenth)
    mrsi = str(Path(sys.executable).with_name("mrsi"))
    command = [mrsi, "cohort", str(cohort.table)]
    command += ["--out", str(scratch / "out"), "--workers", str(workers), "--reports", reports]
    first, again = watch(command), watch(command)
    if first.code not in (0, 1) or len(cohort.good) + len(cohort.broken) != scans:
        sys.exit(first.output)
    finished = LedgerReader(scratch / "out").read().of(*FINISHED)
    kernel = sum(kernel_seconds(scratch / "out" / record.scan) for record in finished)
    plot_memory(first, out / "driver-memory.png")
    return {
        "scans": scans,
        "finished": len(finished),
        "lost though good": len(cohort.good) - len(finished),
        "wall s": first.seconds,
        "CPU s": first.cpu_seconds,
        "CPU s of the driver": first.driver_cpu_seconds,
        "kernel s": kernel,
        "CPU s a scan": first.cpu_seconds / scans,
        "CPU s a scan beside the kernels": (first.cpu_seconds - kernel) / scans,
        "driver MB, a quarter through": _megabytes(first, 0.25),
        "driver MB, at nine tenths": _megabytes(first, 0.9),
        "wall s of the second run": again.seconds,
        "CPU s of the second run": again.cpu_seconds,
    }


def kernel_seconds(folder: Path) -> float:
    """Time that stages took in the blocks and passes of a scan, s."""
    store = ResultStore.open(folder / "result.zarr")
    return sum(session["kernel_seconds"] for session in store.attributes["timings"])


def plot_memory(run: Watched, path: Path) -> None:
    """Memory of the driver over time."""
    seconds, resident = np.array(run.memory).T
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(seconds, resident / 1e6)
    axes.set(xlabel="s", ylabel="driver, resident (MB)", ylim=(0, None))
    figure.savefig(path, dpi=120)


def _megabytes(run: Watched, share: float) -> float:
    return run.memory[int(share * (len(run.memory) - 1))][1] / 1e6


if __name__ == "__main__":
    main()
