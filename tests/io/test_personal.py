"""What says who was scanned does not enter stores."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from mrsi_engine.io.personal import MARKED, is_personal, personal_fields, without_personal


def test_the_fields_are_those_that_the_standard_marks():
    text = files("nifti_mrs.standard").joinpath("definitions.json").read_text(encoding="utf-8")
    standard = json.loads(text)
    fields = standard["required"] | standard["standard_defined"]
    assert {name for name, field in fields.items() if field["anon"]} == MARKED
    assert [name for name in fields if is_personal(name) != (name in MARKED)] == []


@pytest.mark.parametrize(
    "name",
    ["private_note", "PatientBirthDate", "patients_name", "SubjectID", "GantrySerialNumber",
     "OperatorsName", "AccessionNumber", "StudyInstanceUID", "ReferringPhysicianName"],
)  # fmt: skip
def test_other_names_for_the_same(name):
    assert is_personal(name)


@pytest.mark.parametrize("name", ["EchoTime", "PatientPosition", "PatientWeight", "SequenceName"])
def test_what_stays(name):
    assert not is_personal(name)


def test_nothing_personal_is_left_at_any_depth():
    header = {
        "PatientName": "secret",
        "EchoTime": 0.03,
        "dim_5_header": {"OriginalFile": ["secret"], "EchoTime": [0.03]},
        "ProcessingApplied": [{"Method": "x", "private_by": "secret"}],
    }
    assert "secret" not in json.dumps(without_personal(header))
    assert without_personal(header)["dim_5_header"] == {"EchoTime": [0.03]}
    assert personal_fields(header) == ["PatientName"]


def test_what_personal_fields_say_goes_from_other_texts_too():
    header = {
        "PatientName": "Zaphod^Beeblebrox",
        "DeviceSerialNumber": 998877,
        "EchoTime": 0.03,
        "SequenceName": "svs_se",
        "ManufacturersModelName": "Prisma",
        "ConversionMethod": "spec2nii by zaphod.b on /home/zaphod/scans/x.dat",
        "ProcessingApplied": [{"Method": "Averaging", "Details": "Beeblebrox_1, 3/4, Prisma"}],
        "Comments": {"Value": "serial 998877", "Description": "C:\\Users\\zaphod\\x"},
    }
    left = without_personal(header)
    text = json.dumps(left).lower()
    assert not [w for w in ("zaphod", "beeblebrox", "998877", "/home", "users") if w in text]
    assert left["SequenceName"] == "svs_se"
    assert left["ProcessingApplied"] == [
        {"Method": "Averaging", "Details": "[removed]_1, 3/4, Prisma"}
    ]


@pytest.mark.parametrize(
    "text", ["fmrs/press", "1/2/3", "https://a.org/b/c/d", "w/o water", "a/b/c"]
)
def test_what_only_looks_like_a_path_stays(text):
    assert without_personal({"Comments": text, "PatientName": "anonymous"}) == {"Comments": text}
