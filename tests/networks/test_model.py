from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.networks.encoders import ConvSettings
from mrsi_engine.networks.model import Axis, BasisCard, Card, Model, load_model, save_model
from mrsi_engine.networks.training import seeded_encoder
from mrsi_engine.spectra.basis import Basis

ARCHITECTURE = ConvSettings(channels=(8, 12))


@pytest.fixture
def model(basis: Basis) -> Model:
    card = Card(
        kind="quantification",
        name="tiny",
        encoder=ARCHITECTURE,
        input_points=64,
        outputs=3,
        decoder={"kind": "projected"},
        axis=Axis.of(basis.acquisition),
        basis=BasisCard(source="made", fingerprint=basis.fingerprint, names=basis.names),
        ranges={"shift": (-1.0, 1.0)},
    )
    tensors = {"columns": torch.as_tensor(basis.fids, dtype=torch.complex64)}
    return Model(card, seeded_encoder(ARCHITECTURE, 64, 3, seed=1).eval(), tensors)


def test_a_loaded_model_gives_identical_outputs(model: Model, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", model)
    loaded = load_model(folder, "quantification")
    signals = torch.randn(7, 256, dtype=torch.complex64)
    assert torch.equal(loaded.encoder(signals), model.encoder(signals))
    assert torch.equal(loaded.tensors["columns"], model.tensors["columns"])
    assert loaded.card == model.card
    assert sorted(f.name for f in folder.iterdir()) == ["card.json", "weights.safetensors"]
    save_model(folder, loaded)


def test_who_may_read_the_card_may_read_the_weights(model: Model, tmp_path: Path) -> None:
    modes = {f.stat().st_mode for f in save_model(tmp_path, model).iterdir()}
    assert len(modes) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 255}, "points 256, the scan has 255"),
        ({"dwell_time": 0.5e-3}, "dwell_time 0.001, the scan has 0.0005"),
        ({"spectrometer_frequency": 123.2}, "spectrometer_frequency"),
        ({"reference_ppm": 4.7}, "reference_ppm 4.65, the scan has 4.7"),
        ({"nucleus": "31P"}, "nucleus 1H, the scan has 31P"),
    ],
)
def test_a_scan_on_another_axis_is_refused(
    changes: dict[str, object], message: str, model: Model, basis: Basis
) -> None:
    scan = replace(basis.acquisition, **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        model.check_scan(scan, basis)


def test_another_basis_is_refused_and_rounding_is_not(model: Model, basis: Basis) -> None:
    axis = basis.acquisition
    assert model.check_scan(axis, basis) is model
    rounded = replace(basis, fids=basis.fids.astype(np.complex64) * (1 + 1e-5))
    assert rounded.fingerprint != basis.fingerprint
    model.check_scan(axis, rounded)
    with pytest.raises(InputError, match=r"differ in \['Tau'\]"):
        model.check_scan(axis, basis.select(set(basis.names) - {"Tau"}))
    changed = basis.fids.copy()
    changed[2] *= np.exp(0.05j)
    with pytest.raises(InputError, match="GPC of memory differs from it by 5 %"):
        model.check_scan(axis, replace(basis, fids=changed, source="memory"))
    with pytest.raises(InputError, match="none was given"):
        model.check_scan(axis)


def test_a_wrong_card_is_named(model: Model, tmp_path: Path) -> None:
    folder = save_model(tmp_path, model)
    good = json.loads((folder / "card.json").read_text())

    def load_with(**changes: object) -> None:
        (folder / "card.json").write_text(json.dumps({**good, **changes}))
        load_model(folder)

    with pytest.raises(InputError, match=r"axis\.dwell_time: .*found -1"):
        load_with(axis={**good["axis"], "dwell_time": -1})
    with pytest.raises(InputError, match=r"format_version: .*found 2"):
        load_with(format_version=2)
    with pytest.raises(InputError, match="colour"):
        load_with(colour="red")
    with pytest.raises(InputError, match="does not belong to encoder 0"):
        load_with(outputs=5)
    (folder / "card.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        load_model(folder)


def test_a_folder_that_is_no_model_is_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model folder"):
        load_model(tmp_path)
    folder = save_model(tmp_path / "model", model)
    with pytest.raises(InputError, match="kind is 'quantification', expected a model for 'fpc'"):
        load_model(folder, "fpc")
    whole = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(whole[:100])
    with pytest.raises(InputError, match=r"weights\.safetensors: cannot be read"):
        load_model(folder)
    (folder / "scan.nii").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"holds \['scan.nii'\]"):
        save_model(folder, model)
