"""A plain training loop: Adam, a schedule, early stopping, a checkpoint to go on from.

What is random in step ``n`` follows from the seed and ``n`` alone, so that a training that was
stopped and goes on reaches the numbers of one that never stopped.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mrsi_engine.errors import InputError, RunError
from mrsi_engine.networks.encoders import Encoder, EncoderSettings
from mrsi_engine.networks.model import CHECKPOINTS, check_model_folder, is_model

Data = TypeVar("Data")

#: The encoder as a loss calls it: complex ``(signal, time)`` to ``(signal, output)``.
Encode = Callable[[Tensor], Tensor]

CHECKPOINT = "checkpoint.safetensors"

# Steps whose random draws a seed leaves room for before the next seed's begin.
_STEPS_A_SEED = 10_000_000


class TrainingSettings(BaseModel):
    """How to train.

    Parameters
    ----------
    steps, batch
        Steps at most, and signals a step.
    learning_rate
        Of Adam, at the start.
    schedule
        ``cosine`` falls to a hundredth, ``steps`` to a tenth after an eighth and again after half
        of the steps (as published), ``constant`` stays.
    validate_every, patience
        Steps between validations, and how many of them may bring nothing before it ends.
    validation
        Signals of the validation set.
    seed
        Of weights and data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt = 5000
    batch: PositiveInt = 128
    learning_rate: PositiveFloat = 1e-3
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    validate_every: PositiveInt = 100
    patience: PositiveInt = 20
    validation: PositiveInt = 1024
    seed: NonNegativeInt = 42

    def rate(self, step: int) -> float:
        """Learning rate of a step, which count from 0."""
        done = step / self.steps
        match self.schedule:
            case "cosine":
                return self.learning_rate * (0.505 + 0.495 * math.cos(math.pi * done))
            case "steps":
                return self.learning_rate * 0.1 ** ((done >= 1 / 8) + (done >= 1 / 2))
            case "constant":
                return self.learning_rate

    def seed_of(self, step: int) -> int:
        """Seed of the data of a step; -1 stands for the validation set, -2 for the test set."""
        return self.seed * _STEPS_A_SEED + step + 2


@dataclass(frozen=True)
class Point:
    """A point of the learning curve: mean training loss since the last, and validation loss."""

    step: int
    training: float
    validation: float
    learning_rate: float


@dataclass
class TrainingProgress:
    """How far a training has come. ``seconds`` are summed over sessions."""

    step: int = 0
    best: float = math.inf
    best_step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Task(Generic[Data]):
    """What is to be learned.

    Parameters
    ----------
    draw
        Training data of a batch size and a seed.
    validation
        Data that the early stopping looks at.
    loss
        Of the encoder and data; a scalar.
    identity
        What else must be the same to go on from a checkpoint, e.g. the recipe and the basis.
    batches
        Size of a training set that is passed again and again; a batch is drawn anew in each pass,
        so nothing is stored. Without it, every step has data of its own.
    """

    draw: Callable[[int, int], Data]
    validation: Data
    loss: Callable[[Encode, Data], Tensor]
    identity: dict[str, Any] = field(default_factory=dict)
    batches: int | None = None


def check_unused(folder: Path, resume: bool) -> None:
    """See that no finished model, and no training that could go on, would be lost.

    Raises
    ------
    InputError
        If the folder holds either, or files of something else.
    """
    check_model_folder(folder)
    if is_model(folder):
        raise InputError(f"{folder}: holds a trained model; give a new folder")
    if any(folder.glob(f"{CHECKPOINTS}*")) and not resume:
        raise InputError(
            f"{folder}: holds a training that was stopped; go on with --resume, or give a new "
            "folder"
        )


def member_folder(folder: Path, number: int) -> Path:
    """Where a member of an ensemble keeps its checkpoint while it is trained."""
    return folder / f"{CHECKPOINTS}{number}"


def seeded_encoder(settings: EncoderSettings, points: int, outputs: int, seed: int) -> Encoder:
    """An untrained encoder whose weights follow from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(settings, points, outputs)


def train(
    encoder: Encoder,
    task: Task[Data],
    settings: TrainingSettings,
    *,
    folder: Path | None = None,
    resume: bool = False,
    on_point: Callable[[TrainingProgress], None] | None = None,
) -> TrainingProgress:
    """Train an encoder in place, on the device it is on; it ends with its best weights.

    On CUDA the encoder computes in bfloat16 where that is safe; losses stay in single precision.

    Parameters
    ----------
    encoder, task, settings
        What to train, on what, and how.
    folder
        Where a checkpoint is kept after every validation; none if not given.
    resume
        Go on from the checkpoint in ``folder``.
    on_point
        Called before the first step, and after every validation.

    Raises
    ------
    InputError
        If there is no checkpoint to go on from, or it is of another training.
    RunError
        If the loss is not finite.
    """
    loop = _Loop(encoder, task, settings)
    path = None if folder is None else folder / CHECKPOINT
    if resume:
        if path is None:
            raise InputError("resume: give the folder of the training that is to go on")
        loop.restore(path)
    if on_point is not None:
        on_point(loop.progress)
    while not loop.finished:
        loop.run_to_validation()
        if path is not None:
            loop.save(path)
        if on_point is not None:
            on_point(loop.progress)
    encoder.load_state_dict(loop.best)
    encoder.eval()
    return loop.progress


class _Loop(Generic[Data]):
    """The state of a training and its steps."""

    def __init__(self, encoder: Encoder, task: Task[Data], settings: TrainingSettings) -> None:
        self.encoder, self.task, self.settings = encoder, task, settings
        self.optimiser = torch.optim.Adam(encoder.parameters(), lr=settings.learning_rate)
        self.progress = TrainingProgress()
        self.best = _copied(encoder.state_dict())
        self._device = next(encoder.parameters()).device.type

    @property
    def finished(self) -> bool:
        p, s = self.progress, self.settings
        return p.step >= s.steps or p.step - p.best_step >= s.patience * s.validate_every

    def run_to_validation(self) -> None:
        started, first = time.perf_counter(), self.progress.step
        last = min(first + self.settings.validate_every, self.settings.steps)
        self.encoder.train()
        losses = [self._step(step) for step in range(first, last)]
        training = torch.stack(losses).mean().item()
        self.encoder.eval()
        with torch.no_grad():
            validation = self.task.loss(self._encode, self.task.validation).item()
        self._note(last, training, validation)
        self.progress.seconds += time.perf_counter() - started

    def _step(self, step: int) -> Tensor:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(step)
        drawn = step if self.task.batches is None else step % self.task.batches
        data = self.task.draw(self.settings.batch, self.settings.seed_of(drawn))
        self.optimiser.zero_grad()
        loss = self.task.loss(self._encode, data)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _encode(self, signals: Tensor) -> Tensor:
        # Complex signals know no bfloat16: the encoder alone is cast.
        with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
            return self.encoder(signals).float()

    def _note(self, step: int, training: float, validation: float) -> None:
        if not (math.isfinite(training) and math.isfinite(validation)):
            raise RunError(
                f"training: the loss is not finite before step {step} (training {training}, "
                f"validation {validation}); take a smaller learning_rate than "
                f"{self.settings.learning_rate:g}"
            )
        rate = self.settings.rate(step - 1)
        self.progress.step = step
        self.progress.curve.append(Point(step, training, validation, rate))
        if validation < self.progress.best:
            self.progress.best, self.progress.best_step = validation, step
            self.best = _copied(self.encoder.state_dict())

    def _identity(self) -> dict[str, Any]:
        """As JSON reads it back, so that it can be compared."""
        known = {"training": self.settings.model_dump(mode="json"), **self.task.identity}
        found: dict[str, Any] = json.loads(json.dumps(known))
        return found

    def save(self, path: Path) -> None:
        """One file, replaced at once: weights and Adam's state, and the progress in its header."""
        state = self.optimiser.state_dict()["state"]
        tensors = {f"adam.{i}.{key}": t for i, values in state.items() for key, t in values.items()}
        tensors |= {f"now.{name}": t for name, t in self.encoder.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        header = {"progress": asdict(self.progress), "identity": self._identity()}
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        temporary.write_bytes(save(contiguous, {k: json.dumps(v) for k, v in header.items()}))
        os.replace(temporary, path)

    def restore(self, path: Path) -> None:
        """Go back to a checkpoint."""
        header, tensors = _read_checkpoint(path)
        identity = json.loads(header["identity"])
        own = self._identity()
        differing = sorted(k for k in {*identity, *own} if identity.get(k) != own.get(k))
        if differing:
            raise InputError(
                f"{path}: is of a training with another {', '.join(differing)}; go on with what "
                "it began with, or give a new folder"
            )
        self._restore_tensors(tensors)
        stored = json.loads(header["progress"])
        curve = [Point(**point) for point in stored.pop("curve")]
        self.progress = TrainingProgress(**stored, curve=curve)

    def _restore_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.encoder.load_state_dict(_under("now.", tensors))
        device = next(self.encoder.parameters()).device
        self.best = {name: t.to(device) for name, t in _under("best.", tensors).items()}
        adam: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("adam.", tensors).items():
            index, key = name.split(".")
            adam.setdefault(int(index), {})[key] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": adam, "param_groups": groups})


def _read_checkpoint(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata(), tensors
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(
            f"{path}: no checkpoint to go on from ({error}); train without --resume"
        ) from error


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
