"""Cohorts from the command line: what is broken, repeated, killed, upgraded and looked at."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mrsi_engine.cli import main
from mrsi_engine.cohort.ledger import LedgerReader
from tests.cli.helpers import BASIS, Mrsi

QUICK = ["--basis", BASIS, "--pipeline", "minimal", "--workers", 0, "--reports", "none"]

#: The command line in a process that kills itself as the second scan is to begin.
PROGRAM = """
import os, signal, sys
from mrsi_engine.cli import cohort_progress, main
from mrsi_engine.cohort.events import ScanStarted

take, begun = cohort_progress.CohortLines.__call__, []

def take_and_die(self, event):
    begun.append(isinstance(event, ScanStarted))
    if sum(begun) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    take(self, event)

cohort_progress.CohortLines.__call__ = take_and_die
main()
"""


def table_of(folder: Path, phantom: Path, *names: str) -> Path:
    """A table of scans, all of the phantom; the one called ``broken`` is cut short."""
    lines = ["subject\tscan\tmask\tgroup"]
    for number, name in enumerate(names, 1):
        scan = folder / f"{name}.nii.gz"
        shutil.copy(phantom / "scan.nii.gz", scan)
        if name == "broken":
            scan.write_bytes(scan.read_bytes()[:5000])
        mask = phantom / "mask.nii.gz"
        lines.append(f"{number:02}\t{scan.name}\t{mask}\t{'patient' if number % 2 else 'control'}")
    table = folder / "table.tsv"
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture(scope="module")
def cohort(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a table of two good scans and a broken one, and ``out``, where they were run."""
    folder = tmp_path_factory.mktemp("cohort")
    table = table_of(folder, phantom, "first", "broken", "third")
    with pytest.raises(SystemExit) as ended:
        main([str(part) for part in ("cohort", table, "--out", folder / "out", *QUICK)])
    assert ended.value.code == 1
    return folder


def states(out: Path) -> dict[str, str]:
    return {name: str(r.state) for name, r in LedgerReader(out).read().scans.items()}


def test_a_scan_that_is_broken_stops_no_other(cohort: Path) -> None:
    out = cohort / "out"
    assert states(out) == {
        "sub-01/first": "done",
        "sub-02/broken": "refused",
        "sub-03/third": "done",
    }
    for name in ("sub-01/first", "sub-03/third"):
        assert (out / name / "summary.json").is_file()
        assert list((out / name / "maps").iterdir())
    head, *lines = (out / "group_mrsi.tsv").read_text().splitlines()
    rows = [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]
    assert [row["group"] for row in rows] == ["patient", "control", "patient"]
    assert "truncated or damaged" in (out / "failed.tsv").read_text()


def test_a_failure_can_be_repeated_alone(
    mrsi: Mrsi, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = cohort / "out" / "crash" / "sub-02_broken"
    assert "Traceback" in (crash / "error.txt").read_text()
    *_, enter, command = (crash / "repeat.sh").read_text().splitlines()
    assert enter.startswith('cd "$(dirname "$0")"')
    run, program, *arguments = shlex.split(command)
    assert (run, program) == ("exec", "mrsi")
    monkeypatch.chdir(crash)
    mrsi.error(*[a for a in arguments if a != "--debug"], code=1)
    assert "truncated or damaged" in mrsi.printed
    assert states(crash / "again") == {"sub-02/broken": "refused"}


def test_the_same_command_does_what_is_missing(mrsi: Mrsi, cohort: Path, phantom: Path) -> None:
    whole = shutil.copytree(cohort, cohort.parent / "mended")
    command = ["cohort", whole / "table.tsv", "--out", whole / "out", *QUICK]
    error = mrsi.error(*command, code=1)
    assert "2 of 3 scans are done already" in error
    assert mrsi.printed.splitlines()[-1] == "3 scans: 2 done, 1 refused"
    shutil.copy(phantom / "scan.nii.gz", whole / "broken.nii.gz")
    printed = mrsi(*command)
    assert "(1 of 1) sub-02/broken: 11 of 16 voxels usable" in printed
    assert printed.splitlines()[-1] == "3 scans: 3 done"
    assert not (whole / "out" / "crash" / "sub-02_broken").exists()
    mrsi(*command)


def test_an_upgrade_says_what_it_cannot_go_on_with(
    mrsi: Mrsi, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrsi_engine.stages.quantify import Quantify

    whole = shutil.copytree(cohort, cohort.parent / "upgraded")
    (whole / "table.tsv").write_text(
        "".join(line for line in (whole / "table.tsv").open() if "broken" not in line)
    )
    command = ["cohort", whole / "table.tsv", "--out", whole / "out", *QUICK]
    shutil.rmtree(whole / "out" / "sub-03")
    monkeypatch.setattr(Quantify, "revision", 99)
    mrsi.error(*command, code=1)
    assert "sub-01/first: refused" in mrsi.printed
    assert "changed since: pipeline stage quantify: revision 1 -> 99" in mrsi.printed
    assert mrsi.printed.splitlines()[-1] == "2 scans: 1 done, 1 refused"
    assert mrsi(*command, "--overwrite").splitlines()[-1] == "2 scans: 2 done"


def test_a_killed_driver_is_taken_over(mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
    table = table_of(tmp_path, phantom, "first", "second")
    command = ["cohort", table, "--out", tmp_path / "out", *QUICK]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, command)], capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert states(tmp_path / "out") == {"sub-01/first": "done", "sub-02/second": "running"}
    status = json.loads(mrsi("status", tmp_path / "out", "--json"))
    assert status["driver"] is None
    assert [run["scan"] for run in status["running"]] == ["sub-02/second"]
    printed = mrsi(*command)
    assert "(1 of 1) sub-02/second" in printed
    assert states(tmp_path / "out") == {"sub-01/first": "done", "sub-02/second": "done"}


class TestStatus:
    def test_for_people(self, mrsi: Mrsi, cohort: Path) -> None:
        printed = mrsi("status", cohort / "out")
        assert "failed (1)" in printed
        assert "sub-02/broken" in printed
        assert "no driver runs" in printed
        assert mrsi("status", cohort / "out", "--watch", "--every", 0.01).count("failed (1)") == 1

    def test_for_programs(self, mrsi: Mrsi, cohort: Path) -> None:
        status = json.loads(mrsi("status", cohort / "out", "--json"))
        assert status["counts"]["done"] == 2
        assert status["scans"] == 3
        [failure] = status["failures"]
        assert failure["step"] == "import"
        assert "truncated or damaged" in failure["error"]

    def test_refusals(self, mrsi: Mrsi, cohort: Path, tmp_path: Path) -> None:
        assert "holds no cohort" in mrsi.refused("status", tmp_path)
        out = cohort / "out"
        assert "give one" in mrsi.refused("status", out, "--watch", "--json")
        assert "--every is 0" in mrsi.refused("status", out, "--watch", "--every", 0)


class TestSeveralScansOfRun:
    def test_they_are_a_cohort(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        table_of(tmp_path, phantom, "a", "broken")
        scans = [tmp_path / "a.nii.gz", tmp_path / "broken.nii.gz"]
        named = ["--mask", phantom / "mask.nii.gz", *QUICK[:6]]
        mrsi.error("run", *scans, "--out", tmp_path / "out", *named, code=1)
        assert mrsi.printed.splitlines()[-1] == "2 scans: 1 done, 1 refused"
        assert list((tmp_path / "out" / "a" / "maps").iterdir())
        assert (tmp_path / "out" / "a" / "report.html").is_file()
