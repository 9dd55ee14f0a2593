from __future__ import annotations

from pathlib import Path

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.lcmodel_results import lcmodel_label, read_lcmodel, read_lcmodel_csv

REAL = Path(__file__).resolve().parents[3] / "shared/data/mrsi_3t_te16/lcmodel_reference.csv"
HEADER = "Row, Col, NAA, NAA %SD, NAA/Cr, mI, mI %SD, mI/Cr, GPC+PCh, GPC+PCh %SD, GPC+PCh/Cr"
LINE = (
    "      2,      51,    0.519,    4,    0.855, 6.92E-02,   31,    0.114,    0.000,    999,  0.0"
)


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "lcmodel.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("NAA", "NAA"), ("mI", "Ins"), ("Ins", "Ins"), ("Scyllo", "sIns"), ("PCho", "PCh"),
        ("NAA+NAAG", "NAANAAG"), ("GPC+PCh", "GPCPCh"), ("PCho+GPC", "GPCPCh"), ("PE", "PE"),
        ("Cr+PCr", "CrPCr"), ("Glu+Gln", "GluGln"), ("-CrCH2", "-CrCH2"), ("mI+Gly", "InsGly"),
    ],
)  # fmt: skip
def test_names(name: str, label: str) -> None:
    assert lcmodel_label(name) == label


def test_reads_cells_to_voxels_counted_from_zero(tmp_path: Path) -> None:
    table = read_lcmodel_csv(written(tmp_path, HEADER, LINE))
    assert table.attrs["reference"] == "Cr"
    assert table["label"].tolist() == ["NAA", "Ins", "GPCPCh"]
    assert (table["x"] == 50).all()
    assert (table["y"] == 1).all()
    assert table.loc[1, ["amplitude", "percent_sd", "ratio"]].tolist() == [0.0692, 31, 0.114]


def test_reference_may_be_a_sum(tmp_path: Path) -> None:
    header = HEADER.replace("/Cr", "/Cr+PCr")
    assert read_lcmodel_csv(written(tmp_path, header, LINE)).attrs["reference"] == "CrPCr"


def test_blank_lines_and_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeff" + HEADER, LINE, "", "")
    assert len(read_lcmodel_csv(path)) == 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "first line is empty"),
        (["a,b,c,d,e", LINE], "expected LCModel's CSV"),
        ([HEADER.replace("mI %SD", "mI SD"), LINE], "'mI' is followed by 'mI SD'"),
        ([HEADER.replace("mI/Cr", "mI/PCr"), LINE], "ratios to"),
        ([HEADER + ", Lac", LINE], "expected LCModel's CSV"),
        ([HEADER], "no voxel"),
        ([HEADER, LINE + ", 1"], "line 2 has 12 cells, the header 11"),
        ([HEADER, LINE.replace("0.519", "*****")], "line 2, column 'NAA': '\\*\\*\\*\\*\\*' is no"),
        ([HEADER, LINE.replace("51,", "0,")], "line 2, column 'Col': '0' is no voxel number"),
        ([HEADER, LINE.replace("51,", "nan,")], "no voxel number"),
        ([HEADER, LINE.replace("2,", "1.5,", 1)], "column 'Row': '1.5'"),
        ([HEADER, LINE, LINE], "NAA of row 2, column 51 stands more than once"),
    ],
)
def test_malformed_tables_say_where(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_lcmodel_csv(written(tmp_path, *lines))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_lcmodel_csv(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="cannot be read as text"):
        read_lcmodel_csv(tmp_path / "binary.csv")


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there")
def test_the_real_table() -> None:
    table = read_lcmodel_csv(REAL)
    assert table["x"].nunique() == 96
    assert not set(table["x"] + 1) & {25, 31, 63, 97}
    assert {"NAANAAG", "GPCPCh", "GluGln", "Ins", "sIns"} <= set(table["label"])
    last = table[(table["x"] == 0) & (table["label"] == "NAANAAG")].iloc[0]
    assert (last["amplitude"], last["percent_sd"], last["ratio"]) == (0.492, 2, 1.056)


TABLE = """ LCModel (Version 6.3-1N)
 $$CONC {count} lines in following concentration table = NCONC+1
    Conc.  %SD /Cr+PCr  Metabolite
   0.000  999%   0.000  Ala
    9.1     2%     1.4  NAA+NAAG
 6.92E-02  31% 1.1E-02 -CrCH2
    6.5     2%     1.0  Cr+PCr
 $$MISC  6 lines in following table
  FWHM = 0.064 ppm    S/N =  12
"""
COORD = """ a title
    {count} lines in following concentration table = NCONC+1
    Conc.  %SD /Cr+PCr  Metabolite
    9.1     2%     1.4  NAA+NAAG
    4 lines in following misc. output table
"""


@pytest.mark.parametrize("name", ["voxel.table", "VOXEL.TXT"])
def test_table_of_one_voxel(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(TABLE.format(count=5))
    table = read_lcmodel(path)
    assert table.attrs["reference"] == "CrPCr"
    assert table["label"].tolist() == ["Ala", "NAANAAG", "-CrCH2", "CrPCr"]
    assert table.loc[2, ["amplitude", "percent_sd", "ratio"]].tolist() == [0.0692, 31, 0.011]
    assert "x" not in table


def test_coord_of_one_voxel(tmp_path: Path) -> None:
    path = tmp_path / "voxel.coord"
    path.write_text(COORD.format(count=2))
    assert read_lcmodel(path)["label"].tolist() == ["NAANAAG"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" $$CONC 2 lines in following concentration table\n", r"begins with \[\]"),
        (COORD.replace("    9.1     2%     1.4  NAA+NAAG\n", ""), "has no row"),
        (COORD.replace("%SD", "SD"), "expected 'Conc. %SD /REF Metabolite'"),
    ],
)
def test_broken_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "voxel.table"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_lcmodel(path)


def test_csv_is_still_known(tmp_path: Path) -> None:
    assert len(read_lcmodel(written(tmp_path, HEADER, LINE))) == 3
