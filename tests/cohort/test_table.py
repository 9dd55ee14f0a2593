"""Tables of cohorts: what they may say, what is refused and how it is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.table import RESERVED, column_meant, read_table, write_table
from mrsi_engine.companions import Companion, Kind, register, unregister
from mrsi_engine.errors import InputError
from mrsi_engine.io.places import place


def _table(folder: Path, text: str, name: str = "cohort.tsv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_of_everything(tmp_path: Path) -> None:
    path = _table(
        tmp_path,
        "subject\tsession\tscan\tmask\twater\tgm\twm\tcsf\tbasis\tpipeline\tscanner\n"
        "sub-01\tpre\ta/x_mrsi.nii.gz\tm.nii\t/abs/w.nii\tg.nii\tw.nii\tc.nii\tpress-3t-te30\t"
        "svs\tA 1\n"
        "\n"
        "02\tn/a\ts3://bucket/y.nii\tn/a\t\t\tn/a\t\tb.basis\town.toml\tn/a\n",
    )
    first, second = read_table(path)
    assert first == ScanRow(
        str(tmp_path / "a/x_mrsi.nii.gz"),
        "01",
        "pre",
        {
            "mask": str(tmp_path / "m.nii"),
            "water": "/abs/w.nii",
            "tissue": {c: str(tmp_path / f"{c[0]}.nii") for c in ("gm", "wm", "csf")},
        },
        basis="press-3t-te30",
        pipeline="svs",
        metadata={"scanner": "A 1"},
    )
    assert first.folder == "sub-01/ses-pre/x"
    assert second == ScanRow(
        "s3://bucket/y.nii",
        "02",
        basis=str(tmp_path / "b.basis"),
        pipeline=str(tmp_path / "own.toml"),
    )


def test_scan_alone_is_enough_and_csv_is_read(tmp_path: Path) -> None:
    path = _table(tmp_path, 'scan,tissue,tissue_classes\n"a, b.nii",t.nii,"gm wm"\n', "c.csv")
    (row,) = read_table(path)
    assert row.scan == str(tmp_path / "a, b.nii")
    assert (row.files, row.tissue_classes) == ({"tissue": str(tmp_path / "t.nii")}, ("gm", "wm"))


def test_companion_of_another_package_has_its_column(tmp_path: Path) -> None:
    register(Companion("b1", Kind.MAP, "Map of the transmit field."))
    try:
        (row,) = read_table(_table(tmp_path, "scan\tb1\na.nii\tb.nii\n"))
        assert row.files == {"b1": str(tmp_path / "b.nii")}
    finally:
        unregister("b1")


def test_all_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    path = _table(
        tmp_path,
        "subject\tsession\tscan\ttissue\tgm\tstated\n"
        "S_01\tn/a\ta.nii\tn/a\tn/a\tn/a\n"
        "02\tn/a\tn/a\tn/a\tn/a\tn/a\n"
        "03\tn/a\ta.dcm\tn/a\tn/a\tn/a\n"
        "04\ta.nii\n"
        "n/a\tpost\tb.nii\tt.nii\tg.nii\t[1]\n"
        "05\tn/a\tc.nii\tn/a\tn/a\tn/a\n"
        "05\tn/a\tother/c.nii\tn/a\tn/a\tn/a\n",
    )
    with pytest.raises(InputError) as caught:
        read_table(path)
    told = str(caught.value)
    for expected in (
        "cohort.tsv",
        "line 2, column subject: 'S_01' is no label of BIDS, which is letters and digits; write",
        "line 3, column scan: empty, expected a NIfTI-MRS file",
        "line 4, column scan: 'a.dcm'",
        "line 5: 2 cells, the first line has 6",
        "line 6, column subject: empty, but the session is 'post'",
        "line 6, column tissue: given once more by gm",
        "line 6, column stated",
        "line 8: the same output folder sub-05/c as line 7",
    ):
        assert expected in told


def test_only_some_of_many_wrong_lines_are_told(tmp_path: Path) -> None:
    path = _table(tmp_path, "scan\tage\n" + "a.dcm\t1\n" * 200)
    with pytest.raises(InputError, match="and 180 more") as caught:
        read_table(path)
    assert len(str(caught.value).splitlines()) == 22


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("scan\n", "holds no scan"),
        (
            "subject\tfile\n1\tb.nii\n",
            "no column 'scan' in its first line, which has subject, file",
        ),
        ("subject,scan\n1,b.nii\n", "stand apart by commas"),
        ("scan\tMask\na.nii\tb.nii\n", "column 'Mask': is it 'mask'"),
        ("participant_id\tscan\n1\ta.nii\n", "is it 'subject'"),
        ("scan\tscan\na.nii\ta.nii\n", "'scan' stand twice"),
        ("scan\t\na.nii\ta.nii\n", "column 2 has no name"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        read_table(_table(tmp_path, text))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.tsv"):
        read_table(_table(tmp_path, "scan\na.nii\n", "cohort.xlsx"))
    with pytest.raises(InputError, match="No such file"):
        read_table(tmp_path / "none.tsv")
    (tmp_path / "latin.tsv").write_bytes("scan\tné\n".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_table(tmp_path / "latin.tsv")


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_scans_named_like_folders_of_the_cohort_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="folder of the cohort itself"):
        read_table(_table(tmp_path, f"scan\n{name}.nii\n"))


def test_a_scan_inside_the_folder_of_another_is_refused(tmp_path: Path) -> None:
    text = "subject\tscan\nn/a\tsub-01.nii\n01\ta.nii\n"
    with pytest.raises(InputError, match="would lie in that of line 2"):
        read_table(_table(tmp_path, text))


_labels = st.none() | st.from_regex(r"[A-Za-z0-9]{1,4}", fullmatch=True)
_paths = st.from_regex(r"/[a-z]{1,3}/[a-zé ,\"'\[\]]{0,5}[a-z]\.nii(\.gz)?", fullmatch=True)
_text = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), min_size=1)
_files = st.fixed_dictionaries(
    {},
    optional={
        "mask": _paths,
        "water": _paths,
        "scalp": _paths,
        "tissue": _paths
        | st.dictionaries(st.sampled_from(["gm", "wm", "csf"]), _paths, min_size=1),
    },
)
_stated = st.dictionaries(
    st.sampled_from(["scan", "water"]),
    st.dictionaries(_text, st.floats(allow_nan=False) | _text | st.booleans(), max_size=2),
    max_size=2,
)
_metadata = st.dictionaries(
    _text.filter(lambda name: column_meant(name) is None),
    _text.filter(lambda value: value != "n/a"),
    max_size=3,
)


@st.composite
def _rows(draw: st.DrawFn) -> ScanRow:
    subject = draw(_labels)
    return ScanRow(
        draw(_paths),
        subject,
        draw(_labels) if subject else None,
        draw(_files),
        tuple(draw(st.lists(st.from_regex(r"[a-z]{1,3}", fullmatch=True), max_size=3))),
        draw(st.none() | st.just("press-3t-te30") | _paths),
        draw(st.none() | st.just("svs") | st.just("/own/p.toml")),
        draw(_stated),
        draw(st.just("") | _text.filter(lambda text: text != "n/a")),
        draw(_metadata),
    )


@pytest.fixture(scope="session")
def table_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all examples of a property share."""
    return tmp_path_factory.mktemp("tables")


@given(
    rows=st.lists(_rows(), min_size=1, max_size=4, unique_by=lambda row: row.folder),
    suffix=st.sampled_from([".tsv", ".csv"]),
)
def test_what_is_written_is_read_back(table_folder: Path, rows: list[ScanRow], suffix: str) -> None:
    path = table_folder / f"cohort{suffix}"
    assert read_table(write_table(rows, path)) == tuple(rows)


def test_what_no_table_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tab or a line break"):
        write_table([ScanRow("/a.nii", metadata={"note": "a\tb"})], tmp_path / "c.tsv")
    with pytest.raises(InputError, match="names of columns"):
        write_table([ScanRow("/a.nii", metadata={"mask": "b"})], tmp_path / "c.tsv")


def test_a_table_on_an_object_store_is_relative_to_its_prefix() -> None:
    path = place("memory://tables/cohort.tsv")
    write_table([ScanRow("memory://tables/data/a.nii", files={"mask": "/local/m.nii"})], path)
    (row,) = read_table(path)
    assert (row.scan, row.files) == ("memory://tables/data/a.nii", {"mask": "/local/m.nii"})
    path.write_bytes(b"scan\nb/c.nii\n")
    assert read_table(path)[0].scan == "memory://tables/b/c.nii"
