"""Imports of scans whose FIDs were processed before: what is stored, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.importing import import_scan
from mrsi_engine.io.scan_store import ScanStore, scan_noise

SHAPE, POINTS, DWELL = (4, 3, 1), 512, 0.5e-3
TIME = np.arange(POINTS) * DWELL
PROTON = {"SpectrometerFrequency": [123.25], "ResonantNucleus": ["1H"], "EchoTime": 0.03}

Importer = Callable[..., ScanStore]


@pytest.fixture
def brought_in(
    tmp_path: Path,
    scan_file: Callable[..., Path],
    plain_file: Callable[..., Path],
) -> Importer:
    """Imports FIDs ``(x, y, z, time)``, with what the header says was done to them."""

    def imported(data: np.ndarray, *said: dict[str, str], water: Any = None) -> ScanStore:
        extension = {**PROTON, "ProcessingApplied": list(said)} if said else PROTON
        files = {"scan": scan_file(tmp_path / "scan.nii.gz", data, extension=extension)}
        if water is not None:
            files["water"] = scan_file(tmp_path / "water.nii.gz", water)
        files["mask"] = plain_file(tmp_path / "mask.nii.gz", np.ones(SHAPE, bool))
        return import_scan(out=tmp_path / "scan.zarr", **files)

    return imported


@pytest.fixture
def white(noise: Callable[..., np.ndarray]) -> np.ndarray:
    return noise((*SHAPE, POINTS))


def filled(fids: np.ndarray, points: int) -> np.ndarray:
    return np.pad(fids, [(0, 0)] * 3 + [(0, points - fids.shape[3])])


def stored(store: ScanStore) -> np.ndarray:
    return store.read_fids(0, store.voxels)


def in_order(fids: np.ndarray) -> np.ndarray:
    return fids.reshape(-1, fids.shape[3], order="F")


def about_noise(store: ScanStore) -> str:
    words = ("zero-filled", "apodised", "noise")
    return "; ".join(n for n in store.notes if any(word in n for word in words))


def test_white_noise_is_stored_as_it_is(brought_in: Importer, white: np.ndarray) -> None:
    store = brought_in(white)
    np.testing.assert_array_equal(stored(store), in_order(white))
    assert about_noise(store) == ""
    assert (store.noise.unknown, store.noise.flat_hz) == ("", None)


@pytest.mark.parametrize("points", [POINTS + 1, 768, 1024, 2048])
def test_only_what_was_acquired_is_stored(
    brought_in: Importer, white: np.ndarray, points: int
) -> None:
    store = brought_in(filled(white, points))
    assert store.acquisition.points == POINTS
    np.testing.assert_array_equal(stored(store), in_order(white))
    assert f"zero-filled from {POINTS} to {points} points" in about_noise(store)
    assert "ProcessingApplied does not say so" in about_noise(store)


def test_what_the_header_says_is_no_contradiction(brought_in: Importer, white: np.ndarray) -> None:
    store = brought_in(filled(white, 1024), {"Method": "Zero-filling", "Details": "x2"})
    assert "does not say so" not in about_noise(store)


def test_a_decay_is_undone(brought_in: Importer, white: np.ndarray) -> None:
    """The rate of 12 voxels is known to 0.02 Hz or so, the envelope's end to 3 %."""
    store = brought_in(white * np.exp(-np.pi * 5 * TIME), {"Method": "Apodization"})
    np.testing.assert_allclose(stored(store), in_order(white), rtol=0.25)
    assert "by an exponential of 5." in about_noise(store) or "4.9" in about_noise(store)
    assert "does not say so" not in about_noise(store)


def test_voxels_without_signal_say_nothing(brought_in: Importer, white: np.ndarray) -> None:
    white[0, 0], white[1, 1] = np.nan, 0
    store = brought_in(filled(white, 1024))
    assert store.acquisition.points == POINTS
    assert np.isnan(stored(store)[0]).all()


@pytest.mark.parametrize("points", [POINTS, 700, 1024])
def test_water_follows(
    brought_in: Importer, white: np.ndarray, noise: Callable[..., np.ndarray], points: int
) -> None:
    """It may be filled to the same length, to another, or not at all."""
    water = noise((*SHAPE, POINTS), seed=1)
    store = brought_in(filled(white, 1024), water=filled(water, points))
    np.testing.assert_array_equal(store.read("water", 0, store.voxels), in_order(water))


def test_water_shorter_than_what_was_acquired_is_refused(
    brought_in: Importer, white: np.ndarray
) -> None:
    with pytest.raises(InputError, match="fewer than the 512 of the scan; cut both with"):
        brought_in(filled(white, 1024), water=white[..., :300])


class TestHeader:
    def test_a_claim_that_the_data_do_not_bear_out(
        self, brought_in: Importer, white: np.ndarray
    ) -> None:
        store = brought_in(white, {"Method": "Apodization", "Details": "5 Hz"})
        assert "says apodised, but the FIDs do not look it" in about_noise(store)

    def test_denoised(self, brought_in: Importer, white: np.ndarray) -> None:
        """Of few voxels the data alone do not tell."""
        store = brought_in(white, {"Method": "Denoising", "Details": "low rank"})
        assert store.noise.unknown == "the header says denoised"
        assert "cannot be measured" in about_noise(store)
        assert ScanStore.open(store.path).noise == store.noise
        assert scan_noise(store.to_xarray().attrs) == store.noise

    def test_in_space(self, brought_in: Importer, white: np.ndarray) -> None:
        """Each voxel's noise stays white in time."""
        store = brought_in(white, {"Method": "Apodization", "Details": "Hamming, k-space"})
        assert about_noise(store) == ""

    @pytest.mark.parametrize("said", ["zero-filled", {"Method": 3}, None])
    def test_what_is_no_list_of_steps(
        self, brought_in: Importer, white: np.ndarray, said: Any
    ) -> None:
        assert about_noise(brought_in(white, said)) == ""


@pytest.mark.parametrize("dimension", ["DIM_COIL", "DIM_DYN"])
def test_raw_data(
    tmp_path: Path,
    scan_file: Callable[..., Path],
    noise: Callable[..., np.ndarray],
    dimension: str,
) -> None:
    """Coils share their noise, which is no denoising."""
    fids = noise((1, 1, 1, POINTS, 40))
    fids += 0.7 * noise((1, 1, 1, POINTS, 1), seed=1) if dimension == "DIM_COIL" else 0
    padded = np.pad(fids, [(0, 0)] * 3 + [(0, POINTS), (0, 0)])
    file = scan_file(
        tmp_path / "raw.nii.gz",
        padded.astype(np.complex64),
        extension={**PROTON, "dim_5": dimension},
    )
    store = import_scan(file, tmp_path / "raw.zarr")
    assert store.acquisition.points == POINTS
    assert store.noise.unknown == ""
