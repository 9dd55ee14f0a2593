"""Where and how to compute."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.engine.clusters import opening
from mrsi_engine.io.result_store import ResultStore, open_result
from tests.cli.helpers import BASIS, Mrsi, of_phantom


class TestWhere:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--workers", "-1"], "workers is -1, expected at least 0"),
            (["--workers", "0", "--block-size", "0"], "block_size is 0, expected at least 1"),
            (["--threads-per-worker", "0"], "threads_per_worker is 0, expected at least 1"),
            (["--workers", "2", "--scheduler", "tcp://h:1"], "say where to run; give one"),
            (["--device", "abacus"], "device is 'abacus', expected auto, cpu or cuda"),
        ],
    )
    def test_impossible(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path, options: list[str], message: str
    ) -> None:
        scan, out = phantom / "scan.nii.gz", tmp_path / "out"
        assert message in mrsi.refused("run", scan, "--basis", BASIS, "--out", out, *options)
        assert not out.exists()

    def test_no_gpu(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        run = [*of_phantom(phantom), "--out", tmp_path / "out", "--device", "cuda"]
        assert "torch sees no GPU on this machine" in mrsi.refused(*run)

    def test_nobody_at_the_address(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opening, "connected", partial(opening.connected, timeout=0.5))
        run = ["run", phantom / "scan.nii.gz", "--basis", BASIS, "--out", tmp_path / "out"]
        error = mrsi.refused(*run, "--scheduler", "tcp://127.0.0.1:1", code=1)
        assert "tcp://127.0.0.1:1: no Dask scheduler answers at this address" in error
        assert not ResultStore.open(tmp_path / "out" / "result.zarr").done()

    @pytest.mark.usefixtures("quick_report")
    def test_a_real_cluster(
        self, mrsi: Mrsi, phantom: Path, finished: Path, tmp_path: Path
    ) -> None:
        command = [a for a in of_phantom(phantom) if a not in ("--workers", 0)]
        out = mrsi(*command, "--out", tmp_path / "out", "--workers", 2, "--block-size", 4)
        assert "16 voxels: 16 network refined" in out
        ours, single = (open_result(f / "result.zarr") for f in (tmp_path / "out", finished))
        np.testing.assert_allclose(ours["estimate"], single["estimate"], rtol=1e-4, atol=1e-4)
