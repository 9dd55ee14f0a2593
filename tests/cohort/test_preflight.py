"""What a preflight says of good scans, broken ones and many of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine.cohort import preflight as module
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.preflight import Preflight, preflight
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.io.nifti_mrs import write_volume
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice


def _check(rows: Sequence[ScanRow], out: Path, basis: str | None = "press-3t-te30") -> Preflight:
    return preflight(
        rows,
        out,
        basis=BasisChoice(basis) if basis else None,
        pipeline=Pipeline.load("brain-1h-3t"),
        options=CohortOptions(),
    )


@pytest.fixture
def good(phantom: Path) -> ScanRow:
    files = {"mask": str(phantom / "mask.nii.gz"), "water": str(phantom / "water.nii.gz")}
    return ScanRow(str(phantom / "scan.nii.gz"), "01", files=files)


def test_a_scan_that_can_run(good: ScanRow, tmp_path: Path) -> None:
    found = _check([good], tmp_path)
    (scan,) = found.scans
    assert (found.refused, found.exit_code) == ({}, 0)
    assert scan.voxels == 16
    assert scan.basis is not None
    assert scan.protocol.nucleus == "1H"
    assert scan.protocol.field == pytest.approx(2.89, abs=0.15)
    assert 2 < scan.seconds < 3
    assert 16 * 1024 * 8 * 2 < scan.size < 4e6
    text = "\n".join(found.lines(2))
    for said in (
        "1 of 1 scans can run",
        "TE 30 ms",
        "16 voxels; with 1 mask, 1 water",
        "1 seconds on 2 workers",
    ):
        assert said in text
    assert not list(tmp_path.iterdir())


def _broken(good: ScanRow, folder: Path) -> dict[str, ScanRow]:
    """Scans that cannot run, by what is said of them."""
    scan = Path(good.scan)
    (folder / "cut.nii.gz").write_bytes(scan.read_bytes()[:300])
    mask = np.ones((5, 6, 1), np.uint8)
    small = str(write_volume(folder / "small.nii.gz", mask, np.eye(4)))
    four = str(write_volume(folder / "four.nii.gz", np.ones((6, 6, 1, 4), np.float32), np.eye(4)))
    real = str(nib.load(scan).get_filename())
    return {
        "no such file": ScanRow(str(folder / "gone.nii.gz")),
        "not a NIfTI file, or damaged": ScanRow(str(folder / "cut.nii.gz")),
        "not on the scan's grid": ScanRow(real, "02", files={"mask": small}),
        "holds 4 tissue classes but 2 names": ScanRow(
            real, "03", files={"tissue": four}, tissue_classes=("gm", "wm")
        ),
        "name the classes": ScanRow(real, "04", files={"tissue": four}),
        "expected complex64": ScanRow(real, "05", files={"water": small}),
        "no such basis": ScanRow(real, "06", basis=str(folder / "none.basis")),
        "no such pipeline": ScanRow(real, "07", pipeline="nothing"),
        "is for 31P": ScanRow(real, "08", pipeline="brain-31p-7t"),
        "EchoTime is 0.03 in the file and 0.144": ScanRow(
            real, "09", stated={"scan": {"EchoTime": 0.144}}
        ),
    }


def test_what_cannot_run_is_told_and_hinders_nobody(good: ScanRow, tmp_path: Path) -> None:
    broken = _broken(good, tmp_path)
    found = _check([*broken.values(), good], tmp_path / "out")
    assert [scan.row for scan in found.scans] == [good]
    assert found.exit_code == 1
    for said, row in broken.items():
        assert said in found.refused[row.folder]
    assert "10 refused" in list(found.lines())
    assert _check(list(broken.values()), tmp_path / "out").exit_code == 2


def test_a_mask_of_nothing_refuses_its_own_scan_only(good: ScanRow, tmp_path: Path) -> None:
    grid = nib.load(good.scan)
    zeros = np.zeros(grid.shape[:3], np.uint8)
    nothing = str(write_volume(tmp_path / "nothing.nii.gz", zeros, grid.affine))
    first = replace(good, subject="00", files={**good.files, "mask": nothing})
    found = _check([first, good], tmp_path / "out")
    assert "selects no voxel" in found.refused[first.folder]
    assert [scan.voxels for scan in found.scans] == [16]


def test_what_is_refused_already_stays_so(good: ScanRow, tmp_path: Path) -> None:
    found = _check([replace(good, refused="two masks")], tmp_path)
    assert found.refused == {good.folder: "two masks"}
    assert not found.scans


def test_many_refusals_are_counted(tmp_path: Path) -> None:
    rows = [ScanRow(str(tmp_path / "no.nii"), str(i)) for i in range(30)]
    lines = list(_check(rows, tmp_path).lines())
    assert lines[0] == "0 of 30 scans can run"
    assert lines[-1] == "  and 10 more"


def test_headers_are_read_once_and_a_basis_once_a_protocol(
    good: ScanRow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = nib.load

    def counted(path: Path, **settings: object) -> object:
        read.append(str(path))
        return load(path, **settings)

    loaded: list[object] = []
    suited = module.suited_basis

    def counted_basis(*arguments: object) -> object:
        loaded.append(arguments)
        return suited(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(nib, "load", counted)
    monkeypatch.setattr(module, "suited_basis", counted_basis)
    rows = []
    for number in range(20):
        folder = tmp_path / str(number)
        shutil.copytree(Path(good.scan).parent, folder)
        files = {"mask": str(folder / "mask.nii.gz"), "water": str(folder / "water.nii.gz")}
        rows.append(ScanRow(str(folder / "scan.nii.gz"), str(number), files=files))
    found = _check(rows, tmp_path / "out")
    assert len(found.scans) == 20
    assert len(loaded) == 1
    # The mask of the first scan is read, too: how many voxels a protocol has is told from it.
    assert {path: read.count(path) for path in read if "mask" not in path} == {
        str(row_path): 1 for row in rows for row_path in (row.scan, row.files["water"])
    }
    assert len(read) == 3 * 20 + 1
    assert all(scan.basis is found.scans[0].basis for scan in found.scans)
    assert len(found.protocols) == 1


def test_what_a_sidecar_states_reaches_the_basis(good: ScanRow, tmp_path: Path) -> None:
    row = ScanRow(good.scan, stated={"scan": {"SequenceName": "sLASER"}})
    assert "sLASER" in _check([row], tmp_path).refused["scan"]
    (scan,) = preflight(
        [row],
        tmp_path,
        basis=BasisChoice("press-3t-te30", te_mismatch="allow"),
        pipeline=Pipeline.load("brain-1h-3t"),
        options=CohortOptions(),
    ).scans
    assert any('SequenceName "sLASER" is that of the sidecar' in note for note in scan.notes)
