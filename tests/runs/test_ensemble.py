"""A run with the word of an ensemble of networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mrsi_engine.networks.model import load_model, save_model
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.report.html import write_report
from mrsi_engine.runs import finishing
from mrsi_engine.runs.one_scan import FinishedRun, Inputs, Options, process
from tests.runs.phantom_run import BASIS, volume


@pytest.fixture(scope="module")
def told(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run with the word of an ensemble; its report is not drawn."""
    folder = tmp_path_factory.mktemp("ensemble")
    model = load_model("press-3t-te30")
    others = tuple(load_model("press-3t-te30").encoder for _ in range(2))
    for number, other in enumerate(others, 1):
        weights = other.state_dict().items()
        other.load_state_dict({name: w * (1 + 0.01 * number) for name, w in weights})
    card = model.card.model_copy(update={"members": 3, "calibration": None})
    save_model(folder / "model", replace(model, card=card, others=others))
    settings = {"stage": "quantify", "method": "network", "model": str(folder / "model")}
    pipeline = Pipeline.from_settings({"name": "network", "stages": [settings]})
    inputs = Inputs.of(phantom / "scan.nii.gz", mask=phantom / "mask.nii.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finishing, "report_on", lambda folder, **content: Path(folder, "report.html"))
        return process(inputs, BASIS, pipeline, folder / "out", Options(workers=0))


class TestNetworksOwnWord:
    """``method = "network"`` with an ensemble, from files to report."""

    def test_parts_of_its_errors_are_maps(self, told: FinishedRun) -> None:
        sd, bound, apart = (
            volume(told, f"met-NAANAAG_desc-{d}") for d in ("sd", "crlbabs", "epistemic")
        )
        inside = np.isfinite(sd)
        assert inside.sum() == 16
        assert (apart[inside] > 0).all()
        np.testing.assert_allclose(np.hypot(bound, apart)[inside], sd[inside], rtol=1e-4)
        maps = told.folder / "maps"
        about = json.loads((maps / "scan_space-orig_met-NAA_desc-epistemic_mrsi.json").read_text())
        assert about["Units"] == "data units"
        assert "between the networks of the ensemble" in about["Definition"]
        assert list(about["Networks"]["quantify"]) == ["press-3t-te30"]
        about = json.loads((maps / "scan_space-orig_met-NAA_desc-crlb_mrsi.json").read_text())
        assert "network's own estimate" in about["Definition"]

    def test_and_columns(self, told: FinishedRun) -> None:
        table = pq.read_table(told.folder / "voxels.parquet")
        columns = [table[f"NAA_{n}"].to_numpy() for n in ("sd", "crlbabs", "epistemic")]
        np.testing.assert_allclose(np.hypot(*columns[1:]), columns[0], rtol=1e-4)
        field = table.schema.field("NAA_epistemic")
        assert field.metadata[b"unit"] == b"data units"
        assert b"network's own estimate" in table.schema.field("NAA_crlb").metadata[b"description"]

    def test_and_pictures(self, told: FinishedRun, tmp_path: Path) -> None:
        few = told.result.load().sel(parameter=["NAANAAG", "shift"])
        text = write_report(few, tmp_path / "report.html").read_text()
        shown = [f'alt="Relative {n} of tNAA"' for n in ("SD", "CRLB", "Epistemic SD")]
        assert all(alt in text for alt in shown)
        assert "errors of the network&#39;s estimates may be too small" in text
        assert "Median SD (%)" in text
        assert 'id="ways"' in text
