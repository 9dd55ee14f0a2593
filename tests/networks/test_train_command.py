"""``mrsi train`` as a user meets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mrsi_engine import cli
from mrsi_engine.cli.output import TrainingBar
from mrsi_engine.io.basis_files import write_basis
from mrsi_engine.networks.model import load_model
from mrsi_engine.networks.recipe_files import recipe_text
from mrsi_engine.networks.training import CHECKPOINT, TrainingProgress
from mrsi_engine.spectra.basis import Basis

RECIPE = """
name = "tiny"
input_points = 64
[axis]
points = 128
[encoder]
kind = "dense"
widths = [8]
[simulation]
shift_hz = [-5, 5]
phase_deg = [-20, 20]
damping = [2, 20]
noise_sd = [0.5, 1.0]
[simulation.amplitudes]
NAA = [1, 10]
Cr = [1, 10]
GPC = [1, 10]
Tau = [1, 10]
MM = [1, 10]
[training]
steps = 4
batch = 8
validate_every = 2
validation = 8
"""

Train = Callable[..., str]


@pytest.fixture
def train(basis: Basis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    """``mrsi train`` with a tiny recipe and basis; standard output, or the error of a refusal."""
    write_basis(basis, tmp_path / "basis")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE)

    def call(*extra: str, refused: bool = False) -> str:
        given = {"--basis": tmp_path / "basis", "--recipe": recipe, "--out": tmp_path / "model"}
        given = {name: value for name, value in given.items() if name not in extra}
        arguments = ["train", *(str(part) for pair in given.items() for part in pair), *extra]
        if not refused:
            cli.main(arguments)
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 2
        return capsys.readouterr().err

    return call


def test_training_writes_a_model_and_says_what_was_reached(train: Train, tmp_path: Path) -> None:
    said = train()
    model = load_model(tmp_path / "model", "quantification")
    assert "tiny, 4 steps in" in said
    assert "R2 NAA" in said
    assert model.card.axis.points == 128
    assert model.card.training is not None
    assert [step for step, *_ in model.card.training.curve] == [2, 4]
    assert f"report: {tmp_path / 'model' / 'report.html'}" in said
    assert "Learning curve" in (tmp_path / "model" / "report.html").read_text()
    assert "holds a trained model" in train(refused=True)


def test_a_stopped_training_is_neither_lost_nor_forgotten(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object, progress: TrainingProgress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBar, "__call__", stop)
        with pytest.raises(SystemExit) as ended:
            train()
    assert ended.value.code == 130
    assert (tmp_path / "model" / "member0" / CHECKPOINT).is_file()
    assert "go on with --resume" in train(refused=True)
    assert "tiny, 4 steps" in train("--resume")


def test_what_cannot_be_trained_is_refused(train: Train, tmp_path: Path) -> None:
    refusal = train("--recipe", "best", refused=True)
    assert "no such recipe; shipped: [" in refusal
    assert "'press-3t-te30'" in refusal
    assert "no checkpoint" in train("--resume", refused=True)
    assert "no such basis" in train("--basis", "nothing", refused=True)
    assert "neither the output folder of a run" in train("--scan", str(tmp_path), refused=True)
    assert not (tmp_path / "model").exists()


def test_a_trained_model_is_a_start(train: Train, tmp_path: Path) -> None:
    train()
    first, tuned = tmp_path / "model", tmp_path / "tuned"
    train("--out", str(tuned), "--start", str(first))
    training = load_model(tuned).card.training
    assert training is not None
    assert training.start == f"tiny {load_model(first).checksum[:12]}"
    wrong = train("--out", str(tmp_path / "x"), "--start", "press-3t-te30", refused=True)
    assert "encoder is" in wrong
    assert "no model folder" in train("--start", str(tmp_path), refused=True)


def test_a_scan_store_teaches(train: Train, phantom: Path, tmp_path: Path) -> None:
    store = tmp_path / "scan.zarr"
    cli.main(["import", str(phantom / "scan.nii.gz"), "--out", str(store)])
    assert "the scan's FIDs 409.6 ms" in train("--scan", str(store), refused=True)
    recipe = tmp_path / "short.toml"
    recipe.write_text(
        recipe_text("press-3t-te30").replace("steps = 5000", "steps = 2").replace("98304", "0")
    )
    train("--scan", str(store), "--basis", "press-3t-te30", "--recipe", str(recipe))
    card = load_model(tmp_path / "model").card
    assert card.axis.points == 1024
    assert card.training is not None
    assert (card.training.steps, card.training.data) == (2, str(store))
