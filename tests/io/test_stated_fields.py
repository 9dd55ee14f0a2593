"""Fields said beside a file: what they fill, and what they must not contradict."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.importing import changed_since, import_scan
from mrsi_engine.io.nifti_mrs import read_header
from mrsi_engine.io.stated_fields import missing_fields

FIELDS = {"EchoTime": 0.03, "ResonantNucleus": ["1H"], "SpectrometerFrequency": [123.25]}
SHAPE = (6, 5, 1, 1024)


def _missing(**stated: Any) -> tuple[dict[str, Any], list[str]]:
    return missing_fields(Path("scan.nii"), FIELDS, stated, SHAPE)


def test_what_the_header_lacks_is_filled_and_said() -> None:
    found, notes = _missing(RepetitionTime=1.5, SpectralWidth=2000, EchoTime=0.03)
    assert found == {"RepetitionTime": 1.5, "SpectralWidth": 2000}
    assert notes == ["RepetitionTime 1.5 is that of the sidecar, the header states none"]


@pytest.mark.parametrize(
    "same",
    [
        {"EchoTime": 0.03001},
        {"EchoTime": [0.03]},
        {"ResonantNucleus": "1h"},
        {"SpectrometerFrequency": 123.2501},
        {"MatrixSize": [6, 5, 1]},
        {"NumberOfSpectralPoints": 1024},
    ],
)
def test_the_same_in_other_words_is_no_contradiction(same: dict[str, Any]) -> None:
    assert _missing(**same) == ({}, [])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"EchoTime": 0.0304}, "EchoTime is 0.03 in the file and 0.0304"),
        ({"EchoTime": "0.03"}, 'and "0.03" in its'),
        ({"ResonantNucleus": ["31P"]}, 'ResonantNucleus is ["1H"]'),
        ({"MatrixSize": [5, 6, 1]}, "MatrixSize is [6, 5, 1] in the file and [5, 6, 1]"),
        ({"MatrixSize": [6, 5]}, "MatrixSize"),
        ({"NumberOfSpectralPoints": 512}, "NumberOfSpectralPoints is 1024"),
    ],
)
def test_contradictions_are_refused(other: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"scan.nii: .*{re.escape(said)}"):
        _missing(**other)


def test_names_of_sequences_are_not_compared() -> None:
    fields = {"SequenceName": "svs_slaser_dkd"}
    assert missing_fields(Path("a"), fields, {"SequenceName": "sLASER"}, SHAPE) == ({}, [])


def test_an_acquisition_delay_that_bids_asks_for_is_no_echo_time() -> None:
    found, notes = missing_fields(Path("a"), {"EchoTime": 0}, {"EchoTime": 0.0013}, SHAPE)
    assert found == {}
    assert notes == ["EchoTime 0.0013 of the sidecar is not used: the header states 0 s"]


def test_stated_fields_reach_the_store_and_make_another_import(
    phantom: Path, tmp_path: Path
) -> None:
    scan, stated = phantom / "scan.nii.gz", {"scan": {"SequenceName": "PRESS"}}
    store = import_scan(scan, tmp_path / "scan.zarr", stated=stated)
    assert store.header["SequenceName"] == "PRESS"
    assert any("SequenceName" in note for note in store.notes)
    inputs = store.to_xarray().attrs["inputs"]
    assert changed_since(inputs, scan, stated=stated) == []
    assert changed_since(inputs, scan) == ["stated"]
    with pytest.raises(InputError, match="SpectralWidth 4000 Hz contradicts the dwell time"):
        read_header(scan, {"SpectralWidth": 4000})
