"""The group table, what stands out in it, and its page."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrsi_engine.quantities import amplitude, concentration
from mrsi_engine.report import group_figures
from mrsi_engine.report.group import coverage_table, write_group_page
from mrsi_engine.report.group_statistics import (
    BatchTest,
    batch_tests,
    classes_of,
    measured_columns,
    outliers,
)
from mrsi_engine.report.group_table import GroupScan, GroupTable, group_table
from mrsi_engine.report.methods import methods_of
from mrsi_engine.report.summary import ScanSummary
from tests.report.group_scans import PROTOCOLS, cohort

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def table() -> GroupTable:
    return group_table(cohort(40, failing=0.15))


def read_back(table: GroupTable) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(table.text()), sep="\t", na_values="n/a", dtype={"subject": str})


def changed(scan: GroupScan, **columns: object) -> GroupScan:
    assert scan.summary is not None
    return replace(scan, summary=replace(scan.summary, row={**scan.summary.row, **columns}))


class TestTable:
    def test_every_scan_has_a_row_and_failed_ones_a_reason(self, table: GroupTable) -> None:
        frame = read_back(table)
        assert len(frame) == 40
        failed = frame[frame["state"] == "failed"]
        assert 0 < len(failed) < 20
        assert failed["error"].str.contains("EchoTime is 30").all()
        assert failed["snr_median"].isna().all()
        assert frame["snr_median"].notna().sum() == len(table.done) == 40 - len(failed)

    def test_numbers_are_those_of_the_summaries(self, table: GroupTable) -> None:
        frame = read_back(table)
        for place, scan in enumerate(cohort(40, failing=0.15)):
            if scan.summary is not None:
                assert frame["NAA_median"][place] == pytest.approx(
                    scan.summary.row["NAA_median"], rel=1e-5
                )

    def test_counts_are_whole_numbers_although_some_are_missing(self, table: GroupTable) -> None:
        header, first = table.text().splitlines()[:2]
        row = dict(zip(header.split("\t"), first.split("\t"), strict=True))
        assert re.fullmatch(r"\d+", row["voxels"])

    def test_the_sidecar_describes_every_column(self, table: GroupTable) -> None:
        told = json.loads(table.sidecar())
        assert list(told) == list(table.frame) == read_back(table).columns.tolist()
        assert told["fwhm_hz_median"]["Units"] == "Hz"
        assert told["site"]["Description"] == "column 'site' of the cohort's own table"
        assert all(column["Description"] for column in told.values())

    def test_folders_and_personal_columns_are_left_out(self) -> None:
        scans = cohort(20, failing=0.5, metadata={"PatientName": "Doe", "age": "40"})
        table = group_table(scans)
        assert "jane" not in table.text()
        assert "Doe" not in table.text()
        assert "_mrsi.nii.gz: EchoTime is 30" in table.text()
        assert table.left_out == ("PatientName",)
        assert "age" in table.frame

    def test_a_column_of_the_cohort_does_not_hide_one_of_ours(self) -> None:
        table = group_table(cohort(3, metadata={"voxels": "many"}))
        assert set(table.frame["table_voxels"]) == {"many"}
        assert table.frame["voxels"].notna().all()

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
    @settings(max_examples=30, suppress_health_check=[HealthCheck.differing_executors])
    def test_whatever_a_value_says_it_stays_in_its_place(self, value: str) -> None:
        table = group_table(cohort(2, metadata={"remark": value, "site": "A"}))
        header, *rows = table.text().split("\n")[:3]
        place = header.split("\t").index("site")
        assert [row.split("\t")[place] for row in rows] == ["A", "A"]

    def test_units_are_not_mixed_in_a_column(self) -> None:
        """A cohort in which some scans have concentrations by water, others ratios."""
        naa = amplitude("NAA", "amplitude of NAA")
        scans = [
            GroupScan(
                scan=str(i),
                stem=str(i),
                summary=ScanSummary(
                    {"voxels": 1, "NAA_conc_median": 10.0 + i},
                    (concentration(naa, ("1", "mmol/L")[i], "by something", "SD"),),
                ),
            )
            for i in range(2)
        ]
        table = group_table(scans)
        assert table.frame["NAA_conc_median"].tolist()[0] == 10
        assert table.frame["NAA_conc_mmolL_median"].tolist()[1] == 11
        assert table.columns["NAA_conc_mmolL_median"].unit == "mmol/L"
        assert pd.isna(table.frame["NAA_conc_median"][1])

    def test_a_column_that_nobody_fills_for_long_is_still_one_of_numbers(self) -> None:
        scans = [changed(scan, repetition_time=None) for scan in cohort(300)]
        scans += [changed(scan, repetition_time=1.5) for scan in cohort(3)]
        assert group_table(scans).frame["repetition_time"].dtype == float

    def test_a_cohort_in_which_all_failed_has_a_table(self) -> None:
        table = group_table(cohort(5, failing=1.0))
        assert len(table.frame) == 5
        assert table.done.empty


class TestOutliers:
    def test_those_far_from_their_own_protocol_only(self) -> None:
        rng = np.random.default_rng(2)
        values = np.concatenate([rng.normal(10, 1, 50), rng.normal(100, 1, 50)])
        values[3] = 100.0
        classes = np.repeat(["a", "b"], 50)
        assert np.flatnonzero(outliers(values, classes)).tolist() == [3]

    def test_few_scans_have_none(self) -> None:
        assert not outliers(np.array([1.0, 1, 1, 50]), np.full(4, "a")).any()

    def test_missing_values_are_none(self) -> None:
        values = np.array([*np.arange(20.0), np.nan, 500])
        assert np.flatnonzero(outliers(values, np.full(22, "a"))).tolist() == [21]


def compared(scans: Sequence[GroupScan]) -> list[BatchTest]:
    table = group_table(scans)
    return batch_tests(table, measured_columns(table))


class TestBatches:
    def test_of_alike_batches_few_differ(self) -> None:
        """In 1 of 20 cohorts any does, so that 5 of 25 are a chance of 1 in 100."""
        found = [any(t.p < 0.05 for t in compared([*cohort(60, seed=s)])) for s in range(25)]
        assert sum(found) < 5

    def test_a_scanner_that_differs_is_found(self) -> None:
        scans = []
        for scan in cohort(80):
            row = scan.summary.row
            higher = 1.3 if row["manufacturer"] == "Philips" else 1.0
            scans.append(changed(scan, snr_median=row["snr_median"] * higher))
        first, *_ = tests = compared(scans)
        assert (first.factor, first.measured.column) == ("scanner", "snr_median")
        assert first.p < 1e-6
        assert first.effect > 0.15
        assert {batch.name for batch in first.batches} == {"Siemens", "Philips"}
        assert len(tests) > 20

    def test_what_comes_with_another_protocol_does_not_count_twice(self) -> None:
        """Each protocol on a scanner of its own: the difference is the protocol's."""
        scans = []
        for scan in cohort(80):
            second = scan.summary.row["protocol"] == PROTOCOLS[1]
            snr = scan.summary.row["snr_median"] * (2 if second else 1)
            scanner = "Philips" if second else "Siemens"
            scans.append(changed(scan, snr_median=snr, manufacturer=scanner))
        p = {(t.factor, t.measured.column): t.p for t in compared(scans)}
        assert p["protocol", "snr_median"] < 1e-6
        assert p["scanner", "snr_median"] > 0.5

    def test_small_batches_and_what_a_study_is_about_are_left_alone(self) -> None:
        scans = [replace(s, metadata={"site": str(i // 3), "group": "xy"[i % 2]})
                 for i, s in enumerate(cohort(30))]  # fmt: skip
        assert {t.factor for t in compared(scans)} <= {"protocol", "scanner"}


@pytest.fixture(scope="module")
def page(table: GroupTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(table, tmp_path_factory.mktemp("group"))


class TestPage:
    def test_it_needs_nothing_else(self, page: Path) -> None:
        """What it refers to lies beside it; the library names addresses it never asks."""
        links = links_of(page)
        assert not [link for link in links if link.startswith(("http", "//", "data:text"))]
        assert "default-src 'none'" in page.read_text()

    def test_links_lead_to_reports_and_files_beside_it(self, page: Path, table: GroupTable) -> None:
        assert {"group_mrsi.tsv", "group_mrsi.json", "logs/CITATION.md"} <= set(links_of(page))
        text = page.read_text()
        for report in table.done["report"].dropna():
            assert report in text

    def test_it_says_how_outliers_and_batches_are_judged(self, page: Path) -> None:
        text = " ".join(page.read_text().split())
        assert "farther than 3.5 robust SDs" in text
        assert re.search(r"p values are corrected for all \d+ \(false discovery rate", text)

    def test_failures_are_listed_with_their_reason(self, page: Path, table: GroupTable) -> None:
        text = page.read_text()
        failed = table.frame[table.frame["state"] == "failed"]
        assert "EchoTime is 30, expected seconds" in text
        assert all(f">{scan}<" in text for scan in failed["scan"])

    def test_names_are_no_markup(self, tmp_path: Path) -> None:
        evil = "<img src=x onerror=alert(1)></script>"
        scans = [changed(replace(s, error=evil), protocol=evil) for s in cohort(10)]
        scans += [replace(s, summary=None, state=evil, error=evil) for s in cohort(3)]
        text = written(group_table(scans), tmp_path).read_text()
        assert "<img src=x" not in text
        assert text.count("</script>") == text.count("<script")

    @pytest.mark.parametrize("scans", [0, 1, 5])
    def test_few_scans_have_a_page(self, scans: int, tmp_path: Path) -> None:
        assert "Methods" in written(group_table(cohort(scans)), tmp_path).read_text()

    def test_a_cohort_in_which_all_failed_has_a_page(self, tmp_path: Path) -> None:
        text = written(group_table(cohort(5, failing=1.0)), tmp_path).read_text()
        assert "Scans without results" in text

    def test_many_protocols_share_a_strip(self, tmp_path: Path) -> None:
        scans = [changed(s, protocol=f"protocol {i % 20}") for i, s in enumerate(cohort(60))]
        assert "13 other protocols" in written(group_table(scans), tmp_path).read_text()

    def test_of_very_many_scans_some_are_drawn_and_all_outliers(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(group_figures, "MOST_DOTS", 50)
        scans = [*cohort(200)]
        scans[77] = changed(scans[77], snr_median=1e4)
        text = written(group_table(scans), tmp_path).read_text()
        drawn = re.search(r"Of 200 scans (\d+) are drawn", text)
        assert drawn is not None
        assert 50 <= int(drawn[1]) < 120
        assert f"{scans[77].scan}" in text

    def test_a_large_cohort_stays_small(self, tmp_path: Path) -> None:
        """Beside the library, less than 500 bytes a scan."""
        sizes = [
            written(group_table(cohort(n)), tmp_path / str(n)).stat().st_size for n in (10, 410)
        ]
        assert sizes[1] - sizes[0] < 400 * 500

    @pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
    def test_a_browser_draws_it_without_a_complaint(self, page: Path, tmp_path: Path) -> None:
        found = subprocess.run(
            [
                str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu",
                "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom",
                f"--user-data-dir={tmp_path}", page.as_uri(),
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        said = [line for line in found.stderr.splitlines() if ":CONSOLE" in line]
        assert said
        assert not [line for line in said if "[bokeh" not in line], said
        strips = len(measured_columns(group_table(cohort(40, failing=0.15))))
        assert found.stdout.count("bk-Figure") >= strips


def test_coverage_is_over_scans(table: GroupTable) -> None:
    rows = {row.title: row for _, kind in coverage_table(table) for row in kind}
    naa = table.done["NAANAAG_per_CrPCr_coverage"].to_numpy(float)
    assert rows["tNAA/tCr"].coverage == pytest.approx(np.median(naa))
    assert rows["tNAA/tCr"].scans == len(table.done)
    assert np.isnan(rows["tNAA"].median)


def test_main_ratios_are_of_sums_where_there_are_some(table: GroupTable) -> None:
    titles = [c.title for c in measured_columns(table) if c.kind == "amount"]
    assert titles == ["Ins/tCr", "tNAA/tCr", "tCho/tCr", "Glx/tCr"]


def written(table: GroupTable, folder: Path) -> Path:
    methods = methods_of(table.pipelines, classes_of(table, "protocol"))
    return write_group_page(table, methods, folder / "group_mrsi.html", title="Cohort")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [v for k, v in attrs if k in ("href", "src") and v and not v.startswith("#")]


def links_of(page: Path) -> list[str]:
    parser = _Links()
    parser.feed(page.read_text())
    return parser.found
