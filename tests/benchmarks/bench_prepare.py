"""Memory and time of passes over a large scan: 100 000 voxels, workers limited to 1 GB.

Once with a stage whose summary is the largest there is, a time x time matrix of complex128 (16 MB
for 1024 points), and once with every shipped stage that needs the whole scan. Run it alone:
``python tests/benchmarks/bench_prepare.py [VOXELS]``.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster

from mrsi_engine.conventions import Acquisition
from mrsi_engine.engine.clusters import DASK_SETTINGS
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.plan import plan
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.stages import Denoise, FrequencyPhaseCorrection, WaterRemoval

WORKERS = 2
MEMORY_LIMIT = "1GB"
POINTS = 1024

# Workers import the stage, so it has to lie on the path they take over.
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))


def pipelines() -> dict[str, Pipeline]:
    """What is measured, by name."""
    from whole_scan import Casorati

    shipped = (
        FrequencyPhaseCorrection(smooth=True, reference="k-means"),
        WaterRemoval(method="casorati"),
        Denoise(patch=15, courses=64),
    )
    return {
        "one Gram matrix": Pipeline(name="bench", stages=(Casorati(),)),
        "fpc, casorati, denoise": Pipeline(name="shipped", stages=shipped),
    }


def measure(pipeline: Pipeline, voxels: int = 100_000) -> dict[str, Any]:
    """Peak resident memory (MB) of driver and workers, and seconds of a run with its passes.

    A worker that exceeds its limit is killed by Dask and the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        scan = _scan(Path(folder, "scan.zarr"), voxels)
        todo = plan(scan.path, pipeline, None, Path(folder, "out"), keep=["corrected"])
        before = _peak_mb()
        started = time.perf_counter()
        with _limited_cluster() as client:
            summary = run(todo, client=client)
            workers = client.run(_peak_mb)
        timing = todo.store.attributes["timings"][-1]
    return {
        "voxels": voxels,
        "memory_limit": MEMORY_LIMIT,
        "worker_peak_mb": sorted(round(peak) for peak in workers.values()),
        "driver_growth_mb": round(_peak_mb() - before),
        "prepare_seconds": timing["prepare_seconds"],
        "seconds": time.perf_counter() - started,
        "voxels_per_s_of_the_passes": voxels / timing["prepare_seconds"],
        "finished": summary.summary.finished,
    }


def _limited_cluster() -> Client:
    dask.config.set(DASK_SETTINGS)
    cluster = LocalCluster(
        n_workers=WORKERS,
        threads_per_worker=1,
        memory_limit=MEMORY_LIMIT,
        dashboard_address="127.0.0.1:0",
    )
    return Client(cluster)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _scan(path: Path, voxels: int) -> ScanStore:
    side = int(np.ceil(voxels ** (1 / 3)))
    places = np.stack(np.unravel_index(np.arange(voxels), (side, side, side)), axis=1)
    axis = Acquisition(points=POINTS, dwell_time=5e-4, spectrometer_frequency=123.25)
    scan = ScanStore.create(path, places, axis, (side, side, side), np.eye(4))
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(2, scan.chunk, POINTS)).astype(np.float32)
    fids = parts[0] + 1j * parts[1]
    for ppm, amplitude in ((4.7, 40.0), (3.2, 4.0), (3.03, 5.0), (2.01, 8.0)):
        hertz = axis.frequency_of(ppm) + rng.normal(0, 3, (scan.chunk, 1))
        fids += amplitude * np.exp((2j * np.pi * hertz - 15) * axis.time)
    fids = fids.astype(np.complex64)
    for start in range(0, voxels, scan.chunk):
        scan.write_fids(start, fids[: min(scan.chunk, voxels - start)])
    return ScanStore.open(path)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    json.dump({n: measure(p, count) for n, p in pipelines().items()}, sys.stdout, indent=2)
