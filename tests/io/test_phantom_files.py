"""The phantom's files, read back by nibabel."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine.conventions import Acquisition
from mrsi_engine.io.phantom_files import phantom_affine, write_phantom
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.phantom import PhantomSettings, make_phantom


@pytest.fixture(scope="module")
def phantom():
    axis = Acquisition(points=64, dwell_time=1e-3, spectrometer_frequency=123.2, echo_time=0.03)
    hertz = axis.frequency_of(np.array([2.01, 2.04]))[:, None]
    basis = Basis(("NAA", "NAAG"), np.exp((2j * np.pi * hertz - 5) * axis.time), axis)
    return make_phantom(PhantomSettings(shape=(8, 7, 2)), basis)


@pytest.fixture(scope="module")
def files(phantom, tmp_path_factory):
    return write_phantom(phantom, tmp_path_factory.mktemp("phantom") / "new")


def test_every_file_is_there(files):
    maps = {"NAA", "NAAG", "NAANAAG", "shift", "lorentzian", "phase"}
    expected = {
        "scan",
        "water",
        "mask",
        "scalp",
        "gm",
        "wm",
        "csf",
        "lesion",
        *(f"truth/{m}" for m in maps),
    }
    assert set(files) == expected
    folder = files["scan"].parent
    for name, path in files.items():
        assert path == folder / f"{name}.nii.gz"
        assert path.is_file()


def test_scan_and_water_come_back(files, phantom):
    for name, fids in (("scan", phantom.fids), ("water", phantom.water)):
        image = nib.load(files[name])
        np.testing.assert_array_equal(np.asarray(image.dataobj), fids)
        assert image.header["pixdim"][4] == pytest.approx(1e-3)
        extension = json.loads(image.header.extensions[0].get_content())
        assert extension["SpectrometerFrequency"] == [123.2]
        assert extension["EchoTime"] == 0.03


def test_maps_come_back_on_the_scans_grid(files, phantom):
    np.testing.assert_array_equal(np.asarray(nib.load(files["mask"]).dataobj), phantom.mask)
    pairs = [(n, phantom.tissue[n]) for n in ("gm", "wm", "csf")]
    pairs += [(f"truth/{n}", values) for n, values in phantom.truth.items()]
    for name, values in pairs:
        image = nib.load(files[name])
        np.testing.assert_allclose(np.asarray(image.dataobj), values, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(image.affine, phantom_affine((8, 7, 2)), atol=1e-4)


def test_affine_is_oblique_right_handed_and_centred():
    affine = phantom_affine((24, 24, 8))
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (10, 10, 12))
    assert np.linalg.det(affine[:3, :3]) > 0
    np.testing.assert_allclose(affine @ [11.5, 11.5, 3.5, 1], [0, 0, 0, 1], atol=1e-9)
    assert (np.abs(affine[:3, :3]) > 0.1).sum() > 3
