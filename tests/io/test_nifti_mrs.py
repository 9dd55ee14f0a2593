"""Headers of NIfTI-MRS files, and the files written here as others read them."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_mrs.nifti_mrs import NIFTI_MRS
from nifti_mrs.validator import validate_nifti_mrs

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.nifti_mrs import read_header, stem_of, write_nifti_mrs, write_volume

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
RAW = SHARED / "svs_7t_transients" / "metab_raw.nii.gz"
AFFINE = np.array([[-9.8, 0.1, 0, 70], [0.1, 9.7, 1.6, -60], [0, -1.1, 14.9, 52], [0, 0, 0, 1]])
REQUIRED = {"SpectrometerFrequency": [123.25], "ResonantNucleus": ["1H"]}


@pytest.fixture
def header_of(tmp_path, scan_file, noise):
    """The header of a small file that differs from a good one in what the caller names."""

    def read(**changes):
        return read_header(scan_file(tmp_path / "scan.nii.gz", noise((3, 2, 2, 16)), **changes))

    return read


def refusal(call, *words):
    """The message of the InputError, which holds every word."""
    with pytest.raises(InputError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


class TestReadHeader:
    def test_fields_of_a_complete_header(self, header_of):
        header = header_of(
            extension={**REQUIRED, "EchoTime": 0.03, "RepetitionTime": 1.5, "Note": {"a": 1}}
        )
        assert header.acquisition == Acquisition(16, 5e-4, 123.25, 4.65, "1H", 0.03, 1.5)
        assert header.grid.shape == (3, 2, 2)
        np.testing.assert_allclose(header.grid.affine, AFFINE, rtol=1e-6)
        assert header.extension["Note"] == {"a": 1}
        assert header.higher_dimensions == ()

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize(("unit", "pixdim"), [("sec", 5e-4), ("msec", 0.5), ("usec", 500.0)])
    def test_dwell_time_is_in_the_unit_of_the_file(self, header_of, version, unit, pixdim):
        header = header_of(version=version, pixdim=pixdim, units=("mm", unit))
        assert header.acquisition.dwell_time == pytest.approx(5e-4, rel=1e-12)

    def test_open_time_unit_is_seconds_and_noted(self, header_of):
        header = header_of(units=("mm", "unknown"))
        assert header.acquisition.dwell_time == 5e-4
        assert any("xyzt_units" in note for note in header.notes)

    def test_open_time_unit_that_makes_no_sense_in_seconds(self, header_of):
        refusal(lambda: header_of(units=("mm", "unknown"), pixdim=0.5), "scan.nii.gz", "pixdim[4]")

    def test_time_axis_in_hertz(self, header_of):
        refusal(lambda: header_of(units=("mm", "hz")), "hz")

    @pytest.mark.parametrize("pixdim", [0.0, np.nan, np.inf])
    def test_impossible_dwell_time(self, header_of, pixdim):
        refusal(lambda: header_of(pixdim=pixdim), "dwell time")

    def test_spectral_width_that_contradicts_the_dwell_time(self, header_of):
        refusal(lambda: header_of(extension={**REQUIRED, "SpectralWidth": 4000.0}), "SpectralWidth")
        assert header_of(extension={**REQUIRED, "SpectralWidth": 2000.0})

    def test_reference_ppm_is_the_stated_shift_plus_the_receiver_offset(self, header_of):
        times = {"EchoTime": 0.03, "RepetitionTime": 1.5}
        stated = {**REQUIRED, **times, "SpecFreqChemShift": 4.7, "RxOffset": -1.7}
        assert header_of(extension=stated).acquisition.reference_ppm == pytest.approx(3.0)
        assert header_of(extension=stated).notes == ()

    def test_what_stands_at_0_hz_is_the_nucleus_own_and_noted(self, header_of):
        assert any("4.65" in note for note in header_of().notes)
        other = {"SpectrometerFrequency": [49.9], "ResonantNucleus": ["31P"]}
        header = header_of(extension=other)
        assert header.acquisition.reference_ppm == 0.0
        assert any("phosphocreatine" in note for note in header.notes)

    def test_a_nucleus_in_lower_case(self, header_of):
        other = {"SpectrometerFrequency": [49.9], "ResonantNucleus": ["31p"]}
        assert header_of(extension=other).acquisition.nucleus == "31P"

    @pytest.mark.parametrize("symbol", ["13C", "19F"])
    def test_nuclei_without_a_usual_reference_have_to_state_it(self, header_of, symbol):
        other = {"SpectrometerFrequency": [31.0], "ResonantNucleus": [symbol]}
        refusal(lambda: header_of(extension=other), "SpecFreqChemShift", symbol)
        stated = header_of(extension={**other, "SpecFreqChemShift": 100.0})
        assert stated.acquisition.reference_ppm == 100.0

    def test_a_nucleus_without_a_table_is_refused(self, header_of):
        sodium = {"SpectrometerFrequency": [33.8], "ResonantNucleus": ["23Na"]}
        refusal(lambda: header_of(extension=sodium), "scan.nii.gz", "23Na", "1H, 13C, 19F, 2H, 31P")

    @pytest.mark.parametrize("field", ["SpectrometerFrequency", "ResonantNucleus"])
    def test_missing_required_field(self, header_of, field):
        fields = {key: value for key, value in REQUIRED.items() if key != field}
        refusal(lambda: header_of(extension=fields), "scan.nii.gz", f"lacks {field}")

    @pytest.mark.parametrize("value", [[123.25e6], [-1.0], ["123"], [None], [], [float("nan")]])
    def test_impossible_frequency(self, header_of, value):
        extension = {**REQUIRED, "SpectrometerFrequency": value}
        refusal(lambda: header_of(extension=extension), "SpectrometerFrequency")

    @pytest.mark.parametrize("value", [["proton"], [1], 1, [""]])
    def test_impossible_nucleus(self, header_of, value):
        refusal(lambda: header_of(extension={**REQUIRED, "ResonantNucleus": value}), "Nucleus")

    @pytest.mark.parametrize("value", ["1h", ["1H "]])
    def test_a_nucleus_spelled_otherwise(self, header_of, value):
        header = header_of(extension={**REQUIRED, "ResonantNucleus": value})
        assert header.acquisition.nucleus == "1H"

    @pytest.mark.parametrize(("key", "value"), [("EchoTime", 30), ("RepetitionTime", 1500)])
    def test_milliseconds_where_seconds_belong(self, header_of, key, value):
        refusal(lambda: header_of(extension={**REQUIRED, key: value}), key, "seconds")

    @pytest.mark.parametrize(
        "content", [b"not json", b'{"SpectrometerFrequency": [1', b"\xff\xfe", b"[1, 2]"]
    )
    def test_extension_that_is_no_json_object(self, header_of, content):
        refusal(lambda: header_of(extension=content), "scan.nii.gz", "header extension", "JSON")

    def test_nifti_without_the_extension(self, header_of):
        refusal(lambda: header_of(extension=None), "without the NIfTI-MRS header extension")

    def test_intent_name_of_something_else(self, header_of):
        refusal(lambda: header_of(intent="fmri"), "intent_name", "'fmri'")

    def test_real_data(self, tmp_path, scan_file):
        path = scan_file(tmp_path / "real.nii", np.ones((2, 2, 1, 8), np.float32))
        refusal(lambda: read_header(path), "real.nii", "float32", "complex")

    def test_data_without_time(self, tmp_path, scan_file, noise):
        path = scan_file(tmp_path / "flat.nii", noise((2, 2, 8)))
        refusal(lambda: read_header(path), "(2, 2, 8)")

    def test_higher_dimensions_by_their_tags(self, tmp_path, scan_file, noise):
        extension = {**REQUIRED, "dim_5": "DIM_COIL", "dim_6": "DIM_DYN"}
        path = scan_file(tmp_path / "raw.nii", noise((1, 1, 1, 8, 4, 1)), extension=extension)
        assert read_header(path).higher_dimensions == (("DIM_COIL", 4),)

    @pytest.mark.parametrize("name", ["text.nii", "text.nii.gz"])
    def test_not_nifti(self, tmp_path, name):
        path = tmp_path / name
        path.write_bytes(b"These are not spectra. " * 100)
        refusal(lambda: read_header(path), name, "not a NIfTI file")

    def test_other_compression_would_be_read_as_samples(self, tmp_path, scan_file, noise):
        path = scan_file(tmp_path / "scan.nii.bz2", noise((2, 2, 2, 8)))
        refusal(lambda: read_header(path), "scan.nii.bz2", ".nii.gz")

    def test_no_such_file(self, tmp_path):
        refusal(lambda: read_header(tmp_path / "absent.nii"), "absent.nii", "no such file")

    def test_a_folder(self, tmp_path):
        (tmp_path / "scan.nii").mkdir()
        refusal(lambda: read_header(tmp_path / "scan.nii"), "scan.nii", "is a folder")

    @pytest.mark.skipif(not RAW.exists(), reason=f"{RAW} is missing")
    def test_real_raw_data(self):
        header = read_header(RAW)
        assert header.higher_dimensions == (("DIM_COIL", 4), ("DIM_DYN", 16))
        assert header.acquisition.dwell_time == pytest.approx(8.33e-5)
        assert header.acquisition.repetition_time == 5.0


class TestWriteNIfTIMRS:
    @pytest.mark.parametrize("name", ["out.nii.gz", "out.nii"])
    def test_nifti_mrs_validates_and_nibabel_reads_the_same_samples(self, tmp_path, noise, name):
        data = noise((3, 4, 2, 32))
        acquisition = Acquisition(32, 3e-4, 123.2, 4.7, "1H", 0.03, 1.5)
        path = write_nifti_mrs(tmp_path / "new" / name, data, acquisition, AFFINE)
        validate_nifti_mrs(NIFTI_MRS(path))
        image = nib.load(path)
        np.testing.assert_array_equal(np.asarray(image.dataobj), data)
        np.testing.assert_allclose(image.affine, AFFINE, rtol=1e-6)
        # This affine is sheared by half a degree, which no qform can say.
        assert (image.header["sform_code"], image.header["qform_code"]) == (1, 0)
        assert os.listdir(path.parent) == [name]

    def test_reading_gives_back_the_acquisition(self, tmp_path, noise):
        acquisition = Acquisition(16, 8.33e-5, 297.219948, 3.02, "1H", 0.011, None)
        header = {"RxOffset": -1.5, "ProtocolName": "mrsi", "RepetitionTime": 9.0}
        path = write_nifti_mrs(
            tmp_path / "a.nii", noise((1, 1, 1, 16)), acquisition, AFFINE, header
        )
        read = read_header(path)
        assert read.acquisition.reference_ppm == pytest.approx(3.02, abs=1e-12)
        assert replace(read.acquisition, reference_ppm=3.02) == acquisition
        assert read.extension["ProtocolName"] == "mrsi"
        assert "RepetitionTime" not in read.extension

    def test_header_fields_that_no_longer_hold_are_left_out(self, tmp_path, noise):
        stale = {"dim_5": "DIM_COIL", "dim_5_info": "x", "SpectralWidth": 1.0}
        path = write_nifti_mrs(
            tmp_path / "a.nii", noise((1, 1, 1, 16)), Acquisition(16, 5e-4, 123.0), AFFINE, stale
        )
        assert not set(stale) & set(read_header(path).extension)
        validate_nifti_mrs(NIFTI_MRS(path))

    @pytest.mark.parametrize("shape", [(2, 2, 2, 15), (2, 2, 16)])
    def test_refuses_other_shapes(self, tmp_path, noise, shape):
        acquisition = Acquisition(16, 5e-4, 123.0)
        refusal(lambda: write_nifti_mrs(tmp_path / "a.nii", noise(shape), acquisition, AFFINE))

    def test_refuses_other_names(self, tmp_path, noise):
        acquisition = Acquisition(16, 5e-4, 123.0)
        data = noise((1, 1, 1, 16))
        refusal(lambda: write_nifti_mrs(tmp_path / "a.txt", data, acquisition, AFFINE), ".nii.gz")
        assert not list(tmp_path.iterdir())

    def test_a_failed_write_leaves_nothing(self, tmp_path, noise, monkeypatch):
        def fill_disk(image, path):
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(nib, "save", fill_disk)
        with pytest.raises(RunError, match="No space left"):
            write_volume(tmp_path / "a.nii", np.zeros((2, 2, 2), np.float32), AFFINE)
        assert not list(tmp_path.iterdir())


def test_write_volume_keeps_a_mask(tmp_path):
    mask = np.arange(12).reshape(3, 2, 2) % 3 == 0
    image = nib.load(write_volume(tmp_path / "m.nii.gz", mask, AFFINE))
    np.testing.assert_array_equal(np.asarray(image.dataobj), mask)
    assert image.get_data_dtype() == np.uint8


@pytest.mark.parametrize("name", ["sub-1_mrsi.nii", "sub-1_mrsi.nii.gz", "sub-1_mrsi.NII.GZ"])
def test_stem(name):
    assert stem_of(f"/data/{name}") == "sub-1_mrsi"
