"""Files of a finished run that are damaged, as a user meets them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.helpers import Mrsi, of_phantom

pytestmark = pytest.mark.usefixtures("quick_report")


def cut_in_half(file: Path) -> Path:
    os.truncate(file, file.stat().st_size // 2)
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    "file",
    [
        "result.zarr/estimate/c/0/0",
        "result.zarr/flags/c/0",
        "result.zarr/x/c/0",
        "result.zarr/sd/zarr.json",
        "scan.zarr/fid/c/0/0",
        "scan.zarr/fid/zarr.json",
    ],
)
def test_the_same_command_mends_a_torn_file(
    mrsi: Mrsi, phantom: Path, copied: Path, finished: Path, file: str
) -> None:
    torn = cut_in_half(copied / file)
    if file.startswith("scan"):
        shutil.rmtree(copied / "result.zarr")
    else:
        error = mrsi.refused("export", copied)
        store, _, inside = file.partition("/")
        assert f"{store}: damaged: {inside} is cut short or altered" in error
        assert "run the same command again" in error
    shutil.rmtree(copied / "maps")
    mrsi(*of_phantom(phantom), "--out", copied, "--log", copied.parent / "log.jsonl")
    assert "DamageFound" in (copied.parent / "log.jsonl").read_text()
    assert torn.read_bytes() == (finished / file).read_bytes()
    assert contents(copied / "maps") == contents(finished / "maps")


@pytest.mark.parametrize("store", ["scan.zarr", "result.zarr"])
def test_torn_attributes_are_refused_with_a_way_on(
    mrsi: Mrsi, phantom: Path, copied: Path, finished: Path, store: str
) -> None:
    cut_in_half(copied / store / "zarr.json")
    before = sorted((p, p.stat().st_mtime_ns) for p in copied.rglob("*"))
    error = mrsi.refused(*of_phantom(phantom), "--out", copied)
    assert f"{store}: damaged: zarr.json is cut short or altered" in error
    assert "--overwrite" in error
    assert sorted((p, p.stat().st_mtime_ns) for p in copied.rglob("*")) == before
    mrsi(*of_phantom(phantom), "--out", copied, "--overwrite")
    assert contents(copied / "maps") == contents(finished / "maps")


def test_import_makes_a_damaged_store_again(mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
    command = ["import", phantom / "scan.nii.gz", "--out", tmp_path / "scan.zarr"]
    mrsi(*command)
    whole = (tmp_path / "scan.zarr" / "fid" / "c" / "0" / "0").read_bytes()
    torn = cut_in_half(tmp_path / "scan.zarr" / "fid" / "c" / "0" / "0")
    mrsi(*command)
    assert torn.read_bytes() == whole


@pytest.mark.parametrize("name", ["maps", "result.zarr", "report.html"])
def test_links_that_lead_out_of_the_folder_are_refused(
    mrsi: Mrsi, phantom: Path, copied: Path, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (copied / name).rename(elsewhere)
    (copied / name).symlink_to(elsewhere)
    before = sorted((p, p.stat().st_mtime_ns) for p in (elsewhere, *elsewhere.rglob("*")))
    for command in ([*of_phantom(phantom), "--out", copied], ["export", copied]):
        error = mrsi.refused(*command)
        assert f"{name}: is a link to {elsewhere}, outside the output folder" in error
    assert sorted((p, p.stat().st_mtime_ns) for p in (elsewhere, *elsewhere.rglob("*"))) == before
