"""The command of a BIDS App: its options, its refusals, what it prints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrsi_engine.bids import app
from mrsi_engine.cohort import run as cohort_run
from mrsi_engine.cohort.run import CohortOutcome
from tests.bids.datasets import add_scan, empty_dataset, phantom_dataset
from tests.cli.helpers import BASIS, Mrsi


@pytest.fixture(scope="module")
def dataset(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects that can run."""
    return phantom_dataset(tmp_path_factory.mktemp("cli") / "study", phantom)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What a cohort would be run with."""
    found: dict[str, Any] = {}

    def noted(rows: Any, out: Path, **settings: Any) -> CohortOutcome:
        found.update(rows=rows, out=out, **settings)
        return CohortOutcome(out)

    monkeypatch.setattr(cohort_run, "run_cohort", noted)
    return found


def test_a_dry_run_prints_what_would_run_and_leaves_nothing(
    mrsi: Mrsi, dataset: Path, tmp_path: Path
) -> None:
    printed = mrsi("bids", dataset, tmp_path / "out", "participant", "--basis", BASIS, "--dry-run")
    assert "2 of 2 scans can run" in printed
    assert "32 voxels; with 2 mask, 2 water, 2 tissue, 0 scalp" in printed
    assert not (tmp_path / "out").exists()


def test_a_dry_run_ends_with_what_is_refused(mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
    root = phantom_dataset(tmp_path / "ds", phantom, ["01"])
    add_scan(root, "sub-02/mrs/sub-02_mrsi.nii.gz", phantom / "scan.nii.gz", EchoTime=0.144)
    command = ["bids", root, tmp_path / "out", "participant", "--dry-run"]
    mrsi.error(*command, "--basis", BASIS, code=1)
    assert "1 refused\n  sub-02/sub-02: " in mrsi.printed
    assert "EchoTime is 0.03 in the file and 0.144" in mrsi.printed
    mrsi.error(*command, "--basis", "slaser-3t-te40", code=2)
    assert "0 of 2 scans can run" in mrsi.printed


def test_labels_with_and_without_their_prefix(
    mrsi: Mrsi, dataset: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    labels = ["--participant-label", "sub-01", "02", "--session-label", "1"]
    mrsi("bids", dataset, tmp_path / "out", "participant", *labels, "--basis", BASIS)
    assert [row.subject for row in given["rows"]] == ["01", "02"]
    mrsi("bids", dataset, tmp_path / "out", "participant", "--participant-label", "02")
    assert [row.subject for row in given["rows"]] == ["02"]
    assert (tmp_path / "out" / "dataset_description.json").is_file()
    error = mrsi.refused("bids", dataset, tmp_path / "o", "participant", "--participant-label", 3)
    assert "no participant 3; it has 01, 02" in error


def test_every_option_of_a_cohort_arrives(
    mrsi: Mrsi, dataset: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    mrsi(
        *["bids", dataset, tmp_path / "out", "participant", "--basis", BASIS, "--points", 512],
        *["--pipeline", "minimal", "--rerun", "failed", "--retries", 3, "--reports", "flagged"],
        *["--stop-on-first-failure", "--keep-personal", "--fill", "mrsiprep", "--workers", 0],
        *["--min-usable", 0.5, "--basis-te-mismatch", "allow"],
    )
    options = given["options"]
    assert (given["basis"].source, given["basis"].te_mismatch) == (BASIS, "allow")
    assert (given["pipeline"], given["group"]) == ("minimal", False)
    assert (options.points, options.keep_personal, options.rerun) == (512, True, "failed")
    assert (options.retries, options.reports) == (3, "flagged")
    assert options.stop_on_first_failure
    assert not options.dry_run
    assert (options.scan.fill, options.scan.workers, options.scan.min_usable) == (
        "mrsiprep",
        0,
        0.5,
    )


def test_the_group_level(mrsi: Mrsi, dataset: Path, tmp_path: Path) -> None:
    error = mrsi.refused("bids", dataset, tmp_path / "out", "group")
    assert "run the level participant first" in error


def test_the_group_level_is_that_of_all(
    mrsi: Mrsi, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(choice: app.DatasetChoice, found: Any) -> Path:
        seen.append([row.subject for row in found.rows])
        return choice.out / "page.html"

    monkeypatch.setattr(app, "run_group", noted)
    printed = mrsi("bids", dataset, tmp_path / "out", "group", "--participant-label", "01")
    assert printed.endswith("page.html\n")
    assert seen == [["01", "02"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layout", "mrsiprep"], "--layout mrsiprep has one scan a session"),
        (["--bids-rules", "gone.toml"], "gone.toml: cannot be read"),
        (["--bids-filter-file", "gone.json"], "gone.json: cannot be read"),
        (["--derivatives", "gone"], "no such folder of derivatives"),
        (["--basis-conjugate"], "say how to read --basis"),
    ],
)
def test_refusals(mrsi: Mrsi, tmp_path: Path, options: list[str], said: str) -> None:
    scans = [f"sub-01/mrs/sub-01_run-{run}_mrsi.nii.gz" for run in (1, 2)]
    root = empty_dataset(tmp_path / "ds", scans)
    assert said in mrsi.refused("bids", root, tmp_path / "out", "participant", *options)
    assert not (tmp_path / "out" / "dataset_description.json").exists()


def test_other_folders_and_levels_are_refused(mrsi: Mrsi, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no folder sub-" in mrsi.refused("bids", tmp_path / "empty", tmp_path / "o", "group")
    assert "participant" in mrsi.refused("bids", tmp_path / "empty", tmp_path / "o", "all")
    root = empty_dataset(tmp_path / "ds", ["sub-01/mrs/sub-01_mrsi.nii.gz"])
    assert "is the dataset itself" in mrsi.refused("bids", root, root, "participant")
    assert "s3" in mrsi.refused("bids", "s3://bucket/ds", tmp_path / "o", "participant")
