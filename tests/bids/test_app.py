"""A BIDS dataset from scans to the group level, as a validator and other tools see it."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mrsi_engine.bids.app import DatasetChoice, run_group, run_participants
from mrsi_engine.cohort.dataset import check_output, describe_output
from mrsi_engine.cohort.ledger import State
from mrsi_engine.errors import InputError
from mrsi_engine.io.places import place
from mrsi_engine.io.result_store import open_result
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.folder import result_folder
from tests.bids.conftest import FinishedDataset, run_dataset
from tests.bids.datasets import add_scan, describe, phantom_dataset, validator_errors

PIPELINE = Pipeline.load("brain-1h-3t")


def test_every_scan_runs_with_what_came_with_it(finished: FinishedDataset) -> None:
    assert finished.outcome.counts == {State.DONE: 2}
    result = open_result(result_folder(finished.out / "sub-02/ses-1/sub-02_ses-1"))
    assert result.attrs["mask_origin"] == "given"
    assert not [note for note in result.attrs["notes"] if "sidecar" in note]


def test_dataset_and_results_are_valid_bids(finished: FinishedDataset) -> None:
    run_group(finished.choice, finished.choice.find(PIPELINE))
    assert validator_errors(finished.choice.dataset) == []
    assert validator_errors(finished.out) == []
    assert validator_errors(finished.out / "mrsi-orig") == []
    described = json.loads((finished.out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "mrsi_engine"
    assert described["DatasetLinks"] == {"raw": "../.."}
    assert described["SourceDatasets"] == [{"URL": "../.."}]


def test_group_level_has_a_row_for_every_scan(finished: FinishedDataset) -> None:
    page = run_group(finished.choice, finished.choice.find(PIPELINE))
    assert page == finished.out / "group_mrsi.html"
    with (finished.out / "group_mrsi.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["age"] for row in rows] == ["30", "31"]


def test_a_finished_dataset_is_not_run_again(finished: FinishedDataset) -> None:
    store = finished.out / "sub-01/ses-1/sub-01_ses-1/result.zarr/zarr.json"
    before = store.stat().st_mtime_ns
    choice = replace(finished.choice, subjects=("sub-01",))
    assert run_dataset(choice).counts == {State.DONE: 1}
    assert store.stat().st_mtime_ns == before
    # Results are no input, however the dataset is searched.
    found = finished.choice.find(PIPELINE)
    assert len(found.rows) == 2
    assert not [note for note in found.notes if "mrsi_engine" in note]


def test_sidecars_fill_headers_or_refuse_their_scan_which_hinders_no_other(
    phantom: Path, tmp_path: Path
) -> None:
    root = phantom_dataset(tmp_path / "ds", phantom, ["01"])
    (root / "mrsi.json").write_text('{"PulseSequenceType": "PRESS", "FlipAngle": 60}')
    add_scan(root, "sub-02/mrs/sub-02_mrsi.nii.gz", phantom / "scan.nii.gz", EchoTime=0.144)
    outcome = run_dataset(DatasetChoice(root, tmp_path / "out"))
    assert outcome.counts == {State.DONE: 1, State.REFUSED: 1}
    assert outcome.exit_code == 1
    assert "EchoTime is 0.03 in the file and 0.144" in outcome.failures["sub-02/sub-02"]
    result = open_result(result_folder(tmp_path / "out/sub-01/ses-1/sub-01_ses-1"))
    notes = "\n".join(result.attrs["notes"])
    assert 'SequenceName "PRESS" is that of the sidecar, the header states none' in notes
    assert "ExcitationFlipAngle 60 degrees" in notes
    assert validator_errors(tmp_path / "out") == []


def test_the_folder_says_what_it_is_even_when_a_run_fails(phantom: Path, tmp_path: Path) -> None:
    choice = DatasetChoice(phantom_dataset(tmp_path / "ds", phantom, ["01"]), tmp_path / "out")
    found = choice.find(PIPELINE, keep_index=False)
    assert not choice.out.exists()

    def fail() -> None:
        assert (choice.out / "dataset_description.json").is_file()
        (choice.out / "dataset_description.json").unlink()
        raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        run_participants(choice, found, fail)  # type: ignore[arg-type]
    assert validator_errors(choice.out) == []
    with pytest.raises(InputError, match="no scan was run here"):
        run_group(choice, found)


def test_a_dataset_with_a_doi_is_named_by_it(tmp_path: Path) -> None:
    describe(tmp_path / "raw", DatasetDOI="doi:10.0/x")
    describe_output(tmp_path / "out", tmp_path / "raw")
    described = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert described["SourceDatasets"] == [{"DOI": "doi:10.0/x"}]
    assert described["Name"] == "Metabolite maps of raw"


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    describe(tmp_path / "raw")
    with pytest.raises(InputError, match="holds the dataset 'raw', made by nobody"):
        describe_output(tmp_path / "raw")
    with pytest.raises(InputError, match="is the dataset itself"):
        check_output(tmp_path / "raw", tmp_path / "raw" / ".." / "raw")
    (tmp_path / "raw" / "dataset_description.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        check_output(tmp_path / "raw")


def test_rules_of_a_pipeline_and_of_a_file(phantom: Path, tmp_path: Path) -> None:
    root = phantom_dataset(tmp_path / "ds", phantom, ["01"])
    own = PIPELINE.from_settings(
        {**PIPELINE.settings(), "bids": {"companions": {"mask": [{"desc": "none"}]}}}
    )
    assert own.settings() == PIPELINE.settings()
    choice = DatasetChoice(root, tmp_path / "out")
    assert "mask" in choice.find(PIPELINE).rows[0].files
    assert "mask" not in choice.find(own).rows[0].files
    rules = tmp_path / "rules.toml"
    rules.write_text('[companions]\nmask = [{ suffix = "mask", desc = "brain" }]\n')
    assert "mask" in replace(choice, rules_file=rules).find(own).rows[0].files
    rules.write_text("[companions\n")
    with pytest.raises(InputError, match="not valid TOML"):
        replace(choice, rules_file=rules).find(own)


def test_filter_files(phantom: Path, tmp_path: Path) -> None:
    root = phantom_dataset(tmp_path / "ds", phantom, ["01"])
    filters = tmp_path / "filters.json"
    choice = DatasetChoice(root, tmp_path / "out", filter_file=filters)
    filters.write_text('{"water": {"acquisition": null}, "bold": {"run": 1}}')
    found = choice.find(PIPELINE)
    assert "water" not in found.rows[0].files
    assert any("'bold' is no kind of file" in note for note in found.notes)
    filters.write_text('["mrsi"]')
    with pytest.raises(InputError, match="expected JSON of entities"):
        choice.find(PIPELINE)


def test_results_on_an_object_store_say_what_they_are(phantom: Path, tmp_path: Path) -> None:
    root = phantom_dataset(tmp_path / "ds", phantom, ["01"])
    choice = DatasetChoice(root, place("memory://results/study"))
    assert run_dataset(choice).counts == {State.DONE: 1}
    described = json.loads((choice.out / "dataset_description.json").read_text())
    assert described["DatasetLinks"] == {"raw": root.as_uri()}
    assert (choice.out / "logs" / "bids_index.parquet").is_file()
    assert run_group(choice, choice.find(PIPELINE)).is_file()
