"""What is found in datasets: scans, and by rules what comes with them."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from mrsi_engine.bids.discover import Wanted
from mrsi_engine.bids.rules import Rules, default_rules, where
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.table import read_table, write_table
from mrsi_engine.errors import InputError
from tests.bids.datasets import empty_dataset, found_in

SCAN = "sub-01/ses-1/mrs/sub-01_ses-1"


def _names(row: ScanRow) -> dict[str, object]:
    """Names of the files that come with a scan."""

    def name(file: object) -> object:
        if isinstance(file, Mapping):
            return {key: name(one) for key, one in file.items()}
        return Path(str(file)).name

    return {key: name(file) for key, file in row.files.items()}


def _only(root: Path, *files: str, rules: Rules | None = None) -> ScanRow:
    (row,) = found_in(empty_dataset(root, files), rules=rules).rows
    return row


def _rules(**companions: object) -> Rules:
    return default_rules().with_changes({"companions": companions}, "test")


def test_scans_and_what_comes_with_them(tmp_path: Path) -> None:
    root = empty_dataset(
        tmp_path / "ds",
        [
            f"{SCAN}_mrsi.nii.gz",
            f"{SCAN}_svs.nii.gz",
            f"{SCAN}_mrsref.nii.gz",
            "sub-02/mrs/sub-02_run-01_mrsi.nii",
            f"derivatives/masks/{SCAN}_desc-brain_mask.nii.gz",
            "derivatives/seg/sub-01/anat/sub-01_label-GM_probseg.nii.gz",
            "derivatives/seg/sub-01/anat/sub-01_label-WM_probseg.nii.gz",
            "derivatives/seg/sub-01/anat/sub-01_space-MNI152NLin6Asym_label-CSF_probseg.nii.gz",
        ],
    )
    (root / "participants.tsv").write_text(
        "participant_id\tage\tmask\nsub-01\t31\tyes\nsub-02\tn/a\tn/a\n"
    )
    first, single, second = found_in(root).rows
    assert [row.folder for row in (first, single, second)] == [
        "sub-01/ses-1/sub-01_ses-1",
        "sub-01/ses-1/sub-01_ses-1_svs",
        "sub-02/sub-02_run-01",
    ]
    tissue = {"gm": "sub-01_label-GM_probseg.nii.gz", "wm": "sub-01_label-WM_probseg.nii.gz"}
    assert _names(first) == {
        "water": "sub-01_ses-1_mrsref.nii.gz",
        "mask": "sub-01_ses-1_desc-brain_mask.nii.gz",
        "tissue": tissue,
    }
    assert (first.pipeline, single.pipeline) == (None, "svs")
    assert first.metadata == {"age": "31", "participant_mask": "yes"}
    assert (second.files, second.session, second.metadata) == ({}, None, {"run": "1"})
    assert not [row for row in (first, single, second) if row.refused]


def test_the_reference_of_concentrations_comes_before_that_of_eddy_currents(tmp_path: Path) -> None:
    row = _only(
        tmp_path / "ds",
        f"{SCAN}_acq-press_mrsi.nii.gz",
        f"{SCAN}_acq-ecc_mrsref.nii.gz",
        f"{SCAN}_acq-conc_mrsref.nii.gz",
        "sub-01/ses-2/mrs/sub-01_ses-2_acq-conc_mrsref.nii.gz",
    )
    assert _names(row) == {"water": "sub-01_ses-1_acq-conc_mrsref.nii.gz"}


def test_each_run_has_its_own_and_one_of_no_run_serves_all(tmp_path: Path) -> None:
    runs = [f"{SCAN}_run-{run}_{suffix}.nii.gz" for run in (1, 2) for suffix in ("mrsi", "mrsref")]
    mask = f"derivatives/masks/{SCAN}_desc-brain_mask.nii.gz"
    for number, row in enumerate(found_in(empty_dataset(tmp_path / "ds", [*runs, mask])).rows, 1):
        assert _names(row) == {"water": f"sub-01_ses-1_run-{number}_mrsref.nii.gz",
                               "mask": "sub-01_ses-1_desc-brain_mask.nii.gz"}  # fmt: skip


def test_reference_signal_of_the_sidecar_wins(tmp_path: Path) -> None:
    files = [f"{SCAN}_{name}.nii.gz" for name in ("mrsi", "acq-conc_mrsref", "acq-x_mrsref")]
    root = empty_dataset(tmp_path / "ds", files)
    sidecar = root / f"{SCAN}_mrsi.json"
    sidecar.write_text(json.dumps({"ReferenceSignal": f"bids::{SCAN}_acq-x_mrsref.nii.gz"}))
    (row,) = found_in(root).rows
    assert _names(row) == {"water": "sub-01_ses-1_acq-x_mrsref.nii.gz"}
    both = [f"bids::{SCAN}_acq-{name}_mrsref.nii.gz" for name in ("x", "conc")]
    sidecar.write_text(json.dumps({"ReferenceSignal": both}))
    (row,) = found_in(root).rows
    assert _names(row) == {"water": "sub-01_ses-1_acq-conc_mrsref.nii.gz"}
    sidecar.write_text(json.dumps({"ReferenceSignal": "bids::sub-01/gone_mrsref.nii.gz"}))
    (row,) = found_in(root).rows
    assert "ReferenceSignal" in row.refused
    assert "gone_mrsref" in row.refused


def test_a_reference_that_no_scan_takes_is_told(tmp_path: Path) -> None:
    files = [f"{SCAN}_mrsi.nii.gz", f"{SCAN}_acq-other_mrsref.nii.gz"]
    found = found_in(empty_dataset(tmp_path / "ds", files))
    assert found.rows[0].files == {}
    assert any("acq-other_mrsref.nii.gz: no scan takes it" in note for note in found.notes)


def test_two_masks_that_suit_alike_refuse_the_scan(tmp_path: Path) -> None:
    masks = [f"derivatives/{tool}/{SCAN}_desc-brain_mask.nii.gz" for tool in ("a", "b")]
    root = empty_dataset(tmp_path / "ds", [f"{SCAN}_mrsi.nii.gz", *masks])
    (row,) = found_in(root).rows
    assert "which mask is meant?" in row.refused
    assert all(mask in row.refused for mask in masks)
    (row,) = found_in(root, Wanted(filters={"mask": where({"dataset": "b"})})).rows
    assert row.files == {"mask": str(root / masks[1])}
    assert read_table(write_table(found_in(root).rows, tmp_path / "c.tsv"))[0].refused


def test_rules_of_a_user(tmp_path: Path) -> None:
    rules = _rules(mask=[{"suffix": "mask", "desc": "mine"}], tissue=[{"suffix": "probseg"}])
    rules = rules.with_changes({"tissue_classes": ["gm", "wm"]}, "test")
    row = _only(
        tmp_path / "ds",
        f"{SCAN}_mrsi.nii.gz",
        f"derivatives/x/{SCAN}_desc-mine_mask.nii.gz",
        f"derivatives/x/{SCAN}_probseg.nii.gz",
        rules=rules,
    )
    assert _names(row) == {
        "mask": "sub-01_ses-1_desc-mine_mask.nii.gz",
        "tissue": "sub-01_ses-1_probseg.nii.gz",
    }
    assert row.tissue_classes == ("gm", "wm")


def test_scans_are_those_of_the_dataset_unless_another_is_named(tmp_path: Path) -> None:
    own, other = f"{SCAN}_mrsi.nii.gz", f"derivatives/clean/{SCAN}_desc-preproc_mrsi.nii.gz"
    root = empty_dataset(tmp_path / "ds", [own, other])
    for conditions, expected in (({}, own), ({"dataset": "clean"}, other)):
        scans = [{"where": {"suffix": "mrsi", **conditions}}]
        (row,) = found_in(root, rules=default_rules().with_changes({"scans": scans}, "test")).rows
        assert row.scan == str(root / expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"companions": {"masque": []}}, "masque"),
        ({"companions": {"mask": "brain"}}, "expected a list of rules"),
        ({"companions": {"mask": ["brain"]}}, "expected a table of entities"),
        ({"scans": [{"pipeline": "svs"}]}, "scans.0.where"),
        ({"scan": []}, "scan"),
    ],
)
def test_rules_that_are_wrong_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=f"own.toml: rules of BIDS: .*{re.escape(said)}"):
        default_rules().with_changes(changes, "own.toml")


def test_participants_sessions_and_filters(tmp_path: Path) -> None:
    root = empty_dataset(
        tmp_path / "ds",
        [
            f"sub-{sub}/ses-{ses}/mrs/sub-{sub}_ses-{ses}_acq-{acq}_run-0{run}_mrsi.nii.gz"
            for sub in ("01", "02")
            for ses in ("a", "b")
            for acq, run in (("x", 1), ("y", 2))
        ],
    )
    assert len(found_in(root).rows) == 8
    chosen = Wanted(("sub-02",), ("ses-b",), {"mrsi": where({"acquisition": "y", "run": 2})})
    (row,) = found_in(root, chosen).rows
    assert row.folder == "sub-02/ses-b/sub-02_ses-b_acq-y_run-02"
    with pytest.raises(InputError, match=r"no participant 03; it has 01, 02"):
        found_in(root, Wanted(("03",)))
    with pytest.raises(InputError, match="no scan of session c"):
        found_in(root, Wanted(sessions=("c", "a")))
    with pytest.raises(InputError, match="no scan is as the rules say"):
        found_in(root, Wanted(filters={"mrsi": where({"acq": None})}))
    assert any("'bold'" in n for n in found_in(root, Wanted(filters={"bold": {}})).notes)


def test_sidecars_are_inherited_and_stated(tmp_path: Path) -> None:
    root = empty_dataset(tmp_path / "ds", [f"{SCAN}_mrsi.nii.gz", f"{SCAN}_mrsref.nii.gz"])
    (root / "mrsi.json").write_text(
        json.dumps({"EchoTime": 0.03, "PulseSequenceType": "sLASER", "Manufacturer": "S"})
    )
    (root / f"{SCAN}_mrsi.json").write_text(json.dumps({"EchoTime": 0.04, "FlipAngle": 60}))
    (root / f"{SCAN}_mrsref.json").write_text(json.dumps({"RepetitionTime": 5}))
    (row,) = found_in(root).rows
    assert row.stated == {
        "scan": {
            "EchoTime": 0.04,
            "SequenceName": "sLASER",
            "Manufacturer": "S",
            "ExcitationFlipAngle": 60,
        },
        "water": {"RepetitionTime": 5},
    }
    (root / f"{SCAN}_mrsi.json").write_text("{")
    assert "not JSON" in found_in(root).rows[0].refused


def test_a_scan_twice_is_refused_and_folders_without_a_label_are_told(tmp_path: Path) -> None:
    root = empty_dataset(
        tmp_path / "ds",
        [f"{SCAN}_mrsi.nii.gz", f"{SCAN}_mrsi.nii", "sub-0_2/mrs/sub-0_2_mrsi.nii"],
    )
    found = found_in(root)
    (row,) = found.rows
    assert "same output folder" in row.refused
    assert any("sub-0_2: left out" in note for note in found.notes)


def test_the_rules_of_the_documentation_are_rules() -> None:
    text = (Path(__file__).parents[2] / "docs" / "bids.md").read_text("utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    rules = default_rules().with_changes(tomllib.loads(block)["bids"], "docs")
    assert [rule.pipeline for rule in rules.scans] == [None, "brain-31p-7t"]
    assert set(rules.companions) == set(default_rules().companions)
