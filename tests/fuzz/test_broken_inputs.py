"""200 broken inputs: no traceback, no hang, and nothing taken that is not what the file says."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import scipy.io

from mrsi_engine.io.basis_files import write_basis
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import pipeline_text
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.simulation import simulate_basis
from tests.cases.bases import write_lcmodel
from tests.cases.scan import Scan
from tests.cli.helpers import run_quickly
from tests.fuzz.breaking import broken_bytes, broken_json
from tests.fuzz.conftest import Call
from tests.io.basis_texts import jmrui_text, osprey_struct

BASIS = "press-3t-te30"


def inputs(kind: int, count: int) -> pytest.MarkDecorator:
    """So many broken inputs of a kind, each with its own fixed seed."""
    return pytest.mark.parametrize("seed", [(kind, number) for number in range(count)], ids=str)


def command(tiny: Scan, out: Path) -> list[object]:
    scan = tiny.folder / "scan.nii.gz"
    given = ["--mask", tiny.mask, "--basis", BASIS, "--workers", 0, "--pipeline", "minimal"]
    return ["run", scan, *given, "--out", out]


@pytest.fixture(scope="module")
def basis() -> Basis:
    return simulate_basis(
        "press",
        echo_time=0.03,
        field=3.0,
        points=256,
        dwell_time=0.5e-3,
        linewidth=8.0,
        metabolites=("NAA", "Cr", "Ins"),
    )


@pytest.fixture(scope="module")
def finished(tiny: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; to be copied, never changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run_quickly(command(tiny, out))
    return out


class TestScans:
    """``mrsi import``: what is accepted is what the file says, read independently."""

    def imported(self, call: Call, path: Path, folder: Path) -> ScanStore | None:
        target = folder / "scan.zarr"
        shutil.rmtree(target, ignore_errors=True)
        code, _ = call("import", path, "--out", target)
        if code:
            assert not target.exists()
            return None
        return ScanStore.open(target)

    def assert_as_said(self, store: ScanStore, path: Path) -> None:
        """Axis, place and samples of the store are the file's, read by nibabel."""
        image = nib.load(path)
        [content] = [e.get_content() for e in image.header.extensions if e.get_code() == 44]
        fields = json.loads(content)
        axis = store.acquisition
        frequency = fields["SpectrometerFrequency"]
        stated = frequency[0] if isinstance(frequency, list) else frequency
        assert axis.spectrometer_frequency == pytest.approx(stated)
        unit = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}[
            image.header.get_xyzt_units()[1]
        ]
        assert axis.dwell_time == pytest.approx(float(image.header["pixdim"][4]) * unit, rel=1e-5)
        if fields.get("EchoTime") is not None:
            assert (axis.echo_time or 0.0) == pytest.approx(fields["EchoTime"])
        else:
            assert axis.echo_time is None
        if int(image.header["sform_code"]) or int(image.header["qform_code"]):
            np.testing.assert_allclose(store.affine, image.affine, rtol=1e-5, atol=1e-5)
        x, y, z = store.coordinates().T
        data = np.asarray(image.dataobj)
        assert tuple(store.shape) == data.shape[:3]
        if not axis.start_time and axis.points == data.shape[3]:
            np.testing.assert_array_equal(
                store.read_fids(0, store.voxels), data[x, y, z].astype(np.complex64)
            )

    @inputs(1, 40)
    def test_bytes_of_a_plain_file(
        self, call: Call, tiny: Scan, tmp_path: Path, seed: tuple[int, int]
    ) -> None:
        """Header and JSON; a sample that flips is another sample, and no file can tell."""
        whole = tiny.save(tmp_path / "whole.nii").read_bytes()
        end = nib.load(tmp_path / "whole.nii").dataobj.offset
        draw = np.random.default_rng(seed)
        path = tmp_path / "scan.nii"
        path.write_bytes(broken_bytes(whole[:end], draw) + whole[end:])
        if (store := self.imported(call, path, tmp_path)) is not None:
            self.assert_as_said(store, path)

    @inputs(2, 30)
    def test_bytes_of_a_compressed_file(
        self, call: Call, tiny: Scan, tmp_path: Path, seed: tuple[int, int]
    ) -> None:
        """Its checksum tells of every byte, to the end."""
        whole = tiny.save(tmp_path / "whole.nii.gz").read_bytes()
        expected = np.asarray(nib.load(tmp_path / "whole.nii.gz").dataobj)
        path = tmp_path / "scan.nii.gz"
        path.write_bytes(broken_bytes(whole, np.random.default_rng(seed), start=10))
        if (store := self.imported(call, path, tmp_path)) is not None:
            x, y, z = store.coordinates().T
            np.testing.assert_array_equal(store.read_fids(0, store.voxels), expected[x, y, z])

    def test_the_checksum_of_a_compressed_file(
        self, call: Call, tiny: Scan, tmp_path: Path
    ) -> None:
        plain = bytearray(gzip.decompress(tiny.save(tmp_path / "whole.nii.gz").read_bytes()))
        packed = bytearray(gzip.compress(bytes(plain)))
        packed[-6] ^= 1
        (tmp_path / "scan.nii.gz").write_bytes(bytes(packed))
        assert self.imported(call, tmp_path / "scan.nii.gz", tmp_path) is None

    @inputs(3, 30)
    def test_values_of_the_header(
        self, call: Call, tiny: Scan, tmp_path: Path, seed: tuple[int, int]
    ) -> None:
        fields = {
            **tiny.fields,
            "RepetitionTime": 2.0,
            "AcquisitionStartTime": 0.0,
            "SpectralWidth": 2500.0,
            "RxOffset": 0.0,
            "kSpace": [False, False, False],
            "ProcessingApplied": [{"Method": "x", "Program": "y", "Version": "1", "Details": ""}],
        }
        text = json.dumps(broken_json(fields, np.random.default_rng(seed))).encode()
        path = tiny.save(tmp_path / "scan.nii", raw=text)
        if (store := self.imported(call, path, tmp_path)) is not None:
            self.assert_as_said(store, path)

    @inputs(4, 10)
    def test_masks(self, call: Call, tiny: Scan, tmp_path: Path, seed: tuple[int, int]) -> None:
        whole = gzip.decompress(tiny.mask.read_bytes())
        (tmp_path / "mask.nii").write_bytes(broken_bytes(whole, np.random.default_rng(seed)))
        call(
            *("import", tiny.folder / "scan.nii.gz", "--mask", tmp_path / "mask.nii"),
            *("--out", tmp_path / "masked.zarr"),
        )


class TestBases:
    """``mrsi basis show``: refused, or read with all its metabolites."""

    @pytest.mark.parametrize("name", ["b.basis", "b.txt"])
    @inputs(5, 14)
    def test_texts(
        self, call: Call, basis: Basis, tmp_path: Path, name: str, seed: tuple[int, int]
    ) -> None:
        if name == "b.txt":
            whole = jmrui_text(basis).encode()
        else:
            whole = write_lcmodel(tmp_path / "whole.basis", basis, badelt="5.e-4").read_bytes()
        # Every other time in the header: the samples are much longer.
        part = 700 if seed[1] % 2 else len(whole)
        broken = broken_bytes(whole[:part], np.random.default_rng(seed)) + whole[part:]
        (tmp_path / name).write_bytes(broken)
        code, text = call("basis", "show", tmp_path / name)
        assert code in (0, 2)
        assert code or "columns" in text

    @inputs(6, 20)
    def test_json(self, call: Call, basis: Basis, tmp_path: Path, seed: tuple[int, int]) -> None:
        folder = write_basis(basis, tmp_path / "b")
        whole, draw = (folder / "Cr.json").read_bytes(), np.random.default_rng(seed)
        if seed[1] % 2:
            text = json.dumps(broken_json(json.loads(whole), draw)).encode()
        else:
            text = broken_bytes(whole, draw)
        (folder / "Cr.json").write_bytes(text)
        code, _ = call("basis", "show", folder)
        assert code in (0, 2)

    @inputs(7, 10)
    def test_matlab(self, call: Call, basis: Basis, tmp_path: Path, seed: tuple[int, int]) -> None:
        scipy.io.savemat(tmp_path / "whole.mat", {"BASIS": osprey_struct(basis)})
        whole = (tmp_path / "whole.mat").read_bytes()
        broken = broken_bytes(whole, np.random.default_rng(seed), start=120)
        (tmp_path / "b.mat").write_bytes(broken)
        code, _ = call("basis", "show", tmp_path / "b.mat")
        assert code in (0, 2)


class TestPipelines:
    @inputs(8, 25)
    def test_toml(self, call: Call, tmp_path: Path, seed: tuple[int, int]) -> None:
        whole = pipeline_text("brain-1h-3t").encode()
        path = tmp_path / "p.toml"
        path.write_bytes(broken_bytes(whole, np.random.default_rng(seed)))
        code, _ = call("pipeline", "show", path)
        assert code in (0, 2)


class TestStores:
    """Chunks and metadata of finished runs: the same maps again, or a refusal."""

    @pytest.mark.parametrize("part", ["result.zarr", "scan.zarr"])
    @inputs(9, 16)
    def test_bytes(
        self,
        call: Call,
        tiny: Scan,
        finished: Path,
        tmp_path: Path,
        part: str,
        seed: tuple[int, int],
    ) -> None:
        [expected] = (finished / "maps").glob("*_met-NAA_desc-signal_mrsi.nii.gz")
        out = tmp_path / "out"
        shutil.copytree(finished, out)
        shutil.rmtree(out / "maps")
        if part == "scan.zarr":
            shutil.rmtree(out / "result.zarr")
        files = sorted(p for p in (out / part).rglob("*") if p.is_file() and p.stat().st_size)
        draw = np.random.default_rng(seed)
        chosen = files[int(draw.integers(len(files)))]
        chosen.write_bytes(broken_bytes(chosen.read_bytes(), draw))
        code, text = call(*command(tiny, out))
        if code == 0:
            again, before = (
                np.asarray(nib.load(path).dataobj)
                for path in (out / "maps" / expected.name, expected)
            )
            np.testing.assert_array_equal(again, before, err_msg=f"{chosen}: {text}")
