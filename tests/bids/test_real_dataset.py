"""Real scans as a BIDS dataset, participant and group level."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mrsi_engine.bids.app import DatasetChoice, run_group
from mrsi_engine.cohort.ledger import State
from mrsi_engine.pipeline.pipeline import Pipeline
from tests.bids.conftest import run_dataset
from tests.bids.datasets import validator_errors
from tests.bids.real_dataset import DATA, real_dataset

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA}")


def test_real_scans_from_dataset_to_group_level(tmp_path: Path) -> None:
    root = real_dataset(tmp_path / "ds")
    assert validator_errors(root) == []
    choice = DatasetChoice(root, tmp_path / "out", rules_file=tmp_path / "rules.toml")
    found = choice.find(Pipeline.load("brain-1h-3t"))
    brain, row, voxel = found.rows
    assert set(brain.files) == {"mask", "tissue"}
    assert set(row.files) == {"mask", "water"}
    assert "acq-conc_mrsref" in str(voxel.files["water"])
    assert any("acq-ecc_mrsref" in note for note in found.notes)
    assert run_dataset(choice).counts == {State.DONE: 3}
    run_group(choice, found)
    assert validator_errors(choice.out) == []
    with (choice.out / "group_mrsi.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["group"] for row in rows] == ["brain", "brain", "voxel"]
    assert float(rows[0]["usable_share"]) > 0.9
