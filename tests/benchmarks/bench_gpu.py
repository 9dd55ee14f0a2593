"""Measure a GPU: ``PYTHONPATH=. python3 tests/benchmarks/bench_gpu.py [--voxels N] [--quick]``.

Spectra/s of the shipped network with copies, a whole scan through the default pipeline, time by
stage, memory a voxel, and whether GPU and CPU agree. Without a GPU it says so and measures nothing;
``--device cpu`` runs it all the same. Ends with 1 if results disagree.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrsi_engine.engine.devices import device_here, rows_to_device, title_of, to_host
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.passes import prepare
from mrsi_engine.engine.plan import layout_of, plan
from mrsi_engine.engine.procedure import Procedure, procedure_for
from mrsi_engine.engine.voxels import Voxels
from mrsi_engine.io.result_store import open_result
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.networks.model import load_model
from mrsi_engine.networks.quantifier import Quantifier
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.spectra.basis import Basis
from tests.scenes import press_basis

RUNS = 5
MODEL = "press-3t-te30"
PIPELINE = "brain-1h-3t"

#: What the project promises of a GPU.
SPECTRA_PER_S, SCAN_VOXELS, SCAN_SECONDS = 100_000, 50_000, 10.0

#: GPU and CPU may differ by this share of an error bar in all but 1 % of estimates: rounding sends
#: a few fits to another minimum, as another block size does.
SAME, SHARE = 0.01, 0.99


def network(device: torch.device, quick: bool) -> dict[str, Any]:
    """Encoder and decoder, from FIDs in the host's memory to estimates there."""
    model = load_model(MODEL)
    quantifier = Quantifier.of(model, device)
    count = 2048 if quick or device.type == "cpu" else 131_072
    rng = np.random.default_rng(0)
    shape = (count, model.card.axis.points)
    fids = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    everyone = np.ones(count, dtype=bool)

    def predict(batch: int) -> Callable[[], Any]:
        def once() -> dict[str, np.ndarray]:
            found = quantifier.predict(rows_to_device(fids, everyone, device), batch)
            return to_host({"amplitudes": found.amplitudes, "theta": found.theta})

        return once

    rates = {b: count / median(predict(b)) for b in (1024, 8192, 32_768) if b <= count}
    return {f"network, batch {b}, spectra/s": round(rate) for b, rate in rates.items()}


def scan_times(folder: Path, voxels: int, device: str) -> dict[str, Any]:
    """A scan through the default pipeline, stores and passes over it included."""
    basis = press_basis(1024, 0.4e-3)
    scan = wet_scan(folder / "scan.zarr", voxels, basis)
    figures: dict[str, Any] = {}
    for size, threads in ((2048, 1), (2048, 2), (16_384, 1)):
        seconds = []
        for number in range(3):
            out = folder / f"{size}-{threads}-{number}"
            todo = plan(
                scan.path, Pipeline.load(PIPELINE), basis, out, block_size=size, device=device
            )
            summary = run(todo, workers=1, threads_per_worker=threads, processes=False)
            seconds.append(summary.seconds)
        name = f"{voxels} voxels, blocks of {size}, threads {threads}"
        [session] = open_result(out).attrs["timings"]
        passes = session["prepare_seconds"]
        figures[f"{name}, s"] = round(statistics.median(seconds), 2)
        figures[f"{name}, of it passes over the scan, s"] = round(passes, 2)
    return figures


def by_stage(folder: Path, device: torch.device, size: int) -> dict[str, Any]:
    """Seconds of each stage on a block, and the most memory it took on a GPU."""
    procedure, voxels = prepared(folder, size, device)
    context = replace(procedure.context, device=device)
    block = voxels.block(voxels.quantifiable, device, False)
    figures: dict[str, Any] = {}
    contexts = procedure.pipeline.contexts(context)
    states = procedure.states or ({},) * len(contexts)
    for stage, known, state in zip(procedure.pipeline.stages, contexts, states, strict=True):
        here = {name: values.to(device) for name, values in state.items()}
        apply = stage.build(replace(known, state=here))
        with synchronised(device) as seconds:
            apply(block)
        figures[f"{stage.stage}, {len(block.fids)} voxels, s"] = round(seconds[0], 3)
        if device.type == "cuda":
            most = torch.cuda.max_memory_allocated(device)
            figures[f"{stage.stage}, kB a voxel"] = round(1e-3 * most / len(block.fids), 1)
    return figures


def agreement(folder: Path, device: torch.device) -> dict[str, Any]:
    """Share of the estimates that are the same on the device as on the CPU."""
    procedure, voxels = prepared(folder, 512, device)
    here, _ = replace(procedure, device="cpu").apply(voxels)
    there, _ = replace(procedure, device=str(device)).apply(voxels)
    with np.errstate(invalid="ignore"):
        apart = np.abs(there.estimate - here.estimate) / here.sd
    known = np.isfinite(here.estimate) & np.isfinite(here.sd) & (here.sd > 0)
    return {
        "same estimates": round(float((apart[known] < SAME).mean()), 5),
        "same status": float((there.status == here.status).mean()),
        "largest difference, error bars": round(float(np.nanmax(apart[known])), 5),
    }


def prepared(folder: Path, size: int, device: torch.device) -> tuple[Procedure, Voxels]:
    """The default pipeline with what its passes over a small scan found, and voxels of it."""
    basis = press_basis(1024, 0.4e-3)
    path = folder / f"few-{size}"
    scan = (
        wet_scan(path / "scan.zarr", size, basis)
        if not path.exists()
        else ScanStore.open(path / "scan.zarr")
    )
    pipeline = Pipeline.load(PIPELINE)
    todo = plan(scan.path, pipeline, basis, path / "out", device="cpu")
    prepare(todo)
    procedure = procedure_for(
        scan.acquisition, pipeline, basis, device=str(device), layout=layout_of(scan)
    )
    found = [todo.store.state(stage, steps) for stage, steps in enumerate(procedure.passes)]
    states = tuple({n: torch.from_numpy(v) for n, v in state.items()} for state in found)
    voxels = Voxels(
        scan.read_fids(0, size),
        {name: scan.read(name, 0, size) for name in scan.companions},
        scan.coordinates(0, size),
    )
    return replace(procedure, states=states), voxels


def wet_scan(path: Path, voxels: int, basis: Basis) -> ScanStore:
    """Random spectra with noise, water and lipids, a water reference, and a layer of scalp."""
    side = int(np.ceil(voxels ** (1 / 3)))
    places = np.stack(np.unravel_index(np.arange(voxels), (side, side, side)), axis=1)
    axis, rng = basis.acquisition, np.random.default_rng(0)
    scalp = np.arange(voxels) % 16 == 0
    scan = ScanStore.create(
        path,
        places,
        axis,
        (side, side, side),
        np.eye(4),
        signals={"water": {}},
        volumes={"scalp": scalp},
    )
    count, time = min(scan.chunk, voxels), axis.time
    amplitudes = rng.uniform(0.2, 1.0, (count, len(basis.names)))
    shift, damping = rng.normal(0, 3, (count, 1)), rng.uniform(8, 16, (count, 1))
    fids = (amplitudes @ basis.fids) * np.exp((2j * np.pi * shift - damping) * time)
    size = np.abs(fids[:, 0]).mean()
    fids += size * rng.uniform(1, 9, (count, 1)) * np.exp((2j * np.pi * shift - 12) * time)
    lines = axis.frequency_of(np.array([0.9, 1.3, 1.6]))[:, None]
    mixed = rng.uniform(0.5, 1.5, (count, 3)) * np.exp(2j * np.pi * rng.random((count, 3)))
    strength = np.where(scalp[:count], 20.0, 0.2)[:, None] * size
    fids += strength * mixed @ np.exp((2j * np.pi * lines - 60) * time)
    fids += 0.02 * size * (rng.normal(size=fids.shape) + 1j * rng.normal(size=fids.shape))
    water = 1e3 * size * np.exp((2j * np.pi * shift - 10) * time)
    for start in range(0, voxels, scan.chunk):
        rows = slice(0, min(scan.chunk, voxels - start))
        scan.write_fids(start, fids[rows].astype(np.complex64))
        scan.write("water", start, water[rows].astype(np.complex64))
    return ScanStore.open(path)


def median(work: Callable[[], Any]) -> float:
    """Seconds, after once to warm up; ``work`` must end with its results on the host."""
    work()
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@contextmanager
def synchronised(device: torch.device) -> Iterator[list[float]]:
    """Seconds until the device is done."""
    seconds: list[float] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    yield seconds
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds.append(time.perf_counter() - started)


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured on."""
    known = {name: version(name) for name in ("torch", "numpy", "dask", "zarr")}
    return {
        "device": title_of(device),
        "CUDA": torch.version.cuda,
        "python": platform.python_version(),
        **known,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--voxels", type=int, default=SCAN_VOXELS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("bench_gpu: torch sees no GPU; SKIPPED, nothing was measured")
        return 0
    torch.set_num_threads(1)
    device = device_here(options.device)
    figures = machine(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in (
            lambda: network(device, options.quick),
            lambda: agreement(folder, device),
            lambda: by_stage(folder, device, 512 if options.quick else 2048),
            lambda: scan_times(folder, options.voxels, options.device),
        ):
            found = part()
            figures |= found
            print(json.dumps(found, indent=2), flush=True)
    print(json.dumps(figures))
    print(f"bars: {SPECTRA_PER_S} spectra/s, {SCAN_VOXELS} voxels in {SCAN_SECONDS:g} s")
    same = figures["same estimates"] >= SHARE
    print("GPU and CPU agree" if same else f"GPU and CPU DISAGREE: fewer than {SHARE:.0%} the same")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
