"""Every refusal of an import, with nothing left behind."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.importing import import_scan
from tests.io.conftest import AFFINE, EXTENSION
from tests.io.importing.conftest import POINTS, SHAPE

FLAT = [[10, 10, 0, 0], [10, 10, 0, 0], [0, 0, 10, 0], [0, 0, 0, 1]]
AT_ANOTHER_FREQUENCY = {**EXTENSION, "SpectrometerFrequency": [127.7]}


def refused(match, *arguments, **options):
    """An import that ends with InputError and leaves the folder as it was."""
    folder = arguments[0].parent
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=match):
        import_scan(arguments[0], folder / "out.zarr", *arguments[1:], **options)
    assert sorted(folder.rglob("*")) == before


class TestRefusals:
    def test_not_nifti(self, tmp_path):
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(b"no spectra" * 100)
        refused("not a NIfTI file", path)

    def test_real_data(self, tmp_path, scan_file):
        refused("float32", scan_file(tmp_path / "s.nii", np.ones((2, 2, 1, 8), np.float32)))

    def test_missing_frequency(self, tmp_path, scan_file, data):
        extension = {"ResonantNucleus": ["1H"]}
        refused("SpectrometerFrequency", scan_file(tmp_path / "s.nii", data, extension=extension))

    @pytest.mark.parametrize("tags", [("DIM_DYN", "DIM_DYN"), ("DIM_DYN", "DIM_OTHER")])
    def test_dimensions_other_than_coils_and_transients(self, tmp_path, scan_file, noise, tags):
        extension = {**EXTENSION, **{f"dim_{d}": tag for d, tag in enumerate(tags, 5)}}
        data = noise((2, 2, 2, 8, *range(2, 2 + len(tags))))
        scan = scan_file(tmp_path / "s.nii", data, extension=extension)
        refused(rf"{tags[-1]} of {1 + len(tags)}\); supported are DIM_COIL and DIM_DYN", scan)

    @pytest.mark.parametrize(
        ("tags", "shape"),
        [(("DIM_COIL",), (3,)), ((), ()), (("DIM_COIL", "DIM_DYN"), (3, 2))],
    )
    def test_water_of_other_coils(self, tmp_path, scan_file, noise, tags, shape):
        coils = {**EXTENSION, "dim_5": "DIM_COIL"}
        scan = scan_file(tmp_path / "s.nii", noise((*SHAPE, POINTS, 2)), extension=coils)
        extension = {**EXTENSION, **{f"dim_{d}": tag for d, tag in enumerate(tags, 5)}}
        water = scan_file(tmp_path / "w.nii", noise((*SHAPE, POINTS, *shape)), extension=extension)
        refused("give a reference of the same coils", scan, water=water)

    def test_scalp_inside_the_mask(self, scan, mask):
        refused("every scalp voxel lies in the mask", scan, mask=mask, scalp=mask)

    def test_scalp_that_is_all_there_is(self, tmp_path, scan, plain_file):
        scalp = plain_file(tmp_path / "scalp.nii", np.ones(SHAPE))
        refused("no voxel outside the scalp", scan, scalp=scalp)

    def test_mask_of_another_shape_or_affine(self, scan, plain_file, tmp_path):
        refused("shape", scan, mask=plain_file(tmp_path / "m.nii", np.ones((4, 3, 1), np.uint8)))
        elsewhere = plain_file(tmp_path / "a.nii", np.ones(SHAPE, np.uint8), np.eye(4))
        refused("affine", scan, mask=elsewhere)

    def test_empty_mask(self, scan, plain_file, tmp_path):
        refused("selects no voxel", scan, mask=plain_file(tmp_path / "m.nii", np.zeros(SHAPE)))

    def test_no_signal_at_all(self, tmp_path, scan_file, data):
        refused("no voxel holds a signal", scan_file(tmp_path / "s.nii", 0 * data))

    def test_water_that_lies_elsewhere(self, scan, mask, scan_file, noise, tmp_path):
        elsewhere = AFFINE.copy()
        elsewhere[0, 3] += 500
        water = scan_file(tmp_path / "w.nii", noise((2, 3, 2, POINTS)), affine=elsewhere)
        for options in ({}, {"mask": mask}):
            refused(
                "reaches none of the scan's voxels .its centre is at", scan, water=water, **options
            )

    @pytest.mark.parametrize(
        ("affine", "match"),
        [
            (np.diag([1e4, 1e4, 1e4, 1]), r"its shape is .*, or files that state their position"),
            (FLAT, "its affine .* places no volume in space; give a water"),
        ],
    )
    def test_water_without_a_place(self, scan, scan_file, noise, tmp_path, affine, match):
        water = scan_file(tmp_path / "w.nii", noise((2, 3, 2, POINTS)), affine=affine)
        refused(match, scan, water=water)

    @pytest.mark.parametrize(
        ("name", "points", "changes"),
        [
            ("dwell_time", POINTS, {"pixdim": 4e-4}),
            ("points", POINTS - 1, {}),
            ("spectrometer_frequency", POINTS, {"extension": AT_ANOTHER_FREQUENCY}),
        ],
    )
    def test_water_of_another_acquisition(
        self, scan, scan_file, noise, tmp_path, name, points, changes
    ):
        water = scan_file(tmp_path / "w.nii", noise((*SHAPE, points)), **changes)
        refused(f"water reference with {name}", scan, water=water)

    @pytest.mark.parametrize("points", [1, 17, -3])
    def test_impossible_points(self, scan, points):
        refused("expected 2 to 16", scan, points=points)

    @pytest.mark.parametrize("kept", [0.5, 0.9, 0.999])
    def test_truncated_gz(self, tmp_path, scan_file, noise, kept):
        scan = scan_file(tmp_path / "s.nii.gz", noise((8, 8, 2, 64)))
        whole = scan.read_bytes()
        scan.write_bytes(whole[: int(kept * len(whole))])
        refused(r"s\.nii\.gz: truncated or damaged", scan)

    def test_missing_crc(self, tmp_path, scan):
        scan.write_bytes(scan.read_bytes()[:-4])
        refused("truncated or damaged", scan)

    def test_wrong_crc(self, scan):
        raw = bytearray(scan.read_bytes())
        raw[-6] ^= 1
        scan.write_bytes(raw)
        refused("truncated or damaged.*incorrect data check", scan)

    def test_truncated_nii(self, tmp_path, scan_file, data):
        scan = scan_file(tmp_path / "s.nii", data)
        scan.write_bytes(scan.read_bytes()[:-1])
        refused(r"truncated or damaged: .* bytes can hold", scan)

    def test_fewer_points_wanted_do_not_hide_a_truncation(self, tmp_path, scan):
        whole = gzip.decompress(scan.read_bytes())
        scan.write_bytes(gzip.compress(whole[:-8]))
        refused("ends before the last time point", scan, points=4)
