"""All voxels of a cohort as one dataset, which every reader opens as it is."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from mrsi_engine.cohort.voxels import VOXELS, ScanVoxels, write_voxels
from mrsi_engine.errors import InputError
from mrsi_engine.io.places import place, written_at
from mrsi_engine.io.tables import write_table
from mrsi_engine.quantities import quality
from tests.report.synthetic import brain_result, with_measure

OWN = quality("my_measure", "Hz", "what one protocol has")
LABELS = (("01", "01"), ("01", "02"), ("02", "01"))


@pytest.fixture
def scans(tmp_path: Path) -> list[ScanVoxels]:
    """Three scans, of which the last has a measure more and lacks another."""
    plain = brain_result((5, 5, 2))
    other = with_measure(plain, OWN, 3.0)
    other = other.sel(measure=[m for m in other["measure"].values if m != "noise_sd"])
    tables = [write_table(r, tmp_path / f"{i}.parquet") for i, r in enumerate((plain, other))]
    found = []
    for i, (subject, session) in enumerate(LABELS):
        stem = f"sub-{subject}_ses-{session}"
        source = tmp_path / "cohort" / stem / "voxels.parquet"
        source.parent.mkdir(parents=True)
        shutil.copy2(tables[i == 2], source)
        found.append(ScanVoxels(source, subject, session, stem))
    return found


@pytest.fixture
def folder(scans: list[ScanVoxels], tmp_path: Path) -> Path:
    return write_voxels(tmp_path / "cohort", scans)


@pytest.fixture
def voxels(scans: list[ScanVoxels]) -> int:
    """Of one scan."""
    return len(pd.read_parquet(scans[0].source))


def test_a_file_a_scan_by_subject_and_session(folder: Path) -> None:
    assert folder.name == VOXELS
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
    assert files == [f"subject={a}/session={b}/sub-{a}_ses-{b}.parquet" for a, b in LABELS]


class TestReaders:
    """Columns that some scans lack are there, empty where they are lacking."""

    def test_pandas(self, folder: Path, voxels: int) -> None:
        frame = pd.read_parquet(folder)
        assert frame.groupby(["subject", "session"], observed=True).size().tolist() == [voxels] * 3
        assert frame["my_measure"].notna().sum() == voxels - 2
        assert frame["noise_sd"].notna().sum() == 2 * (voxels - 2)
        assert {"NAANAAG_crlb", "stem"} <= set(frame)

    def test_polars(self, folder: Path, voxels: int) -> None:
        frame = pl.read_parquet(folder)
        assert frame.height == 3 * voxels
        assert frame["my_measure"].is_not_null().sum() == voxels

    def test_arrow(self, folder: Path, voxels: int) -> None:
        dataset = ds.dataset(folder, partitioning="hive")
        second = dataset.to_table(filter=ds.field("session") == 2)
        assert second.num_rows == voxels
        assert {"my_measure", "noise_sd"} <= set(dataset.schema.names)

    def test_arrow_keeps_labels_as_words_if_told(self, folder: Path) -> None:
        words = pa.schema([("subject", pa.string()), ("session", pa.string())])
        table = ds.dataset(folder, partitioning=ds.partitioning(words, flavor="hive")).to_table()
        assert set(table["subject"].to_pylist()) == {"01", "02"}

    def test_duckdb(self, folder: Path, voxels: int) -> None:
        duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
        counted = duckdb.sql(
            f"select subject, count(my_measure) from '{folder}/**/*.parquet' group by 1 order by 1"
        )
        assert [count for _, count in counted.fetchall()] == [0, voxels]


def test_numbers_and_units_are_those_of_the_scans(folder: Path, scans: list[ScanVoxels]) -> None:
    for scan in scans:
        own, found = (pq.ParquetFile(p).read() for p in (scan.source, folder / scan.place))
        assert found.schema.metadata == own.schema.metadata
        for name in own.column_names:
            assert found[name].type == own[name].type
            assert found.field(name).metadata == own.field(name).metadata
            np.testing.assert_array_equal(found[name].to_pandas(), own[name].to_pandas())


def test_files_of_scans_alike_take_no_room(scans: list[ScanVoxels], tmp_path: Path) -> None:
    folder = write_voxels(tmp_path / "cohort", scans[:2])
    assert all((folder / scan.place).samefile(scan.source) for scan in scans[:2])
    write_voxels(tmp_path / "cohort", scans[:2])
    assert not list(folder.rglob(".*.partial"))


def test_where_links_cannot_be_files_are_copied(
    scans: list[ScanVoxels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder = write_voxels(tmp_path / "cohort", scans[:2])
    for scan in scans[:2]:
        assert (folder / scan.place).read_bytes() == scan.source.read_bytes()
        assert not (folder / scan.place).samefile(scan.source)


def test_on_an_object_store(scans: list[ScanVoxels]) -> None:
    out = place("memory://test_voxels/out")
    there = []
    for scan in scans:
        source = out / scan.stem / "voxels.parquet"
        source.write_bytes(scan.source.read_bytes())
        there.append(ScanVoxels(source, scan.subject, scan.session, scan.stem))
    folder = write_voxels(out, there)
    opened = [pq.read_table(io.BytesIO((folder / s.place).read_bytes())) for s in there]
    assert len({tuple(table.column_names) for table in opened}) == 1
    before = [written_at(folder / scan.place) for scan in there]
    there[0].source.write_bytes(scans[0].source.read_bytes())
    write_voxels(out, there)
    after = [written_at(folder / scan.place) for scan in there]
    assert [a > b for a, b in zip(after, before, strict=True)] == [True, False, False]
    write_voxels(out, there[:1])
    assert not (folder / there[1].place).exists()


class TestAgain:
    def test_what_is_as_it_should_be_is_left(self, folder: Path, scans: list[ScanVoxels]) -> None:
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
        write_voxels(folder.parent, scans)
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}

    @pytest.mark.parametrize("place", [0, 2])
    def test_a_scan_that_was_run_again_is_taken_anew(
        self, place: int, folder: Path, scans: list[ScanVoxels], voxels: int
    ) -> None:
        source = scans[place].source
        rows = pq.read_table(source).slice(0, 5)
        later = os.stat(source).st_mtime + 10
        source.unlink()
        pq.write_table(rows, source)
        os.utime(source, (later, later))
        write_voxels(folder.parent, scans)
        assert len(pd.read_parquet(folder)) == 2 * voxels + 5

    def test_a_scan_with_new_columns_widens_all(
        self, scans: list[ScanVoxels], tmp_path: Path, voxels: int
    ) -> None:
        write_voxels(tmp_path / "cohort", scans[:2])
        folder = write_voxels(tmp_path / "cohort", scans)
        assert pl.read_parquet(folder)["my_measure"].is_not_null().sum() == voxels
        # The scans' own tables are never written to.
        assert "my_measure" not in pq.read_schema(scans[0].source).names

    def test_scans_that_are_no_more_in_the_cohort_go(
        self, folder: Path, scans: list[ScanVoxels], voxels: int
    ) -> None:
        write_voxels(folder.parent, scans[:2])
        assert len(pd.read_parquet(folder)) == 2 * voxels
        assert not (folder / "subject=02").exists()


@pytest.mark.parametrize("labelled", [0, 1])
def test_scans_without_labels_have_a_place(
    labelled: int, scans: list[ScanVoxels], tmp_path: Path, voxels: int
) -> None:
    bare = [ScanVoxels(s.source, "", "", s.stem) for s in scans[labelled:]]
    folder = write_voxels(tmp_path / "cohort", [*scans[:labelled], *bare])
    frame = pd.read_parquet(folder)
    assert len(frame) == 3 * voxels
    assert (frame["subject"].astype(str) == "none").sum() == (3 - labelled) * voxels


def test_a_cohort_without_results_has_no_dataset(tmp_path: Path) -> None:
    assert not write_voxels(tmp_path, []).exists()


def test_columns_of_another_kind_are_refused(scans: list[ScanVoxels], tmp_path: Path) -> None:
    pq.write_table(pa.table({"NAA": ["many"]}), scans[1].source)
    with pytest.raises(InputError, match=r"do not go together.*NAA"):
        write_voxels(tmp_path / "cohort", scans)
