"""Dimensions that may be averaged over, and those that may not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrsi_engine.errors import InputError
from mrsi_engine.io.dimensions import fields_of_dimensions, supported_dimensions

PATH, SHAPE = Path("scan.nii.gz"), (1, 1, 1, 64, 4)


def fields(header, length: int = 4, **more):
    extension = {"dim_5": "DIM_DYN", "dim_5_header": header, **more}
    return fields_of_dimensions(PATH, extension, (*SHAPE[:4], length))


@pytest.mark.parametrize(
    ("field", "entry", "shown"),
    [
        ("EditCondition", ["ON", "OFF", "ON", "OFF"], '"ON", "OFF"'),
        ("EchoTime", [0.03, 0.03, 0.03, 0.144], "0.03, 0.144"),
        ("InversionTime", {"start": 0.1, "increment": 0.2}, "0.1, "),
        ("phase", {"Value": [0, 90, 180, 270], "Description": "of the receiver"}, "0, 90, 180, "),
        ("bValue", {"Value": {"start": 0, "increment": 500}, "Description": ""}, "0, 500"),
        ("RepetitionTime", [1, 2, 3, 4], "1, 2, 3, 4"),
    ],
)
def test_a_field_that_varies_is_refused_by_name(field, entry, shown) -> None:
    with pytest.raises(InputError, match=rf"{field} varies within dimension 5 \(DIM_DYN\)") as e:
        fields({field: entry})
    assert shown in str(e.value)
    assert "never averaged" in str(e.value)


def test_fields_of_groups_are_looked_at_too() -> None:
    with pytest.raises(InputError, match=r"EditPulse\.offset varies"):
        fields({"EditPulse": {"offset": [1.9, 7.5, 1.9, 7.5], "Description": "ppm"}})


@pytest.mark.parametrize("field", ["RxCoil", "ConversionTime", "AcquisitionTime", "Time stamp"])
def test_when_and_with_what_is_harmless(field) -> None:
    assert fields({field: ["a", "b", "c", "d"]}) == {}


@pytest.mark.parametrize(
    "entry", [[0.03] * 4, [0.03], 0.03, {"start": 0.03, "increment": 0.0}, {"Value": [0.03] * 4}]
)
def test_a_field_that_is_the_same_for_all_counts_for_the_file(entry) -> None:
    assert fields({"EchoTime": entry}) == {"EchoTime": 0.03}


def test_another_number_of_values_than_elements() -> None:
    with pytest.raises(InputError, match="EchoTime has 3 values for a dimension of 4"):
        fields({"EchoTime": [0.03, 0.03, 0.03]})


@pytest.mark.parametrize("named", ["dim_5_info", "dim_5_use"])
@pytest.mark.parametrize(
    "text", ["edit ON/OFF interleaved", "Inversion times", "b-values", "metabolite cycling"]
)
def test_a_description_that_says_that_elements_differ(named, text) -> None:
    with pytest.raises(InputError, match=f"{named} is .*differ"):
        fields({}, **{named: text})


@pytest.mark.parametrize("text", ["averages", "Transients of one condition", "repetitions", ""])
def test_a_harmless_description(text) -> None:
    assert fields({}, dim_5_info=text) == {}


@pytest.mark.parametrize(
    ("tag", "remedy"),
    [
        ("DIM_EDIT", "edited"),
        ("DIM_MEAS", "DIM_DYN"),
        ("DIM_INDIRECT_0", "indirect"),
        ("DIM_INDIRECT_2", "indirect"),
        ("DIM_PHASE_CYCLE", "phase cycle"),
        ("DIM_ISIS", "ISIS"),
        ("DIM_METCYCLE", "difference"),
        ("DIM_USER_1", "DIM_DYN"),
        ("5", "DIM_COIL and DIM_DYN"),
    ],
)
def test_other_tags_are_refused_by_name_with_a_remedy(tag, remedy) -> None:
    with pytest.raises(InputError, match=f"{tag} of 2") as caught:
        supported_dimensions(PATH, [("DIM_COIL", 8), (tag, 2)])
    assert remedy in str(caught.value)


def test_order_of_the_store() -> None:
    found = supported_dimensions(PATH, [("DIM_DYN", 3), ("DIM_COIL", 8)])
    assert list(found.items()) == [("coil", 8), ("dynamic", 3)]


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(json, st.integers(1, 4))
def test_no_header_of_a_dimension_is_a_surprise(header, length) -> None:
    with suppress(InputError):
        fields(header, length)
