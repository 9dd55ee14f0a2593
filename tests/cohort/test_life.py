"""The lives of scans on real clusters, and what death does to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from mrsi_engine.cohort.events import (
    CohortEvent,
    ScanAdvanced,
    ScanFailed,
    ScanFinished,
    ScanStarted,
    Step,
)
from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.cohort.life import live
from mrsi_engine.engine.clusters import local_cluster, refill_of
from mrsi_engine.errors import RunError
from mrsi_engine.io import result_store
from tests.cohort.small_cohort import (
    jobs_of,
    of_kind,
    results,
    scripted,
    scripted_pipeline,
    write_scan,
)


@pytest.fixture(scope="module")
def two_processes() -> Iterator[Client]:
    with local_cluster(2) as client:
        yield client


@pytest.fixture
def processes(two_processes: Client) -> Client:
    refill = refill_of(two_processes)
    assert refill is not None
    while len(two_processes.nthreads()) < 2:
        refill()
        threading.Event().wait(0.1)
    return two_processes


def lived(client: Client | None, jobs: list[ScanJob], **named: Any) -> list[CohortEvent]:
    events: list[CohortEvent] = []
    live(client, jobs, events.append, **named)
    return events


def cut(jobs: list[ScanJob]) -> list[ScanJob]:
    """As jobs, their scans in several tasks each."""
    return [replace(job, whole_voxels=4) for job in jobs]


def test_whole_or_cut_here_or_on_workers_scans_come_out_the_same(
    tmp_path: Path, processes: Client
) -> None:
    pipeline = scripted_pipeline(tmp_path / "log", passes=2)
    found = []
    for name, client, as_tasks in (
        ("here", None, list),
        ("cut", None, cut),
        ("workers", processes, cut),
    ):
        jobs = jobs_of(tmp_path, pipeline, 2, out=name, block_size=3, reports="none")
        events = lived(client, as_tasks(jobs))
        assert {e.scan for e in of_kind(events, ScanFinished)} == {job.name for job in jobs}
        found.append([results(job) for job in jobs])
        steps = [e.step for e in of_kind(events, ScanAdvanced) if e.scan == jobs[0].name]
        prepared = [] if as_tasks is list else [Step.PREPARE]
        assert steps == [Step.IMPORT, *prepared, Step.PROCESS, Step.FINISH]
    assert found[0][0]
    assert found[0] == found[1] == found[2]


def test_what_a_scan_leaves_is_what_a_run_leaves(tmp_path: Path) -> None:
    [job] = jobs_of(tmp_path, scripted_pipeline(tmp_path / "log"), 1)
    [finished] = of_kind(lived(None, [job]), ScanFinished)
    assert {path.name for path in job.folder.iterdir()} == {
        *("scan.zarr", "result.zarr", "maps", "voxels.parquet", "report.html", "summary.json"),
    }
    assert (finished.voxels, finished.accepted) == (12, True)
    assert json.loads((job.folder / "summary.json").read_text())["row"] == finished.summary


def test_reports_on_demand(tmp_path: Path) -> None:
    pipeline = scripted_pipeline(tmp_path / "log")
    for reports, min_usable, made in (("none", 1.0, False), ("flagged", 0.0, False)):
        [job] = jobs_of(tmp_path, pipeline, 1, out=f"{reports}-{min_usable}", reports=reports)
        lived(None, [replace(job, options=replace(job.options, min_usable=min_usable))])
        assert (job.folder / "report.html").exists() is made


def test_failures_never_stop_the_rest_and_wrong_input_is_not_tried_again(
    tmp_path: Path, processes: Client
) -> None:
    pipeline = scripted_pipeline(tmp_path / "log", {103: ["fail", ""], 203: ["fail"]})
    jobs = cut(jobs_of(tmp_path, pipeline, 6, block_size=3, reports="none"))
    Path(jobs[3].row.scan).write_bytes(b"no NIfTI")
    Path(jobs[4].row.scan).unlink()
    events = lived(processes, jobs, retries=1)
    finished = {e.scan for e in of_kind(events, ScanFinished)}
    assert finished == {jobs[i].name for i in (0, 1, 5)}
    failed = {(e.scan, e.again): e for e in of_kind(events, ScanFailed)}
    assert {*failed} == {
        (jobs[1].name, True),
        (jobs[2].name, True),
        (jobs[2].name, False),
        (jobs[3].name, False),
        (jobs[4].name, False),
    }
    again = failed[jobs[2].name, False]
    assert (again.step, again.refused) == (Step.PROCESS, False)
    assert "1 of 4 blocks failed; number 1: ValueError: scripted failure at voxel 203" in (
        failed[jobs[2].name, True].error
    )
    assert "Traceback" in again.traceback
    assert again.worker is not None
    for job in jobs[3:5]:
        assert (failed[job.name, False].refused, failed[job.name, False].step) == (
            True,
            Step.IMPORT,
        )
    # Those tried again come after all others, and do only what is missing.
    started = [(e.scan, e.attempt) for e in of_kind(events, ScanStarted)]
    assert [attempt for _, attempt in started] == [1] * 6 + [2] * 2
    assert scripted.runs(tmp_path / "log")[100] == 1


def test_the_first_failure_ends_it_if_wanted(tmp_path: Path) -> None:
    pipeline = scripted_pipeline(tmp_path / "log", {100: ["fail"]})
    jobs = jobs_of(tmp_path, pipeline, 4, reports="none")
    events = lived(None, jobs, retries=0, stop_on_first_failure=True)
    assert isinstance(events[-1], ScanFailed)
    assert [e.scan for e in of_kind(events, ScanStarted)] == [jobs[0].name, jobs[1].name]


def test_scans_are_taken_as_there_is_room_and_finished_one_after_the_other(
    tmp_path: Path,
) -> None:
    pipeline = scripted_pipeline(tmp_path / "log")
    jobs = cut(jobs_of(tmp_path, pipeline, 5, block_size=3, reports="none"))
    events: list[CohortEvent] = []

    def taken() -> Iterator[ScanJob]:
        for number, job in enumerate(jobs):
            assert len(of_kind(events, ScanFinished)) == number
            yield job

    live(None, taken(), events.append)
    assert len(of_kind(events, ScanFinished)) == 5


def test_workers_that_die_cost_nothing_but_time(tmp_path: Path, processes: Client) -> None:
    cuts: dict[str, Any] = {"block_size": 3, "reports": "none"}
    good = jobs_of(tmp_path, scripted_pipeline(tmp_path / "expected"), 4, out="here", **cuts)
    lived(None, good)
    # The first of these scans is one task, the second several.
    script = {0: ["kill", ""], 103: ["kill", ""], 303: ["kill"]}
    pipeline = scripted_pipeline(tmp_path / "log", script)
    jobs = jobs_of(tmp_path, pipeline, 4, out="there", **cuts)
    events = lived(processes, [jobs[0], *cut(jobs[1:])], retries=0)
    [failed] = of_kind(events, ScanFailed)
    assert failed.scan == jobs[3].name
    assert "its worker died, also when it ran alone" in failed.error
    assert {e.scan for e in of_kind(events, ScanFinished)} == {job.name for job in jobs[:3]}
    for job, expected in zip(jobs[:3], good, strict=False):
        assert estimates(job) == estimates(expected)


def estimates(job: ScanJob) -> dict[str, bytes]:
    """The maps of a scan, which do not depend on the pipeline's script."""
    maps = job.folder / "maps"
    return {path.name: path.read_bytes() for path in sorted(maps.glob("*.nii.gz"))}


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = jobs_of(tmp_path, scripted_pipeline(tmp_path / "log"), 3, reports="none")
    original = result_store.zarr.Array.__setitem__

    def full(array: Any, where: Any, values: Any) -> None:
        if array.name == "/quality" and values.max() > 1e4:
            raise OSError(28, "No space left on device")
        original(array, where, values)

    monkeypatch.setattr(result_store.zarr.Array, "__setitem__", full)
    events: list[CohortEvent] = []
    with pytest.raises(RunError, match="disk full"):
        live(None, jobs, events.append)
    assert [e.scan for e in of_kind(events, ScanFinished)] == [jobs[0].name]
    assert isinstance(events[-1], ScanFailed)
    assert not events[-1].again


DRIVER = """
import os, pathlib, signal, sys
from dataclasses import replace
from tests.cohort.small_cohort import jobs_of, scripted_pipeline
from mrsi_engine.cohort.life import live
from mrsi_engine.engine.clusters import local_cluster
from mrsi_engine.errors import MRSIError

def main(folder, workers, passes, events):
    left = [events]

    def sink(event):
        print(event, flush=True)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    jobs = jobs_of(folder, scripted_pipeline(folder / "log", passes=passes), 4, block_size=3)
    jobs = [
        replace(job, reports="none", whole_voxels=4 if n % 2 else 99) for n, job in enumerate(jobs)
    ]
    if workers:
        with local_cluster(2) as client:
            live(client, jobs, sink)
    else:
        live(None, jobs, sink)

if __name__ == "__main__":
    try:
        main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
    except MRSIError as error:
        print(type(error).__name__, error, flush=True)
        sys.exit(error.exit_code)
"""


def drive(folder: Path, workers: int, passes: int, events: int = 0) -> subprocess.Popen[str]:
    (folder / "drive.py").write_text(DRIVER)
    roots = [str(Path(__file__).parents[2]), *sys.path]
    return subprocess.Popen(
        [sys.executable, folder / "drive.py", folder, *map(str, (workers, passes, events))],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("workers", "events"), [(0, 1), (0, 9), (2, 8)])
def test_a_driver_killed_at_any_point_goes_on(workers: int, events: int, tmp_path: Path) -> None:
    driver = drive(tmp_path, workers, 1, events)
    driver.communicate(timeout=120)
    assert driver.returncode == -signal.SIGKILL
    pipeline = scripted_pipeline(tmp_path / "log", passes=1)
    jobs = cut(jobs_of(tmp_path, pipeline, 4, block_size=3, reports="none"))
    assert len(of_kind(lived(None, jobs), ScanFinished)) == 4
    whole = jobs_of(tmp_path, pipeline, 4, out="whole", block_size=3, reports="none")
    lived(None, whole)
    assert [results(job) for job in jobs] == [results(job) for job in whole]
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_asked_to_stop_it_says_that_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    driver = drive(tmp_path, 0, 0)
    while not list((tmp_path / "log").glob("runs-*")):
        assert driver.poll() is None
        threading.Event().wait(0.02)
    driver.send_signal(signal.SIGTERM)
    told, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1
    assert "Interrupted stopped by SIGTERM" in told
    assert told.count("ScanFinished") < 4


def test_a_scan_of_many_voxels_is_cut(tmp_path: Path) -> None:
    pipeline = scripted_pipeline(tmp_path / "log")
    [job] = jobs_of(tmp_path, pipeline, 1, voxels=40, reports="none", block_size=10)
    write_scan(tmp_path / "in" / "sub-00_mrsi.nii.gz", 40)
    events = lived(None, [replace(job, whole_voxels=39)])
    [processed] = [e for e in of_kind(events, ScanAdvanced) if e.step is Step.PROCESS]
    assert processed.voxels == 40
    assert scripted.runs(tmp_path / "log") == dict.fromkeys((0, 10, 20, 30), 1)
