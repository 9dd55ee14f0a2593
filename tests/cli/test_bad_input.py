"""What is wrong with a file is said in one line, and nothing is left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine.io.basis_files import write_basis
from mrsi_engine.spectra.simulation import simulate_basis
from tests.cli.helpers import BASIS, Mrsi, of_phantom, resaved, shifted, without


class TestBadInput:
    """What is wrong with a file is said by both commands that read it."""

    @pytest.fixture(params=["run", "import"])
    def refused(
        self, request: pytest.FixtureRequest, mrsi: Mrsi, phantom: Path, tmp_path: Path
    ) -> Callable[..., str]:
        def call(scan: Path = phantom / "scan.nii.gz", **files: Path) -> str:
            options = [part for name, path in files.items() for part in (f"--{name}", path)]
            if request.param == "run":
                options += ["--basis", BASIS, "--workers", 0]
            error = mrsi.refused(request.param, scan, *options, "--out", tmp_path / "out")
            assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
            assert not list(tmp_path.glob("*.zarr"))
            return error

        return call

    def test_tissue_without_names_and_names_without_tissue(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path
    ) -> None:
        scan = ["run", phantom / "scan.nii.gz", "--basis", BASIS, "--out", tmp_path / "out"]
        error = mrsi.refused(*scan, "--tissue", phantom / "gm.nii.gz")
        assert "gm.nii.gz: name the classes" in error
        assert "--tissue FILE" in mrsi.refused(*scan, "--tissue-classes", "gm", "wm")

    def test_missing(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "no such file" in refused(tmp_path / "scan.nii.gz")

    def test_not_nifti(self, refused: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "scan.nii.gz").write_text("spectra")
        assert re.search(r"scan\.nii\.gz: not a NIfTI file", refused(tmp_path / "scan.nii.gz"))

    def test_no_extension(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        scan = resaved(phantom / "scan.nii.gz", tmp_path / "s.nii.gz", extension=lambda fields: {})
        assert "without the NIfTI-MRS header extension" in refused(scan)

    def test_no_frequency(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        lacking = without("SpectrometerFrequency")
        scan = resaved(phantom / "scan.nii.gz", tmp_path / "s.nii.gz", extension=lacking)
        assert "the header extension lacks SpectrometerFrequency" in refused(scan)

    def test_real_valued(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        scan = resaved(phantom / "scan.nii.gz", tmp_path / "s.nii.gz", data=np.real)
        assert "holds float32 data, expected complex64" in refused(scan)

    def test_truncated(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        whole = (phantom / "scan.nii.gz").read_bytes()
        (tmp_path / "s.nii.gz").write_bytes(whole[: len(whole) // 2])
        assert re.search(r"s\.nii\.gz: truncated", refused(tmp_path / "s.nii.gz"))

    def test_mask_of_another_shape(
        self, refused: Callable[..., str], phantom: Path, tmp_path: Path
    ) -> None:
        mask = resaved(phantom / "mask.nii.gz", tmp_path / "m.nii.gz", data=lambda d: d[1:])
        error = refused(mask=mask)
        assert "not on the scan's grid: its shape is (5, 6, 1), the scan's is (6, 6, 1)" in error

    def test_mask_of_another_affine(
        self, refused: Callable[..., str], phantom: Path, tmp_path: Path
    ) -> None:
        given = phantom / "mask.nii.gz"
        mask = resaved(given, tmp_path / "m.nii.gz", affine=shifted(given, 4.0))
        assert "its affine places it up to 4 mm from the scan's voxels" in refused(mask=mask)

    def test_empty_mask(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        mask = resaved(phantom / "mask.nii.gz", tmp_path / "m.nii.gz", data=np.zeros_like)
        assert "the mask selects no voxel" in refused(mask=mask)

    def test_water_of_another_place(
        self, refused: Callable[..., str], phantom: Path, tmp_path: Path
    ) -> None:
        given = phantom / "water.nii.gz"
        water = resaved(given, tmp_path / "w.nii.gz", affine=shifted(given, 4000.0))
        error = refused(water=water)
        assert "w.nii.gz: the water reference reaches none of the scan's voxels" in error


class TestBadBasis:
    @pytest.fixture
    def refused(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> Callable[[object], str]:
        def call(basis: object, *options: object) -> str:
            scan, out = phantom / "scan.nii.gz", tmp_path / "out"
            error = mrsi.refused("run", scan, "--basis", basis, "--out", out, *options)
            assert not out.exists()
            return error

        return call

    @staticmethod
    def written(folder: Path, **settings: Any) -> Path:
        axis = {"points": 1024, "dwell_time": 4e-4, "spectrometer_frequency": 127.7, **settings}
        metabolites = ("NAA", "Cr")
        write_basis(
            simulate_basis("press", echo_time=0.03, metabolites=metabolites, **axis), folder
        )
        return folder

    def test_no_such(self, refused: Callable[..., str]) -> None:
        error = refused("press-3tt-te30")
        assert "press-3tt-te30: no such basis file or folder, and not the name of" in error

    def test_another_frequency(self, refused: Callable[..., str], tmp_path: Path) -> None:
        basis = self.written(tmp_path / "b", spectrometer_frequency=297.2)
        assert re.search(r"for 297\.200 MHz, the scan has 12\d\.\d+ MHz", refused(basis))

    def test_shorter(self, refused: Callable[..., str], tmp_path: Path) -> None:
        error = refused(self.written(tmp_path / "b", points=512))
        assert "the basis lasts 204.8 ms (512 points), the scan's FIDs 409.6 ms" in error

    def test_nan(self, refused: Callable[..., str], tmp_path: Path) -> None:
        basis = self.written(tmp_path / "b")
        content = json.loads((basis / "NAA.json").read_text())
        content["basis"]["basis_re"][7] = float("nan")
        (basis / "NAA.json").write_text(json.dumps(content))
        assert re.search(r"NAA.* holds NaN or Inf; export the basis again", refused(basis))

    def test_a_simulated_basis_needs_no_reference(self, refused: Callable[..., str]) -> None:
        assert "knows its reference" in refused(BASIS, "--basis-reference", 4.7)


@pytest.mark.usefixtures("quick_report")
class TestBadVoxels:
    def test_they_cost_nothing_and_get_nan(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        inside = np.argwhere(nib.load(phantom / "mask.nii.gz").get_fdata())
        # In the order of the store x runs fastest.
        inside = inside[np.lexsort(inside.T)]

        def spoil(data: np.ndarray) -> np.ndarray:
            for voxel, value in zip(inside[:6], 2 * (np.nan, np.inf, 0), strict=True):
                data[tuple(voxel)] = value
            data[(*inside[8], 700)] = np.nan
            return data

        scan = resaved(phantom / "scan.nii.gz", tmp_path / "scan.nii.gz", data=spoil)
        command = [a if a != phantom / "scan.nii.gz" else scan for a in of_phantom(phantom)]
        events = tmp_path / "log.jsonl"
        out = mrsi(*command, "--out", tmp_path / "out", "--block-size", 6, "--log", events)
        assert "16 voxels: 7 no fit, 9 network refined" in out
        told = [json.loads(line) for line in events.read_text().splitlines()]
        first = next(event for event in told if event["event"] == "BlockDone")
        assert first["receipt"]["kernel_seconds"] == 0.0
        prefix = str(tmp_path / "out" / "maps" / "scan_space-orig_")
        bad = tuple(inside[[0, 1, 2, 3, 4, 5, 8]].T)
        for name in ("met-NAA_desc-signal", "met-NAA_desc-sd", "desc-snr", "desc-fitquality"):
            values = nib.load(f"{prefix}{name}_mrsi.nii.gz").get_fdata()
            assert np.isnan(values[bad]).all()
            assert np.isfinite(values).sum() == 9

    def test_nothing_but_bad_voxels(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        scan = resaved(phantom / "scan.nii.gz", tmp_path / "scan.nii.gz", data=np.zeros_like)
        command = [a if a != phantom / "scan.nii.gz" else scan for a in of_phantom(phantom)]
        run = [*command, "--out", tmp_path / "out"]
        mrsi.error(*run, code=3)
        assert "16 of 16 voxels unusable: no signal (16)" in mrsi.printed
        # Nothing fitted is of no use, whatever share one would accept.
        mrsi.error(*run, "--min-usable", 0, code=3)
        assert "16 voxels: 16 no fit" in mrsi.printed
