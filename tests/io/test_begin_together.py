"""Imports of FIDs that do not begin at time zero, alone and with a water reference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.importing import import_scan
from tests.io.conftest import write_plain, write_scan

SHAPE, POINTS, DWELL = (3, 2, 2), 256, 5e-4
REQUIRED = {"SpectrometerFrequency": [123.25], "ResonantNucleus": ["1H"]}
TIMES = {"EchoTime": 0.03, "RepetitionTime": 1.5}


def signal(time: np.ndarray, hz: float = -180.0) -> np.ndarray:
    """Two lines, each voxel stronger than the last, ``(x, y, z, time)``."""
    line = np.exp((2j * np.pi * hz - 12) * time) + 0.8 * np.exp((2j * np.pi * 1.7 * hz - 20) * time)
    return (np.arange(1, 13).reshape(SHAPE)[..., None] * line).astype(np.complex64)


def water_of(time: np.ndarray) -> np.ndarray:
    line = 100 * np.exp((2j * np.pi * 6 - 15) * time)
    return np.broadcast_to(line, (*SHAPE, len(time))).astype(np.complex64)


def at(samples: float, points: int = POINTS) -> np.ndarray:
    return (samples + np.arange(points)) * DWELL


@pytest.fixture
def imported(tmp_path):
    """The store of FIDs whose header says more."""

    def of(data, water=None, water_says=None, points=None, **says):
        header = {**REQUIRED, **TIMES}
        scan = write_scan(tmp_path / "s.nii", data, extension={**header, **says})
        mask = write_plain(tmp_path / "m.nii", np.ones(SHAPE, bool))
        reference = None
        if water is not None:
            more = {**header, **(water_says or {})}
            reference = write_scan(tmp_path / "w.nii", water, extension=more)
        out = tmp_path / "out.zarr"
        return import_scan(scan, out, mask=mask, water=reference, points=points, overwrite=True)

    return of


def rows(volume: np.ndarray) -> np.ndarray:
    return volume.reshape(12, -1, order="F")


def test_a_late_first_sample_stays_and_is_known(imported):
    store = imported(signal(at(3.25)), AcquisitionStartTime=3.25 * DWELL)
    assert store.acquisition.start_time == pytest.approx(3.25 * DWELL)
    np.testing.assert_array_equal(store.read_fids(0, 12), rows(signal(at(3.25))))
    assert store.to_xarray()["time"].values[0] == pytest.approx(3.25 * DWELL)


@pytest.mark.parametrize("before", [8, 7.25])
def test_samples_from_before_the_echo_are_left_out(imported, before):
    time = at(-before)
    data = signal(np.abs(time))
    store = imported(data, AcquisitionStartTime=-before * DWELL)
    assert store.acquisition.points == POINTS - 8
    assert store.acquisition.start_time == pytest.approx((8 - before) * DWELL)
    np.testing.assert_array_equal(store.read_fids(0, 12), rows(data[..., 8:]))
    assert any("8 points from before the echo" in note for note in store.notes)


def test_points_count_from_time_zero_on(imported):
    data = signal(np.abs(at(-8)))
    store = imported(data, AcquisitionStartTime=-8 * DWELL, points=100)
    np.testing.assert_array_equal(store.read_fids(0, 12), rows(data[..., 8:108]))


def silent(count: int, data: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((*SHAPE, count)), data[..., :-count]], 3).astype(np.complex64)


@pytest.mark.parametrize("says", [{}, {"AcquisitionStartTime": 0.0}, {"GRPDLY": 68}])
def test_a_group_delay_is_found_and_left_out(imported, says):
    store = imported(silent(68, signal(at(0))), **says)
    assert (store.acquisition.points, store.acquisition.start_time) == (POINTS - 68, 0.0)
    np.testing.assert_array_equal(store.read_fids(0, 12), rows(signal(at(0))[..., : POINTS - 68]))
    assert any("68 points left out" in note for note in store.notes)


def test_a_group_delay_that_the_header_counts_is_counted_once(imported):
    store = imported(silent(68, signal(at(0))), AcquisitionStartTime=-68 * DWELL)
    assert (store.acquisition.points, store.acquisition.start_time) == (POINTS - 68, 0.0)


def risen(data: np.ndarray) -> np.ndarray:
    """Behind a filter of 68 points that lets half through at its delay."""
    late = silent(68, data)
    late[..., 68] *= 0.5
    late[..., 67] = 0.12 * late[..., 69]
    return late


def test_a_filter_whose_delay_is_not_stated_is_refused_with_the_remedy(imported):
    with pytest.raises(InputError, match=r'GRPDLY.*"AcquisitionStartTime": -GRPDLY \* 0\.0005'):
        imported(risen(signal(at(0))))


@pytest.mark.parametrize("says", [{"GRPDLY": 67.98}, {"AcquisitionStartTime": -67.98 * DWELL}])
def test_a_filter_whose_delay_is_stated_is_left_to_settle(imported, says):
    store = imported(risen(signal(at(0))), **says)
    assert store.acquisition.points == POINTS - 72
    assert store.acquisition.start_time == pytest.approx(4.02 * DWELL)


def test_an_echo_that_the_header_does_not_say_is_refused_with_the_remedy(imported):
    time = at(-30)
    with pytest.raises(InputError, match=r'"AcquisitionStartTime": -0\.015'):
        imported(_echo(time))


def _echo(time: np.ndarray) -> np.ndarray:
    """Turned by the same phase before and after, damped both ways."""
    lines = sum(np.exp(2j * np.pi * hz * time - 40 * np.abs(time)) for hz in (-180, -306, -90))
    return (np.arange(1, 13).reshape(SHAPE)[..., None] * lines).astype(np.complex64)


@pytest.mark.parametrize(("scan", "water"), [(0, 0), (4, 4), (4, 0), (3.5, 0), (2.25, 1), (0, -6)])
def test_the_water_begins_with_the_scan(imported, scan, water):
    store = imported(
        signal(at(scan)),
        water_of(np.abs(at(water))),
        {"AcquisitionStartTime": water * DWELL},
        points=POINTS - 8,
        AcquisitionStartTime=scan * DWELL,
    )
    axis = store.acquisition
    assert axis.start_time == pytest.approx(scan * DWELL)
    np.testing.assert_array_equal(store.read_fids(0, 12), rows(signal(at(scan)))[:, : axis.points])
    expected = rows(water_of(axis.time))
    # The last samples of an interpolation have neighbours on one side only.
    np.testing.assert_allclose(store.read("water", 0, 12)[:, :-4], expected[:, :-4], rtol=1e-5)


def test_water_that_begins_later_than_the_scan_is_refused_with_both_times(imported):
    with pytest.raises(InputError, match=r"begins 2 ms after time zero, the scan 0 ms"):
        imported(signal(at(0)), water_of(at(4)), {"AcquisitionStartTime": 4 * DWELL})


def test_dimensions_that_vary_are_refused(imported):
    data = np.stack([signal(at(0))] * 2, axis=4)
    with pytest.raises(InputError, match="EditCondition varies within dimension 5"):
        imported(data, dim_5="DIM_DYN", dim_5_header={"EditCondition": ["ON", "OFF"]})


def test_times_that_only_a_dimension_states_count(imported):
    data = np.stack([signal(at(0))] * 2, axis=4)
    more = {"dim_5": "DIM_DYN", "dim_5_header": {"MixingTime": [0.01, 0.01]}}
    assert imported(data, **more).acquisition.echo_time == 0.03
    with pytest.raises(InputError, match=r"EchoTime is 0\.03 for the file and 0\.144"):
        imported(data, dim_5="DIM_DYN", dim_5_header={"EchoTime": [0.144, 0.144]})


def test_nothing_personal_enters_a_store(imported, tmp_path):
    says = {"PatientName": "Doe^Jane", "DeviceSerialNumber": "4711-0815", "PatientSex": "F"}
    store = imported(signal(at(0)), **says)
    text = "".join(p.read_text("latin-1") for p in store.path.rglob("zarr.json"))
    assert [word for word in ("Doe^Jane", "4711-0815", str(tmp_path)) if word in text] == []
    assert store.header["PatientSex"] == "F"
    assert any("PatientName" in note for note in store.notes)
    kept = import_scan(tmp_path / "s.nii", tmp_path / "kept.zarr", keep_personal=True)
    assert json.dumps(kept.header).count("Doe^Jane") == 1


class TestWithoutAMask:
    def test_a_handful_is_kept_whole(self, tmp_path):
        data = np.zeros((2, 2, 2, POINTS), np.complex64)
        data[0, 0, 0], data[1, 1, 1] = signal(at(0))[0, 0, 0], signal(at(0))[1, 1, 1]
        store = import_scan(write_scan(tmp_path / "s.nii", data), tmp_path / "o.zarr")
        assert (store.voxels, store.mask_origin) == (8, "every voxel")

    def test_a_mask_that_keeps_few_says_so(self, tmp_path):
        rng = np.random.default_rng(0)
        data = rng.normal(size=(7, 4, 1, POINTS)) + 1j * rng.normal(size=(7, 4, 1, POINTS))
        data[3, :3, 0] += 300 * signal(at(0))[0, 0, 0]
        scan = write_scan(tmp_path / "s.nii", data.astype(np.complex64))
        store = import_scan(scan, tmp_path / "o.zarr")
        assert any("keeps 3 of 28 voxels" in note for note in store.notes)

    def test_nothing_but_zeros(self, tmp_path):
        scan = write_scan(tmp_path / "s.nii", np.zeros((4, 4, 1, POINTS), np.complex64))
        with pytest.raises(InputError, match="filled with reconstructed data later"):
            import_scan(scan, tmp_path / "o.zarr")
        mask = write_plain(tmp_path / "m.nii", np.ones((4, 4, 1), bool))
        assert import_scan(scan, tmp_path / "o.zarr", mask=mask).voxels == 16
