"""How much of a run is not the fit: 50 000 voxels on two workers, least squares, no nuisances.

Run it alone: ``python tests/benchmarks/bench_engine.py [VOXELS] [threads]``.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mrsi_engine.conventions import Acquisition
from mrsi_engine.engine.clusters import warm_up
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.plan import plan
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.simulation import simulate_basis
from mrsi_engine.stages import Quantify

WORKERS = 2
POINTS = 1024


def measure(
    voxels: int = 50_000, runs: int = 1, *, processes: bool = True, warm: bool = True
) -> dict[str, float]:
    """Median figures of several runs.

    ``overhead_fraction`` is the share of the workers' time, from asking for the cluster to its
    end, that was not spent in stages; ``running_overhead_fraction`` leaves the start of the
    cluster out. With ``warm``, what workers import is begun before the scan is there, as
    ``mrsi run`` does while it imports one; without, the first run pays for it.
    """
    with tempfile.TemporaryDirectory() as folder:
        if warm and processes:
            warm_up()
        basis = simulate_basis("press", echo_time=0.03, field=3.0, points=POINTS)
        scan = _scan(Path(folder, "scan.zarr"), voxels, basis)
        figures = [_run(scan, basis, Path(folder, f"out-{i}"), processes) for i in range(runs)]
    medians = {key: statistics.median(f[key] for f in figures) for key in figures[0]}
    return {**medians, "voxels": voxels, "runs": runs}


def _run(scan: ScanStore, basis: Basis, out: Path, processes: bool) -> dict[str, float]:
    pipeline = Pipeline(name="bench", stages=(Quantify(),))
    todo = plan(scan.path, pipeline, basis, out)
    started = time.perf_counter()
    summary = run(todo, workers=WORKERS, processes=processes)
    seconds = time.perf_counter() - started
    kernels = summary.kernel_seconds
    return {
        "overhead_fraction": 1 - kernels / (WORKERS * seconds),
        "running_overhead_fraction": 1 - kernels / (WORKERS * summary.seconds),
        "voxels_per_s": voxels_per_s(summary.voxels_done, seconds),
        "kernel_ms_per_voxel": 1e3 * kernels / summary.voxels_done,
        "seconds": seconds,
    }


def voxels_per_s(voxels: int, seconds: float) -> float:
    """Rate of a whole run, its start included."""
    return voxels / seconds


def _scan(path: Path, voxels: int, basis: Basis) -> ScanStore:
    side = int(np.ceil(voxels ** (1 / 3)))
    places = np.stack(np.unravel_index(np.arange(voxels), (side, side, side)), axis=1)
    axis = basis.acquisition
    scan = ScanStore.create(path, places, axis, (side, side, side), np.eye(4))
    fids = _spectra(scan.chunk, basis, axis)
    for start in range(0, voxels, scan.chunk):
        scan.write_fids(start, fids[: min(scan.chunk, voxels - start)])
    return ScanStore.open(path)


def _spectra(voxels: int, basis: Basis, axis: Acquisition) -> np.ndarray:
    """Spectra of random amplitudes, shifts and dampings with white noise, ``(voxel, time)``."""
    rng = np.random.default_rng(0)
    amplitudes = rng.uniform(0.2, 1.0, (voxels, len(basis.names)))
    shift, damping = rng.normal(0, 3, (voxels, 1)), rng.uniform(8, 16, (voxels, 1))
    fids = (amplitudes @ basis.fids) * np.exp((2j * np.pi * shift - damping) * axis.time)
    noise_sd = 0.02 * np.abs(fids[:, 0]).mean()
    noise = rng.normal(size=fids.shape) + 1j * rng.normal(size=fids.shape)
    return (fids + noise_sd * noise).astype(np.complex64)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    json.dump(measure(count, processes="threads" not in sys.argv), sys.stdout, indent=2)
