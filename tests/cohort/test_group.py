"""The group level of a cohort of tiny simulated scans: files, dataset, page, what to cite."""

from __future__ import annotations

import re
import shutil
import tomllib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from mrsi_engine.cohort.group import write_group, write_settings
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.one_scan import Options, process
from tests.runs.phantom_run import BASIS, inputs_of

ROWS = tuple(
    ScanRow(
        f"/raw/sub-{subject}_ses-{session}_mrsi.nii.gz", subject, session, metadata={"age": "4"}
    )
    for subject, session in (("01", "01"), ("01", "02"), ("02", "01"), ("03", "01"))
)
FAILED = ROWS[3]


@dataclass(frozen=True)
class Outcome:
    """What a ledger says of a scan at last."""

    state: str = "done"
    error: str = ""
    attempt: int = 1
    seconds: float = 2.0


STATES = {
    **{row.folder: Outcome() for row in ROWS},
    FAILED.folder: Outcome("failed", f"{FAILED.scan}: not NIfTI-MRS\nat all", 3),
}


@pytest.fixture(scope="module")
def runs(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run by each of two pipelines, whose tables have different columns."""
    made = {}
    for name in ("brain-1h-3t", "minimal"):
        made[name] = tmp_path_factory.mktemp("runs") / name
        pipeline, where = Pipeline.load(name), Options(workers=0)
        process(inputs_of(phantom), BASIS, pipeline, made[name], where, reports="none")
        (made[name] / "report.html").write_text("<title>its own</title>")
    return made


@pytest.fixture
def out(runs: dict[str, Path], tmp_path: Path) -> Path:
    """The folder of a cohort: three scans, the last by another pipeline; one failed."""
    folder = tmp_path / "cohort"
    for row, run in zip(ROWS, ("brain-1h-3t", "brain-1h-3t", "minimal"), strict=False):
        (folder / row.folder).mkdir(parents=True)
        for name in ("summary.json", "voxels.parquet", "report.html"):
            shutil.copy2(runs[run] / name, folder / row.folder / name)
    (folder / "crash" / FAILED.folder.replace("/", "_")).mkdir(parents=True)
    return folder


def table_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(
        out / "group_mrsi.tsv", sep="\t", na_values="n/a", dtype={"subject": str, "session": str}
    )


def test_every_scan_has_a_row(out: Path) -> None:
    write_group(out, [replace(row, metadata={"age": "4"}) for row in ROWS], STATES)
    assert "jane" not in (out / "group_mrsi.tsv").read_text()
    table = table_of(out)
    assert table["scan"].tolist() == [row.folder for row in ROWS]
    assert table["subject"].tolist() == ["01", "01", "02", "03"]
    assert table["age"].tolist() == [4] * 4
    assert table["voxels"].tolist()[:3] == [16, 16, 16]
    assert table["error"][3] == "sub-03_ses-01_mrsi.nii.gz: not NIfTI-MRS at all"
    assert table["attempts"].tolist() == [1, 1, 1, 3]
    assert table["pipeline"].tolist()[:3] == ["brain-1h-3t", "brain-1h-3t", "minimal"]
    assert {"NAANAAG_per_CrPCr_median_gm", "NAANAAG_per_CrPCr_coverage"} <= set(table)


def test_links_of_the_page_lead_to_reports_and_files(out: Path) -> None:
    page = write_group(out, ROWS, STATES).read_text()
    crash = f'href="crash/{FAILED.folder.replace("/", "_")}/"'
    assert crash in page
    for link in re.findall(r'href="([^"#]+)"', page):
        assert (out / link).exists(), link
    for row in ROWS[:3]:
        assert f"{row.folder}/report.html" in page


def test_a_damaged_summary_is_told_and_stops_nothing(out: Path) -> None:
    (out / ROWS[0].folder / "summary.json").write_text("{")
    write_group(out, ROWS, STATES)
    assert "summary.json: no summary of a scan" in table_of(out)["error"][0]
    assert len(pd.read_parquet(out / "voxels")) == 32


def test_results_of_an_earlier_run_of_a_scan_that_failed_are_none(out: Path) -> None:
    write_group(out, ROWS, {**STATES, ROWS[0].folder: Outcome("failed", "disk full")})
    assert table_of(out)["voxels"].isna().tolist() == [True, False, False, True]
    assert len(pd.read_parquet(out / "voxels")) == 32


def test_a_link_out_of_the_folder_is_not_followed(out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / "voxels").symlink_to(elsewhere)
    with pytest.raises(InputError, match="outside the output folder"):
        write_group(out, ROWS, STATES)
    assert not any(elsewhere.iterdir())


def test_what_to_cite_goes_by_what_was_done(out: Path) -> None:
    write_group(out, ROWS, STATES)
    text = (out / "logs" / "CITATION.md").read_text()
    assert "2 scans went through the pipeline 'brain-1h-3t'" in text
    assert "Residual water was removed by Hankel singular value decomposition with 6" in text
    assert "spectral registration" in text
    cited = {int(n) for found in re.findall(r"\[([\d, ]+)\]", text) for n in found.split(",")}
    listed = re.findall(r"^(\d+)\. ", text, re.MULTILINE)
    assert cited == {int(n) for n in listed} == set(range(1, len(listed) + 1))
    bibtex = (out / "logs" / "CITATION.bib").read_text()
    assert bibtex.count("@article{") == len(listed)
    assert "shamaei2023quantification" in bibtex


def test_settings_are_read_back_as_they_were(tmp_path: Path) -> None:
    settings = {
        "retries": 2,
        "min_usable": 0.2,
        "overwrite": False,
        "folder": Path("/a b/c"),
        "nothing": None,
        "keep": ("fit", "baseline"),
        "started": datetime(2026, 11, 28, tzinfo=UTC),
        "pipeline": {"name": 'of "mine"', "stages": [{"stage": "fpc", "window_ppm": [1.9, 4.1]}]},
        "cluster": {"slurm": {"job extra": ["--time=1\nx"]}},
    }
    path = write_settings(tmp_path / "logs", "20261128", settings)
    assert path == tmp_path / "logs" / "20261128" / "settings.toml"
    found = tomllib.loads(path.read_text())
    assert found == {
        **{name: value for name, value in settings.items() if value is not None},
        "folder": "/a b/c",
        "keep": ["fit", "baseline"],
    }
