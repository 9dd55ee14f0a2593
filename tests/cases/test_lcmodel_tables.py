"""LCModel's results of one slice, in its several files."""

from __future__ import annotations

import pytest

from tests.cases.engine import Engine
from tests.cases.scan import Scan

_HEAD = "Row, Col, NAA+NAAG, NAA+NAAG %SD, NAA+NAAG/Cr+PCr, Cr+PCr, Cr+PCr %SD, Cr+PCr/Cr+PCr\n"

TABLE = """ LCModel (Version 6.3-1N)
 $$CONC 2 lines in following concentration table = NCONC+1
    Conc.  %SD /Cr+PCr  Metabolite
    9.1     2%     1.4  NAA+NAAG
    6.5     2%     1.0  Cr+PCr
"""


@pytest.mark.case("21", "LCModel's table of slice 2 of a scan of 3", "--slice says which")
def test_slice(engine: Engine, scan: Scan) -> None:
    done = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask)
    rows = [f"{r}, {c}, 9.1, 2, 1.4, 6.5, 2, 1.0\n" for r in (4, 5, 6) for c in (4, 5, 6)]
    table = engine.folder / "slice2.csv"
    table.write_text(_HEAD + "".join(rows))
    without = engine("compare", done.folder, "--lcmodel", table)
    engine.assert_refused(without, "--slice")
    compared = engine("compare", done.folder, "--lcmodel", table, "--slice", 2)
    assert compared.code == 0, compared.text


@pytest.mark.case("21", "LCModel's .table of one voxel", "read, or refused as that")
def test_table(engine: Engine, scan: Scan) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", scan.data[6:7, 4:5, 2:3])
    done = engine.run(path)
    table = engine.folder / "voxel.table"
    table.write_text(TABLE)
    compared = engine("compare", done.folder, "--lcmodel", table)
    assert compared.code == 0, compared.text
