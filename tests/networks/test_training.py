from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mrsi_engine.errors import InputError, RunError
from mrsi_engine.networks.decoders import DecoderSettings, make_decoder
from mrsi_engine.networks.encoders import ConvSettings, DenseSettings, Encoder
from mrsi_engine.networks.quantifier import normalise
from mrsi_engine.networks.simulation import SimulationSettings, Simulator
from mrsi_engine.networks.training import (
    CHECKPOINT,
    Encode,
    Task,
    TrainingProgress,
    TrainingSettings,
    seeded_encoder,
    train,
)
from mrsi_engine.spectra.basis import Basis

ARCHITECTURE = ConvSettings(channels=(8, 16, 24))


@pytest.fixture
def task(basis: Basis, settings: SimulationSettings) -> Task[Tensor]:
    simulator, decoder = Simulator(settings, basis), make_decoder(DecoderSettings(), basis)

    def loss(encode: Encode, signals: Tensor) -> Tensor:
        normalised, _ = normalise(signals, 128)
        return decoder.loss(decoder.decode(encode(normalised), normalised), normalised)

    def draw(count: int, seed: int) -> Tensor:
        return simulator.draw(count, seed).fids

    return Task(draw, draw(32, 0), loss, {"basis": basis.fingerprint})


def _encoder(outputs: int = 3) -> Encoder:
    return seeded_encoder(ARCHITECTURE, 128, outputs, seed=1)


@pytest.mark.parametrize("kind", ["nMM", "projected"])
def test_a_tiny_network_overfits_32_signals(
    kind: str, basis: Basis, settings: SimulationSettings
) -> None:
    quiet = settings.model_copy(update={"noise_sd": (0.0, 0.0)})
    signals, _ = normalise(Simulator(quiet, basis).draw(32, seed=1).fids, 256)
    decoder = make_decoder(
        DecoderSettings.model_validate({"kind": kind}), basis, torch.full((5,), 0.1)
    )

    def loss(encode: Encode, data: Tensor) -> Tensor:
        return decoder.loss(decoder.decode(encode(data), data), data)

    encoder = seeded_encoder(DenseSettings(widths=(128, 64)), 256, decoder.outputs, seed=1)
    training = TrainingSettings(steps=300, validate_every=300, learning_rate=5e-3, seed=1)
    before = loss(encoder, signals).item()
    done = train(encoder, Task(lambda count, seed: signals, signals, loss), training)
    # Signals have a mean square of 1 and no noise.
    assert before > 0.1
    assert done.best < 0.003


def test_training_goes_on_to_the_same_loss(task: Task[Tensor], tmp_path: Path) -> None:
    settings = TrainingSettings(steps=12, batch=8, validate_every=4, seed=3)
    whole = _encoder()
    expected = train(whole, task, settings, folder=tmp_path / "whole")

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(_encoder(), task, settings, folder=tmp_path / "parts", on_point=stop)
    # Weights come from the checkpoint, so an encoder from another seed does as well.
    again = seeded_encoder(ARCHITECTURE, 128, 3, seed=9)
    found = train(again, task, settings, folder=tmp_path / "parts", resume=True)
    assert [p.step for p in found.curve] == [4, 8, 12]
    assert found.curve == expected.curve
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=0, atol=0)


def test_a_fixed_set_is_passed_again_and_again(task: Task[Tensor]) -> None:
    drawn = []

    def draw(count: int, seed: int) -> Tensor:
        drawn.append(seed)
        return task.draw(count, seed)

    settings = TrainingSettings(steps=7, batch=8, validate_every=7)
    train(_encoder(), replace(task, draw=draw, batches=3), settings)
    assert drawn == [drawn[step % 3] for step in range(7)]
    assert len(set(drawn)) == 3


def test_training_ends_early_with_its_best_weights(task: Task[Tensor]) -> None:
    settings = TrainingSettings(
        steps=60, batch=8, validate_every=1, patience=3, learning_rate=0.5, schedule="constant"
    )
    encoder = _encoder()
    done = train(encoder, task, settings)
    assert done.step == done.best_step + 3 < 60
    with torch.no_grad():
        assert task.loss(encoder, task.validation).item() == pytest.approx(done.best, rel=1e-6)


def test_a_checkpoint_of_another_training_is_refused(task: Task[Tensor], tmp_path: Path) -> None:
    settings = TrainingSettings(steps=2, batch=4, validate_every=2)
    train(_encoder(), task, settings, folder=tmp_path)
    other = settings.model_copy(update={"learning_rate": 0.1})
    with pytest.raises(InputError, match="another training;"):
        train(_encoder(), task, other, folder=tmp_path, resume=True)
    with pytest.raises(InputError, match="no checkpoint"):
        train(_encoder(), task, settings, folder=tmp_path / "empty", resume=True)
    (tmp_path / CHECKPOINT).write_bytes(b"half")
    with pytest.raises(InputError, match="no checkpoint"):
        train(_encoder(), task, settings, folder=tmp_path, resume=True)


def test_a_loss_that_is_not_finite_ends_the_training(task: Task[Tensor]) -> None:
    broken = Task(task.draw, task.validation, lambda encode, data: encode(data).sum() * torch.nan)
    with pytest.raises(RunError, match=r"not finite before step 2.*learning_rate"):
        train(_encoder(), broken, TrainingSettings(steps=4, batch=4, validate_every=2))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("cosine", (1.0, 0.505, 0.01)), ("steps", (1.0, 0.01, 0.01)), ("constant", (1.0, 1.0, 1.0))],
)
def test_schedules(schedule: str, expected: tuple[float, ...]) -> None:
    settings = TrainingSettings.model_validate(
        {"steps": 800, "schedule": schedule, "learning_rate": 1.0}
    )
    assert [settings.rate(step) for step in (0, 400, 800)] == pytest.approx(expected)
