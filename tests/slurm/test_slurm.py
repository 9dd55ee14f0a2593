"""Runs through ``--cluster`` on a real SLURM: ``make test-slurm``."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scripted

from mrsi_engine import cli
from mrsi_engine.engine.clusters import ClusterChoice, Need, open_cluster, pool
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.events import BlockDone, ClusterTold, Event
from mrsi_engine.engine.plan import plan
from mrsi_engine.errors import RunError
from mrsi_engine.io.result_store import open_result
from mrsi_engine.pipeline.pipeline import Pipeline
from tests.engine.conftest import write_scan

Profile = Callable[..., str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is asked every second."""
    monkeypatch.setattr(pool, "_LOOK_AT_QUEUE", 1.0)


def jobs(state: str = "RUNNING") -> list[int]:
    command = ["squeue", "--me", "--noheader", "--format=%i", f"--states={state}"]
    return sorted(map(int, subprocess.check_output(command, text=True).split()))


def slow_pipeline(folder: Path) -> Pipeline:
    folder.mkdir()
    script = scripted.Script(folder=str(folder), pause=0.5)
    return Pipeline(name="slow", stages=(script, scripted.Moments()))


def test_a_trial_of_two_jobs(
    profile: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["cluster", "test", profile(), "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("shared") == 2
    assert printed.count("tls://127.0.0.1:") == 2
    assert printed.count("1905") == 2
    assert "not shared" not in printed
    assert jobs() == []


def test_a_job_cancelled_in_the_middle_costs_nothing(profile: Profile, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "scan.zarr")
    pipeline = slow_pipeline(tmp_path / "log")
    todo = plan(scan.path, pipeline, None, tmp_path / "slurm" / "result.zarr", block_size=2)
    seen: list[int] = []
    cancelled: list[int] = []

    def watch(event: Event) -> None:
        seen.extend(job for job in jobs() if job not in seen)
        if isinstance(event, BlockDone) and len(seen) >= 2 and not cancelled:
            cancelled.append(seen[0])
            subprocess.run(["scancel", str(seen[0])], check=True)

    run(todo, choice=ClusterChoice(profile()), sinks=[watch])
    assert cancelled
    assert len(seen) == 3, "the job is not replaced"
    assert jobs() == jobs("PENDING") == []

    alone = plan(scan.path, pipeline, None, tmp_path / "alone" / "result.zarr", block_size=2)
    (tmp_path / "log").rename(tmp_path / "first")
    (tmp_path / "log").mkdir()
    run(alone, workers=2)
    ours, theirs = (open_result(tmp_path / n / "result.zarr") for n in ("slurm", "alone"))
    for name in ours.data_vars:
        np.testing.assert_array_equal(ours[name].values, theirs[name].values, err_msg=name)
    # Certificates are gone with the run; what jobs printed is kept.
    assert not list((tmp_path / "slurm").glob(".cluster-*"))
    assert list((tmp_path / "slurm" / "logs" / "workers").iterdir())


def test_the_queue_is_told_of(profile: Profile, tmp_path: Path) -> None:
    told: list[str] = []
    with open_cluster(ClusterChoice(profile(4)), Need(tmp_path / "out"), told.append) as opened:
        deadline = time.monotonic() + 60
        while len(jobs()) + len(jobs("PENDING")) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        cluster = opened.client.cluster
        state = pool.Pool(cluster, tmp_path).state()
        assert state.startswith("2 running, ")
        assert "pending (Resources)" in state


def test_jobs_that_cannot_start_are_given_up_with_what_they_printed(
    profile: Profile, tmp_path: Path
) -> None:
    broken = profile(further='python = "/nowhere/python"')
    with (
        pytest.raises(RunError, match=r"(?s)jobs ended before a worker came; .*/nowhere/python"),
        open_cluster(ClusterChoice(broken), Need(tmp_path / "out")),
    ):
        pass


def test_a_line_every_half_minute_while_jobs_wait(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mrsi_engine.engine.clusters.heart.BEAT_SECONDS", 0.5)
    scan = write_scan(tmp_path / "scan.zarr", voxels=4)
    pipeline = Pipeline(name="quick", stages=(scripted.Moments(),))
    todo = plan(scan.path, pipeline, None, tmp_path / "out" / "result.zarr")
    told: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, ClusterTold):
            told.append(event.line)

    run(todo, choice=ClusterChoice(profile(1)), sinks=[note])
    assert told
    assert all(line.startswith("cluster after ") for line in told)
    assert any("0 workers; 1 running; 0 blocks/s" in line for line in told)
