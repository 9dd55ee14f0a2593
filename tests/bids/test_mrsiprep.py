"""Maps under the names of MRSIPrep's contract, restated here."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine.bids.mrsiprep import check_sessions, write_layout
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.errors import InputError
from mrsi_engine.io.maps import export_maps
from mrsi_engine.io.result_store import open_result
from mrsi_engine.runs.folder import result_folder
from tests.bids.conftest import FinishedDataset

#: What it looks for in the folder of a session; any other entity makes a file invisible.
NAME = re.compile(
    r"^sub-(?P<sub>[A-Za-z0-9]+)(_ses-(?P<ses>[A-Za-z0-9]+))?_space-orig(_res-[A-Za-z0-9]+)?"
    r"(_met-(?P<met>[A-Za-z0-9]+))?_desc-(?P<desc>[A-Za-z0-9]+)_mrsi\.nii(\.gz)?$"
)


def test_every_map_is_found_and_finite(finished: FinishedDataset) -> None:
    folder = finished.out / "mrsi-orig" / "sub-02" / "ses-1"
    maps = sorted(folder.glob("*.nii.gz"))
    found = [match for path in maps if (match := NAME.match(path.name))]
    assert len(found) == len(maps)
    assert {(m["sub"], m["ses"]) for m in found} == {("02", "1")}
    by_metabolite = {m["met"] for m in found} - {None}
    assert {"NAANAAG", "CrPCr", "Ins"} <= by_metabolite
    for metabolite in by_metabolite:
        assert {m["desc"] for m in found if m["met"] == metabolite} == {"signal", "crlb"}
    assert {m["desc"] for m in found if m["met"] is None} == {"snr", "fwhm", "brainmask"}
    affines = [nib.load(path).affine for path in maps]
    assert all(np.allclose(affine, affines[0], atol=1e-3) for affine in affines)
    for path in maps:
        image = nib.load(path)
        assert np.isfinite(image.get_fdata()).all(), path.name
        assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
        assert path.with_name(path.name.replace(".nii.gz", ".json")).is_file()


def test_voxels_without_a_fit_pass_no_filter(finished: FinishedDataset) -> None:
    folder = finished.out / "mrsi-orig" / "sub-01" / "ses-1"
    names = ("orig_desc-snr", "orig_desc-fwhm", "NAANAAG_desc-crlb", "desc-brainmask")
    files = [next(folder.glob(f"*{name}_mrsi.nii.gz")) for name in names]
    snr, fwhm, crlb, mask = (nib.load(path).get_fdata() for path in files)
    passing = (snr >= 4) & (fwhm <= 0.1) & (crlb <= 20)
    assert passing.any()
    assert not passing[mask == 0].any()
    assert fwhm[mask == 0].min() == 999


def test_maps_that_are_finite_already_are_linked(finished: FinishedDataset, tmp_path: Path) -> None:
    row = ScanRow("/x/sub-01_ses-1_mrsi.nii.gz", "01", "1")
    scan = tmp_path / row.folder
    scan.parent.mkdir(parents=True)
    result = result_folder(finished.out / row.folder)
    result_folder(scan).parent.mkdir()
    result_folder(scan).symlink_to(result)
    export_maps(open_result(result), scan / "maps", fill="mrsiprep")
    folder = write_layout(tmp_path, [row], [row.folder])
    linked = list(folder.glob("sub-01/ses-1/*.nii.gz"))
    assert linked
    assert all(path.stat().st_nlink == 2 for path in linked)
    write_layout(tmp_path, [row], [row.folder])
    assert len(list(folder.glob("sub-01/ses-1/*.nii.gz"))) == len(linked)
    write_layout(tmp_path, [row], [])
    assert not list(folder.glob("sub-01/ses-1/*"))


def test_one_acquisition_a_session() -> None:
    rows = [ScanRow(f"/d/sub-01_acq-{acq}_mrsi.nii.gz", "01") for acq in "ab"]
    with pytest.raises(InputError, match=r"share theirs.*acq-a.*acq-b"):
        check_sessions(rows)
    assert check_sessions([rows[0], ScanRow("/d/sub-01_svs.nii.gz", "01")]) == [
        "1 scans of single voxels have no place in MRSIPrep's layout"
    ]


@pytest.mark.parametrize(("session", "read_as"), [("T1", "V1"), ("test", "Vest")])
def test_sessions_that_it_would_not_find_are_told(session: str, read_as: str) -> None:
    (note,) = check_sessions([ScanRow("/d/a_mrsi.nii.gz", "01", session)])
    assert f"{session!r} as {read_as}" in note
    assert check_sessions([ScanRow("/d/a_mrsi.nii.gz", "01", "pre")]) == []
