"""A cohort: what is run again, what is written down, and who is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import mrsi_engine as me
from mrsi_engine.cohort.events import CohortEvent, CohortStarted
from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.cohort.ledger import Ledger, LedgerReader, Record, Session, State
from mrsi_engine.cohort.lock import LOCK, Holder, holder_of
from mrsi_engine.cohort.run import CohortOutcome, run_cohort
from mrsi_engine.cohort.table import read_table
from mrsi_engine.errors import InputError, Interrupted
from mrsi_engine.runs.folder import scan_folder
from mrsi_engine.runs.one_scan import import_once
from mrsi_engine.stages.quantify import Quantify
from tests.bids.datasets import validator_errors
from tests.cohort.conftest import Run
from tests.cohort.lives import HERE, Lives, rows


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def states(out: Path) -> dict[str, str]:
    return {name: str(r.state) for name, r in LedgerReader(out).read().scans.items()}


def imported(job: ScanJob) -> None:
    """The scan store of a job, for those who look into it."""
    import_once(job.inputs, scan_folder(job.folder))


def test_it_is_of_the_public_functions() -> None:
    assert me.run_cohort is run_cohort


class TestWhatIsWritten:
    def test_a_cohort_that_runs_well(
        self, run: Run, out: Path, lives: Lives, grouped: list[list[str]]
    ) -> None:
        outcome = run(command="mrsi cohort t.tsv")
        assert (outcome.counts, outcome.exit_code) == ({State.DONE: 3}, 0)
        assert states(out) == {"a": "done", "b": "done", "c": "done"}
        assert [row.folder for row in read_table(out / "cohort.tsv")] == ["a", "b", "c"]
        [settings] = (out / "logs").glob("*/settings.toml")
        assert 'command = "mrsi cohort t.tsv"' in settings.read_text()
        assert (out / "failed.tsv").read_text().count("\n") == 1
        assert "3 of 3 scans ended" in (out / "status.html").read_text()
        assert grouped == [["a", "b", "c"]]
        assert holder_of(out) is None

    def test_the_folder_is_a_valid_dataset(self, run: Run, out: Path) -> None:
        run("a", "b")
        run("c")
        assert validator_errors(out) == []
        assert {"a", "b", "c"} < set((out / ".bidsignore").read_text().splitlines())

    def test_a_folder_of_other_results_is_refused(self, run: Run, out: Path) -> None:
        out.mkdir()
        other = {"Name": "x", "BIDSVersion": "1.10.0", "GeneratedBy": [{"Name": "fmriprep"}]}
        (out / "dataset_description.json").write_text(json.dumps(other))
        with pytest.raises(InputError, match="made by fmriprep"):
            run("a")
        assert [path.name for path in out.iterdir()] == ["dataset_description.json"]

    def test_a_record_says_all_there_is(self, run: Run, out: Path) -> None:
        run("a")
        story = LedgerReader(out).read()
        record = story.scans["a"]
        assert (record.seconds, record.voxels, record.usable) == (0.25, 16, 1.0)
        assert (record.worker, record.verdict, record.attempt) == ("tcp://w:1", "16 of 16", 1)
        assert set(record.identity) == {"settings", "files"}
        assert set(record.identity["files"]) == {"scan", "mask"}
        assert story.sessions[0].versions["mrsi-engine"]

    def test_a_failure_leaves_a_folder_and_a_line(self, run: Run, out: Path, lives: Lives) -> None:
        lives.failing = {"b"}
        outcome = run()
        assert (outcome.failures, outcome.exit_code) == ({"b": "it broke"}, 1)
        head, line = (out / "failed.tsv").read_text().splitlines()
        told = dict(zip(head.split("\t"), line.split("\t"), strict=True))
        assert told["error"] == "it broke"
        crash = out / told["crash"]
        assert (crash / "error.txt").read_text() == "it broke\nbadly\n\nTraceback: x\n"
        log = [json.loads(line)["state"] for line in (crash / "log.jsonl").read_text().splitlines()]
        assert log == ["running", "failed"]
        assert "torch\t" in (crash / "versions.tsv").read_text()
        assert [row.folder for row in read_table(crash / "scan.tsv")] == ["b"]
        assert "--pipeline minimal --basis press-3t-te30" in (crash / "repeat.sh").read_text()
        lives.failing = set()
        assert run().exit_code == 0
        assert not crash.parent.exists()

    def test_done_is_not_written_where_no_summary_is_seen(
        self, run: Run, out: Path, lives: Lives, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mrsi_engine.cohort.recorder._PAUSE", 0.0)
        lives.after = lambda job: (job.folder / "summary.json").unlink()
        outcome = run("a")
        assert "summary.json: not there, though a worker wrote it" in outcome.failures["a"]

    def test_events_reach_sinks(self, run: Run) -> None:
        heard: list[CohortEvent] = []
        run(sinks=[heard.append])
        assert heard[0] == CohortStarted(3, 0)
        assert len(heard) == 1 + 3 * 3

    def test_scans_of_another_table_stay_in_that_of_the_folder(
        self, run: Run, out: Path, grouped: list[list[str]]
    ) -> None:
        run("a", "b")
        assert run("c").counts == {State.DONE: 1}
        assert [row.folder for row in read_table(out / "cohort.tsv")] == ["a", "b", "c"]
        assert grouped == [["a", "b"], ["a", "b", "c"]]


class TestWhatIsRunAgain:
    def test_nothing_of_a_finished_cohort(
        self, run: Run, lives: Lives, grouped: list[list[str]]
    ) -> None:
        run()
        assert lives.pop() == ["a", "b", "c"]
        assert run().counts == {State.DONE: 3}
        assert lives.pop() == []
        assert len(grouped) == 1

    @pytest.mark.parametrize(
        ("rerun", "expected"),
        [
            ("unfinished", ["b", "d"]),
            ("failed", ["b"]),
            ("missing", ["d"]),
            ("all", ["a", "b", "c", "d"]),
        ],
    )
    def test_by_what_is_asked_for(
        self, run: Run, lives: Lives, rerun: str, expected: list[str]
    ) -> None:
        lives.failing, lives.useless = {"b"}, {"c"}
        run("a", "b", "c")
        lives.pop()
        run("a", "b", "c", "d", options=replace(HERE, rerun=rerun))
        assert lives.pop() == expected

    def test_all_from_scratch(self, run: Run, lives: Lives, out: Path) -> None:
        lives.after = imported
        run("a")
        (out / "a" / "mine.txt").write_text("a note")
        found: list[str] = []
        lives.before = lambda name: found.extend(path.name for path in (out / name).iterdir())
        run("a", options=replace(HERE, rerun="all"))
        assert found == ["mine.txt"]

    def test_one_whose_folder_is_gone(self, run: Run, lives: Lives, out: Path) -> None:
        run()
        (out / "b" / "summary.json").unlink()
        (out / "c" / "report.html").unlink()
        lives.pop()
        run(options=replace(HERE, reports="none"))
        assert lives.pop() == ["b"]
        run()
        assert lives.pop() == ["c"]

    def test_files_of_another_date_are_compared_by_content(
        self, run: Run, lives: Lives, tmp_path: Path, out: Path
    ) -> None:
        lives.after = imported
        run("a", "b")
        lives.pop()
        for name in ("a", "b"):
            os.utime(tmp_path / f"{name}.nii.gz", (1e9, 1e9))
        with (tmp_path / "b.nii.gz").open("ab") as file:
            file.write(b"\0")
        lives.after = lambda job: None
        run("a", "b")
        assert lives.pop() == ["b"]
        # What was found is written down: the next time, dates will do.
        (out / "a" / "scan.zarr").rename(out / "a" / "elsewhere")
        run("a", "b")
        assert lives.pop() == []

    def test_other_settings(self, run: Run, lives: Lives) -> None:
        run("a")
        for how in (
            {"pipeline": "brain-1h-3t"},
            {"basis": "slaser-3t-te30", "pipeline": "minimal"},
            {"options": replace(HERE, points=512)},
            {"options": replace(HERE, scan=replace(HERE.scan, keep=("fit",)))},
        ):
            lives.pop()
            run("a", **how)
            assert lives.pop() == ["a"]

    def test_an_upgrade_that_changed_numbers(
        self, run: Run, lives: Lives, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run("a")
        lives.pop()
        monkeypatch.setattr("mrsi_engine.cohort.crash.version", lambda package: "99.0")
        run("a")
        assert lives.pop() == []
        monkeypatch.setattr(Quantify, "revision", 99)
        run("a")
        assert lives.pop() == ["a"]


class TestDrivers:
    def test_one_that_was_asked_to_stop(self, run: Run, lives: Lives, out: Path) -> None:
        def stop(name: str) -> None:
            if name == "b":
                raise Interrupted("stopped by SIGTERM")

        lives.before = stop
        with pytest.raises(Interrupted):
            run()
        assert states(out) == {"a": "done", "b": "interrupted", "c": "waiting"}
        assert holder_of(out) is None
        assert (out / "failed.tsv").exists()
        lives.before = lambda name: None
        lives.pop()
        assert run().exit_code == 0
        assert lives.pop() == ["b", "c"]

    def test_what_a_dead_one_left_open(self, run: Run, lives: Lives, out: Path) -> None:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        ledger = Ledger(out, Session("2026-11-28T14:00:00+00:00", "vm", dead.pid))
        ledger.write(*(Record(name, State.WAITING) for name in "abc"))
        ledger.write(Record("a", State.RUNNING, attempt=1))
        (out / LOCK).write_bytes(replace(Holder.me(), pid=dead.pid).data())
        told: list[str] = []
        assert run(tell=told.append).exit_code == 0
        assert f"goes on where process {dead.pid} on" in told[0]
        assert lives.pop() == ["a", "b", "c"]
        segments = sorted((out / "ledger").iterdir())
        assert '"a", "state": "interrupted"' in segments[1].read_text()

    def test_a_second_one_is_refused(self, run: Run, lives: Lives, out: Path) -> None:
        def second(name: str) -> None:
            with pytest.raises(InputError, match=f"process {os.getpid()} on"):
                run("d")

        lives.before = second
        run("a")
        assert states(out) == {"a": "done"}


class TestRefusals:
    def test_a_scan_that_cannot_run(self, run: Run, tmp_path: Path, out: Path) -> None:
        (tmp_path / "b.nii.gz").write_bytes(b"no scan")
        outcome = run()
        assert outcome.counts == {State.DONE: 2, State.REFUSED: 1}
        assert outcome.exit_code == 1
        assert (out / "crash" / "b" / "repeat.sh").exists()

    def test_all(self, run: Run, tmp_path: Path, out: Path) -> None:
        for name in "ab":
            (tmp_path / f"{name}.nii.gz").write_bytes(b"no scan")
        with pytest.raises(InputError, match="none of 2 scans can run; the first, a: "):
            run("a", "b")
        assert not out.exists()

    def test_stop_on_first_failure(self, run: Run, lives: Lives, tmp_path: Path) -> None:
        lives.failing = {"a"}
        outcome = run(options=replace(HERE, stop_on_first_failure=True))
        assert lives.pop() == ["a"]
        assert outcome.counts == {State.WAITING: 2, State.FAILED: 1}
        (tmp_path / "c.nii.gz").write_bytes(b"no scan")
        run(options=replace(HERE, stop_on_first_failure=True))
        assert lives.pop() == []

    def test_a_dry_run_writes_nothing(self, run: Run, tmp_path: Path, out: Path) -> None:
        (tmp_path / "b.nii.gz").write_bytes(b"no scan")
        told: list[str] = []
        outcome = run(options=replace(HERE, dry_run=True), tell=told.append)
        assert told[0] == "2 of 3 scans can run"
        assert outcome.exit_code == 1
        assert not out.exists()

    def test_two_of_one_folder_and_none(self, phantom: Path, tmp_path: Path) -> None:
        [row] = rows(phantom, tmp_path, "a")
        with pytest.raises(InputError, match="the same output folder a as"):
            run_cohort([row, replace(row, scan=str(tmp_path / "x" / "a.nii"))], tmp_path / "out")
        with pytest.raises(InputError, match="no scans"):
            run_cohort([], tmp_path / "out")


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({State.DONE: 2}, 0),
        ({State.DONE: 1, State.UNUSABLE: 1}, 0),
        ({State.UNUSABLE: 2}, 3),
        ({State.DONE: 2, State.FAILED: 1}, 1),
        ({State.UNUSABLE: 1, State.REFUSED: 1}, 1),
        ({State.DONE: 2, State.WAITING: 1}, 1),
    ],
)
def test_exit_codes(counts: dict[State, int], code: int) -> None:
    failures = dict.fromkeys({State.FAILED, State.REFUSED} & set(counts), "why")
    unusable = ("x",) * counts.get(State.UNUSABLE, 0)
    assert CohortOutcome(Path("out"), counts, failures, unusable).exit_code == code
