"""The index of a dataset: what it holds, and when it is made anew."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mrsi_engine.bids import index as module
from mrsi_engine.bids.index import RAW, index_datasets
from mrsi_engine.errors import InputError
from tests.bids.datasets import derivative, empty_dataset

SCAN = "sub-01/mrs/sub-01_mrsi.nii.gz"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders that were indexed."""
    found: list[Path] = []
    index = module.bids2table.index_dataset

    def counted(root: Path) -> object:
        found.append(root)
        return index(root)

    monkeypatch.setattr(module.bids2table, "index_dataset", counted)
    return found


def test_entities_of_the_dataset_and_its_derivatives(tmp_path: Path) -> None:
    mapped = "derivatives/x/sub-01/sub-01_space-orig_met-NAA_desc-signal_mrsi.nii.gz"
    root = empty_dataset(tmp_path / "ds", [SCAN, "sub-01/mrs/sub-01_mrsi.json", mapped])
    raw, other = index_datasets(root).files()
    assert raw.path == root / SCAN
    assert dict(raw.entities) == {
        "dataset": RAW, "sub": "01", "datatype": "mrs", "suffix": "mrsi", "ext": ".nii.gz"
    }  # fmt: skip
    assert (other["dataset"], other["met"], other["run"]) == ("x", "NAA", "")
    assert index_datasets(root).subjects == ("01",)
    assert list(index_datasets(root).files(["02"])) == []


def test_names_of_datasets_may_hold_dots(tmp_path: Path) -> None:
    root = empty_dataset(tmp_path / "study.v1", [SCAN, f"derivatives/fmriprep-23.2.1/{SCAN}"])
    files = list(index_datasets(root, cache=tmp_path / "index.parquet").files())
    assert [file.path for file in files] == [
        root / SCAN,
        root / "derivatives/fmriprep-23.2.1" / SCAN,
    ]
    assert files[1]["dataset"] == "fmriprep-23.2.1"


def test_maps_made_here_are_no_input(tmp_path: Path) -> None:
    root = empty_dataset(tmp_path / "ds", [SCAN, f"derivatives/other/{SCAN}"])
    described = {"GeneratedBy": [{"Name": "mrsi_engine"}]}
    (derivative(root, "other") / "dataset_description.json").write_text(json.dumps(described))
    assert index_datasets(root).derivatives == ()


def test_the_index_is_made_once_and_again_when_a_file_comes_or_goes(
    tmp_path: Path, made: list[Path]
) -> None:
    root, cache = empty_dataset(tmp_path / "ds", [SCAN]), tmp_path / "out" / "index.parquet"
    first = index_datasets(root, cache=cache, keep=False)
    assert not cache.exists()
    index_datasets(root, cache=cache)
    assert len(made) == 2
    assert index_datasets(root, cache=cache).table.equals(first.table)
    assert len(made) == 2
    time.sleep(0.02)  # of the clock of files
    (root / "sub-01/mrs/sub-01_acq-2_mrsi.nii.gz").touch()
    assert len(list(index_datasets(root, cache=cache).files())) == 2
    assert len(made) == 3
    empty_dataset(root, ["derivatives/x/sub-01/mrs/sub-01_desc-brain_mask.nii.gz"])
    assert len(list(index_datasets(root, cache=cache).files())) == 3
    cache.write_bytes(b"broken")
    assert len(list(index_datasets(root, cache=cache).files())) == 3


def test_folders_that_are_no_dataset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        index_datasets(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no folder sub-"):
        index_datasets(tmp_path / "empty")
    root = empty_dataset(tmp_path / "ds", [SCAN])
    with pytest.raises(InputError, match="no such folder of derivatives"):
        index_datasets(root, [tmp_path / "gone"])
    with pytest.raises(InputError, match="two derivatives of the same name"):
        index_datasets(root, [root / "sub-01", tmp_path / "ds" / "sub-01"])
