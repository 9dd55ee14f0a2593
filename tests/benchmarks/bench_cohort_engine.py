"""What scheduling a cohort costs: scans whose kernels are empty, on many simulated workers.

Run: python tests/benchmarks/bench_cohort_engine.py [--scans 5000] [--workers 200] [--large 0.02]

Scheduler, driver and workers are processes of their own, so that the CPU time of each is known;
the workers share a few processes, since they do nothing. One scan in fifty is a large one of 24
tasks. Prints CPU seconds a task, the driver's memory as the run goes on, and what that makes of
100 000 scans.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dask
import psutil
from distributed import Client, Scheduler, Worker

from mrsi_engine.cohort import course
from mrsi_engine.cohort.events import CohortEvent, ScanFailed, ScanFinished, Step
from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.cohort.life import live
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.steps import Begun, Finished
from mrsi_engine.engine import rounds
from mrsi_engine.engine.blocks import Receipt
from mrsi_engine.engine.clusters import DASK_SETTINGS
from mrsi_engine.engine.plan import Plan
from mrsi_engine.engine.rounds import Round
from mrsi_engine.pipeline.pipeline import Pipeline

#: Blocks of a large scan, which is that many tasks and two more.
BLOCKS = 22

#: About as much as a real row of the group table holds.
SUMMARY = {f"column_{n}": 1.0 / (n + 1) for n in range(120)}

#: Voxels that mark a small scan and a large one.
SMALL, LARGE = 64, 50_000


def finished(voxels: int) -> Finished:
    steps = dict.fromkeys((Step.IMPORT, Step.PROCESS, Step.FINISH), 0.0)
    return Finished(voxels, True, "64 of 64 voxels usable", SUMMARY, steps)


def begin_nothing(job: ScanJob) -> Begun | Finished:
    if job.voxels == SMALL:
        return finished(SMALL)
    plan = Plan(f"{job.out}/{job.name}/result.zarr", f"{job.out}/{job.name}/scan.zarr", "0" * 64)
    blocks = Round(plan, None, dict.fromkeys(range(BLOCKS), LARGE // BLOCKS))
    return Begun(plan, LARGE, blocks, {Step.IMPORT: 0.0}, {"import": 0.0})


def do_nothing(plan: Plan, block: int) -> Receipt:
    return Receipt(block, LARGE // BLOCKS, 0.0, 0.0, {3: LARGE // BLOCKS})


def end_nothing(*_: object) -> Finished:
    return finished(LARGE)


def jobs_of(scans: int, share: float) -> Iterator[ScanJob]:
    """A generator: the driver must not need them all at once."""
    pipeline = Pipeline.load("brain-1h-3t")
    every = round(1 / share) if share else scans + 1
    for number in range(scans):
        row = ScanRow(f"/nowhere/sub-{number}_mrsi.nii.gz", subject=str(number))
        voxels = LARGE if number % every == every - 1 else SMALL
        yield ScanJob.of(row, "/nowhere/out", pipeline, voxels=voxels)


async def serve_scheduler() -> None:
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        print(scheduler.address, flush=True)
        await scheduler.finished()


async def serve_workers(address: str, count: int) -> None:
    workers = [Worker(address, nthreads=1, memory_limit=0) for _ in range(count)]
    await asyncio.gather(*workers)
    print("here", flush=True)
    await asyncio.gather(*(worker.finished() for worker in workers))


@contextmanager
def serving(*words: str) -> Iterator[tuple[psutil.Process, str]]:
    """A process that serves, and the first line it says."""
    served = subprocess.Popen(
        [sys.executable, __file__, "--serve", *words], stdout=subprocess.PIPE, text=True
    )
    assert served.stdout is not None
    try:
        yield psutil.Process(served.pid), served.stdout.readline().strip()
    finally:
        served.terminate()
        served.wait()


def cpu_seconds(*processes: psutil.Process) -> float:
    return sum(p.cpu_times().user + p.cpu_times().system for p in processes)


def measure(scans: int, workers: int, share: float) -> None:
    with ExitStack() as stack:
        scheduler, address = stack.enter_context(serving("scheduler"))
        each = [workers // 2, workers - workers // 2]
        hosts = [stack.enter_context(serving("workers", address, str(n)))[0] for n in each]
        client = stack.enter_context(Client(address, set_as_default=False))
        client.wait_for_workers(workers, timeout=120)
        driver = psutil.Process()
        done, memory = 0, []

        def sink(event: CohortEvent) -> None:
            nonlocal done
            assert not isinstance(event, ScanFailed), event
            done += isinstance(event, ScanFinished)
            if isinstance(event, ScanFinished) and done % max(1, scans // 10) == 0:
                held = (driver.memory_info().rss, scheduler.memory_info().rss)
                memory.append((done, *(rss / 1e6 for rss in held)))

        groups = {"driver": [driver], "scheduler": [scheduler], "workers": hosts}
        before = {name: cpu_seconds(*found) for name, found in groups.items()}
        began = time.perf_counter()
        live(client, jobs_of(scans, share), sink)
        wall = time.perf_counter() - began
        spent = {name: cpu_seconds(*found) - before[name] for name, found in groups.items()}
    assert done == scans, f"{done} scans ended"
    tell(scans, workers, share, wall, spent, memory)


def tell(
    scans: int,
    workers: int,
    share: float,
    wall: float,
    spent: dict[str, float],
    memory: list[tuple[int, float, float]],
) -> None:
    large = sum(job.voxels == LARGE for job in jobs_of(scans, share))
    tasks = scans - large + large * (BLOCKS + 2)
    print(f"{scans} scans ({large} large), {tasks} tasks, {workers} workers: {wall:.1f} s of wall")
    for name, seconds in spent.items():
        print(f"  {name:10} {seconds:7.1f} CPU s, {1e3 * seconds / tasks:6.2f} ms a task")
    for scan, driver, scheduler in memory:
        print(f"  after {scan:6} scans: driver {driver:6.0f} MB, scheduler {scheduler:6.0f} MB")
    for name in ("driver", "scheduler"):
        hours = spent[name] / scans * 1e5 / 3600
        print(f"  100 000 such scans: {name} {hours:.2f} CPU h")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--large", type=float, default=0.02)
    parser.add_argument("--serve", nargs="+")
    given = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    course.begin_scan, course.end_scan = begin_nothing, end_nothing
    rounds.run_block = do_nothing
    with dask.config.set(DASK_SETTINGS):
        if given.serve is None:
            measure(given.scans, given.workers, given.large)
        elif given.serve[0] == "scheduler":
            asyncio.run(serve_scheduler())
        else:
            asyncio.run(serve_workers(given.serve[1], int(given.serve[2])))


if __name__ == "__main__":
    # What tasks are made of is found by workers under the module's own name.
    sys.path.insert(0, str(Path(__file__).parent))
    from bench_cohort_engine import main as as_module

    as_module()
