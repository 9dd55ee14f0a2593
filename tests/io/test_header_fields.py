"""Fields of the header that change what numbers mean: applied, checked or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrsi_engine.errors import InputError
from mrsi_engine.io.header_fields import (
    first_sample,
    group_delay,
    refuse_k_space,
    sequence_notes,
    single_number,
    spectrometer_frequency,
    timing,
)

PATH, DWELL = Path("scan.nii.gz"), 4e-4


def start(value, points: int = 1024, notes=None):
    extension = {} if value is None else {"AcquisitionStartTime": value}
    return first_sample(PATH, extension, DWELL, points, [] if notes is None else notes)


class TestFirstSample:
    @pytest.mark.parametrize(
        ("value", "skipped", "samples"),
        [
            (None, 0, 0),
            (0, 0, 0),
            (2 * DWELL, 0, 2),
            (4.37 * DWELL, 0, 4.37),
            (-8 * DWELL, 8, 0),
            (-8.0003 * DWELL, 8, 0),
            (-7.25 * DWELL, 8, 0.75),
            (-67.98 * DWELL, 68, 0.02),
            (-0.4 * DWELL, 1, 0.6),
        ],
    )
    def test_samples_before_the_echo_go_and_the_rest_is_kept(self, value, skipped, samples):
        found = start(value)
        assert found[0] == skipped
        assert found[1] == pytest.approx(samples * DWELL, abs=1e-12)

    @given(st.floats(-300 * DWELL, 200 * DWELL))
    def test_nothing_but_whole_samples_is_lost(self, value):
        skipped, seconds = start(value)
        assert seconds >= 0
        assert seconds < DWELL or skipped == 0
        assert seconds - skipped * DWELL == pytest.approx(value, abs=2e-3 * DWELL)

    def test_what_was_done_is_noted(self):
        notes: list[str] = []
        start(-8 * DWELL, notes=notes)
        start(2 * DWELL, notes=notes)
        assert "8 points from before the echo left out" in notes[0]
        assert "amplitudes are those at time zero" in notes[1]

    @pytest.mark.parametrize("value", [0.8, 3.2, -3.2, -25.6, 30])
    def test_milliseconds_are_refused(self, value):
        with pytest.raises(InputError, match=f"AcquisitionStartTime is {value:g}.*milliseconds"):
            start(value)

    def test_an_echo_at_the_end_of_the_window(self):
        with pytest.raises(InputError, match="echo at sample 60 of 64"):
            start(-60 * DWELL, points=64)


class TestTiming:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"EchoTime": 30}, "EchoTime is 30.*milliseconds, write 0.03"),
            ({"EchoTime": 0.6}, "EchoTime is 0.6, expected seconds"),
            ({"EchoTime": -0.03}, "EchoTime is -0.03"),
            ({"RepetitionTime": 1500}, "RepetitionTime is 1500.*milliseconds, write 1.5"),
            ({"EchoTime": 0.144, "RepetitionTime": 0.03}, "is not longer than EchoTime"),
            ({"EchoTime": "30 ms"}, "expected a number"),
        ],
    )
    def test_refused(self, fields, message):
        with pytest.raises(InputError, match=message):
            timing(PATH, fields, [])

    @pytest.mark.parametrize(
        ("fields", "found", "said"),
        [
            ({"EchoTime": 0.03, "RepetitionTime": 1.5}, (0.03, 1.5), 0),
            ({"EchoTime": 0.0013, "RepetitionTime": 0.2}, (0.0013, 0.2), 0),
            ({"EchoTime": 0}, (0.0, None), 2),
            ({"RepetitionTime": 0}, (None, None), 2),
            ({}, (None, None), 2),
        ],
    )
    def test_zero_or_absent_is_stated(self, fields, found, said):
        notes: list[str] = []
        assert timing(PATH, fields, notes) == found
        assert len(notes) == said


class TestFrequency:
    @pytest.mark.parametrize("value", [123.25, [123.25], 49.9, 19.6, 11.7, 950.0])
    def test_mhz(self, value):
        read = spectrometer_frequency(PATH, {"SpectrometerFrequency": value})
        assert read in (value, 123.25)

    @pytest.mark.parametrize(
        ("value", "unit", "written"),
        [(0.1277, "GHz", "127.7"), (127732435.5, "Hz", "127.7324"), (127732.4, "kHz", "127.7324")],
    )
    def test_other_units_are_named(self, value, unit, written):
        with pytest.raises(InputError, match=rf"looks like {unit}; .*\[{written}\]"):
            spectrometer_frequency(PATH, {"SpectrometerFrequency": [value]})


@pytest.mark.parametrize("value", [[True, True, False], [False, False, True], True])
def test_k_space_is_refused(value):
    with pytest.raises(InputError, match="kSpace"):
        refuse_k_space(PATH, {"kSpace": value})
    refuse_k_space(PATH, {"kSpace": [False] * 3})
    refuse_k_space(PATH, {})


def test_what_a_basis_must_suit_is_noted():
    extension = {
        "EditPulse": {"ON": {}},
        "InversionTime": 1.1,
        "ExcitationFlipAngle": 40,
        "ResonantNucleus": ["1H", "31P"],
    }
    notes = sequence_notes(extension)
    assert [any(key in note for note in notes) for key in extension] == [True] * 4
    assert sequence_notes({"ExcitationFlipAngle": 90.0, "ResonantNucleus": ["1H"]}) == []


@pytest.mark.parametrize(
    ("extension", "found"),
    [
        ({"GRPDLY": 67.98}, 67.98),
        ({"ACQ_GroupDelay": {"Value": [76.03], "Description": "points"}}, 76.03),
        ({"PVM_DigShift": 68}, 68),
        ({"GroupDelay": -1}, None),
        ({"EchoTime": 0.03}, None),
    ],
)
def test_the_group_delay_where_a_converter_keeps_it(extension, found):
    assert group_delay(extension) == found


@pytest.mark.parametrize("key", ["AcquisitionStartTime", "EchoTime", "RepetitionTime"])
def test_one_number_is_wanted_for_all_fids(key):
    with pytest.raises(InputError, match=rf"{key} is \[0\.0, 1\.0\], expected one number"):
        single_number(PATH, {key: [0.0, 1.0]}, key)
