"""The kind of networks that quantify: their recipe, and how one is trained.

The loss is how well the model's signal explains the data; see :mod:`mrsi_engine.networks.decoders`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from scipy.optimize import nnls
from torch import Tensor

from mrsi_engine.errors import InputError
from mrsi_engine.networks.decoders import (
    Decoder,
    DecoderSettings,
    decoder_basis,
    make_decoder,
    principal_directions,
)
from mrsi_engine.networks.encoders import ConvSettings, Encoder, EncoderSettings
from mrsi_engine.networks.kinds import Given, NetworkKind, RealSignals
from mrsi_engine.networks.model import (
    COLUMNS,
    Axis,
    BasisCard,
    Card,
    Model,
    TrainingCard,
    load_model,
    save_model,
)
from mrsi_engine.networks.novelty import Novelty
from mrsi_engine.networks.quantifier import MIXING, THETA, TYPICAL, Quantifier, normalise, predict
from mrsi_engine.networks.recipe_files import RecipeFile, SignalAxis
from mrsi_engine.networks.simulation import AugmentationSettings, SimulationSettings, Simulator
from mrsi_engine.networks.training import (
    CHECKPOINT,
    Encode,
    Task,
    TrainingProgress,
    TrainingSettings,
    check_unused,
    member_folder,
    seeded_encoder,
    train,
)
from mrsi_engine.spectra.basis import Basis

#: Share of real signals that are kept for validation.
_HELD_OUT = 0.1

#: Least amplitude that a line of macromolecules begins with, as a share of their mean.
_LEAST_LINE = 0.1

#: Signals that the scores of a model are measured on.
_SCORED = 2048

#: Signals that say what is usual.
_NOVELTY_SIGNALS = 16384

#: What the encoder sees and what the residual is taken to, ``(signal, time)`` both.
Pair = tuple[Tensor, Tensor]


class Recipe(RecipeFile):
    """Everything that makes a model but the basis: what ``mrsi train --recipe`` reads.

    Parameters
    ----------
    input_points
        Samples that the encoder looks at; all of the decoder's residual counts.
    members
        Encoders of an ensemble, each trained from a seed of its own; how far they differ says what
        training leaves uncertain.
    axis
        Of simulated signals.
    target
        What the residual of the loss is taken to: the signal as ``measured``, or the ``noiseless``
        one, which has neither noise nor nuisances; a simulation knows it, of a real signal it is
        what it was before augmentation added noise. Amplitudes are no target either way. The best
        that a network can do with the first is least squares, with the second the mean of all
        signals that fit the data equally well.
    signals
        Size of a training set that is passed again and again, in whole batches; without it no
        simulated signal is seen twice.
    encoder, decoder, simulation, augmentation
        See their classes. ``augmentation`` is of real signals.
    calibration
        Simulated signals that the error bars of the network's own estimates are calibrated with,
        for the fit of a pipeline; 0 leaves them as they are.
    """

    kind: ClassVar[str] = "quantification"

    input_points: PositiveInt
    members: PositiveInt = 1
    axis: SignalAxis = SignalAxis()
    target: Literal["measured", "noiseless"] = "measured"
    signals: PositiveInt | None = None
    encoder: EncoderSettings = ConvSettings()
    decoder: DecoderSettings = DecoderSettings()
    simulation: SimulationSettings
    augmentation: AugmentationSettings = AugmentationSettings()
    calibration: NonNegativeInt = 0

    @model_validator(mode="after")
    def _a_batch_at_least(self) -> Recipe:
        if self.signals is not None and self.signals < self.training.batch:
            raise ValueError(
                f"expected signals of at least a batch of {self.training.batch}, or none"
            )
        return self

    @property
    def calibration_signals(self) -> int:
        """How many the error bars are to be calibrated with."""
        return self.calibration


def train_for_user(recipe: Recipe, given: Given) -> tuple[Model, TrainingProgress]:
    """Train by a recipe on what a user named.

    Raises
    ------
    InputError
        If recipe, basis, scan, start and folder do not go together.
    """
    if given.basis is None:
        raise InputError(f"recipe {recipe.name}: needs a basis; give it with --basis")
    start = None if given.start is None else load_model(given.start, "quantification")
    if given.scan is None:
        signals, axis = None, recipe.axis.of(given.basis.own_axis())
    else:
        signals, axis = given.scan.read()
    return train_quantifier(
        recipe,
        given.basis.on(axis),
        given.folder,
        scan=signals,
        start=start,
        resume=given.resume,
        device=given.device,
        on_point=given.on_point,
    )


def train_quantifier(
    recipe: Recipe,
    basis: Basis,
    folder: Path,
    *,
    scan: RealSignals | None = None,
    start: Model | None = None,
    resume: bool = False,
    device: str | torch.device = "cpu",
    on_point: Callable[[TrainingProgress], None] | None = None,
) -> tuple[Model, TrainingProgress]:
    """Train a model and write its folder.

    The loss is how well the model's signal explains the data, simulated or real; the amplitudes
    they were simulated from are never looked at but for the scores, on signals of their own.

    Parameters
    ----------
    recipe, basis
        What to train; the basis on the axis of the signals.
    folder
        New or empty, or of the training that is to go on.
    scan
        Real signals, without water, instead of simulated ones.
    start
        A trained model whose weights this one begins with: fine-tuning.
    resume
        Go on from the folder's checkpoint.
    device, on_point
        Where; and what is told of the progress.

    Raises
    ------
    InputError
        If recipe, basis, signals, start or folder do not go together.
    RunError
        If the training diverges.
    """
    check_unused(folder, resume)
    simulator = Simulator(recipe.simulation, basis, device)
    decoder = _decoder(recipe, simulator, start)
    task = _task(recipe, decoder, simulator, scan, start)
    trained = [
        _member(recipe, k, task, decoder, folder, start, resume=resume, on_point=on_point)
        for k in range(recipe.members)
    ]
    (encoder, progress), others = trained[0], tuple(other for other, _ in trained[1:])
    tensors = {
        COLUMNS: torch.as_tensor(basis.fids, dtype=torch.complex64),
        TYPICAL: decoder.typical,
        **({} if decoder.mixing is None else {MIXING: decoder.mixing}),
        **_novelty(recipe, task).tensors,
    }
    seconds = sum(member.seconds for _, member in trained)
    card = _card(recipe, basis, decoder, task, progress, seconds, str(device))
    model = Model(card, encoder, tensors, str(folder), others)
    model = _scored(model, simulator, recipe.training)
    save_model(folder, model)
    for k in range(recipe.members):
        shutil.rmtree(member_folder(folder, k))
    return model, progress


def _member(
    recipe: Recipe,
    number: int,
    task: Task[Pair],
    decoder: Decoder,
    folder: Path,
    start: Model | None,
    *,
    resume: bool,
    on_point: Callable[[TrainingProgress], None] | None,
) -> tuple[Encoder, TrainingProgress]:
    """A trained member of the ensemble; it goes on from its own checkpoint if it has begun."""
    training = recipe.training.model_copy(update={"seed": recipe.training.seed + number})
    encoder = seeded_encoder(
        recipe.encoder, recipe.input_points, decoder.outputs, training.seed
    ).to(decoder.typical.device)
    if start is not None:
        encoder.load_state_dict(start.encoders[number].state_dict())
    own = member_folder(folder, number)
    begun = resume and (number == 0 or (own / CHECKPOINT).exists())
    progress = train(encoder, task, training, folder=own, resume=begun, on_point=on_point)
    return encoder, progress


def _novelty(recipe: Recipe, task: Task[Pair]) -> Novelty:
    """What tells signals unlike those of training, from draws that training did not see."""

    def signals(step: int) -> Tensor:
        drawn, _ = task.draw(_NOVELTY_SIGNALS, recipe.training.seed_of(step))
        return normalise(drawn, recipe.input_points)[0][:, : recipe.input_points]

    steps = recipe.training.steps
    return Novelty.learn(signals(steps), signals(steps + 1))


def _decoder(recipe: Recipe, simulator: Simulator, start: Model | None) -> Decoder:
    """What reads the encoder's outputs; that of the start, so that its outputs mean the same."""
    if start is not None:
        _check_start(recipe, simulator.basis, start)
        typical, mixing = start.tensors[TYPICAL], start.tensors.get(MIXING)
    else:
        typical, spread = _typical(recipe, simulator)
        mixing = _mixing(recipe, simulator.basis, typical, spread)
    return make_decoder(recipe.decoder, simulator.basis, typical, simulator.device, mixing)


def _check_start(recipe: Recipe, basis: Basis, start: Model) -> None:
    """See that a model's weights mean the same in the training that is to begin with them."""
    own = start.card
    wanted = {
        "kind": (own.kind, "quantification"),
        "encoder": (own.encoder, recipe.encoder),
        "input_points": (own.input_points, recipe.input_points),
        "decoder": (DecoderSettings.model_validate(own.decoder), recipe.decoder),
        "members": (own.members, recipe.members),
    }
    for name, (found, expected) in wanted.items():
        if found != expected:
            raise InputError(
                f"{start.source}: {name} is {found}, recipe {recipe.name} has {expected}; begin "
                "with a model of the same, or untrained"
            )
    start.check_scan(basis.acquisition, basis)


def _typical(recipe: Recipe, simulator: Simulator) -> tuple[Tensor, Tensor]:
    """Mean and SD of the amplitude of each of the decoder's columns, of normalised signals."""
    if recipe.input_points > simulator.basis.acquisition.points:
        raise InputError(
            f"recipe {recipe.name}: input_points is {recipe.input_points}, the signals have "
            f"{simulator.basis.acquisition.points}"
        )
    batch = simulator.draw(1024, recipe.training.seed_of(-1))
    _, size = normalise(batch.fids, recipe.input_points)
    mean, spread = (batch.amplitudes / size).mean(0), batch.amplitudes.std(0) / size.mean()
    # The SD is of the amplitudes themselves: that of the size moves all columns alike.
    share = _shares(recipe, simulator.basis).to(mean.device)
    return share @ mean, share @ spread


def _shares(recipe: Recipe, basis: Basis) -> Tensor:
    """How much of the basis' columns each of the decoder's stands for, ``(column, column)``.

    A column stands for itself. Single lines of macromolecules take the place of the column MM:
    each stands for what the best fit to it has of the line.
    """
    full = decoder_basis(recipe.decoder, basis)
    lines = [name for name in full.names if name not in basis.names]
    if lines and "MM" not in basis.names:
        raise InputError(
            f"recipe {recipe.name}: decoder {recipe.decoder.kind} takes the place of a column MM, "
            f"which {basis.source} has not; add the macromolecule pattern"
        )
    shares = torch.zeros(len(full.names), len(basis.names))
    for i, name in enumerate(full.names):
        if name in basis.names:
            shares[i, basis.names.index(name)] = 1
    if lines:
        columns, target = np.stack([full[name] for name in lines]), basis["MM"]
        parts = np.concatenate([columns.real, columns.imag], axis=1)
        fitted, _ = nnls(parts.T, np.concatenate([target.real, target.imag]))
        place = [full.names.index(name) for name in lines]
        # None begins at nothing: what the fit leaves out may be needed all the same.
        least = _LEAST_LINE * fitted.mean()
        shares[place, basis.names.index("MM")] = torch.as_tensor(fitted.clip(least)).float()
    return shares


def _mixing(recipe: Recipe, basis: Basis, typical: Tensor, spread: Tensor) -> Tensor | None:
    """Of :func:`principal_directions`, at the middle of the damping."""
    if not recipe.decoder.directions or recipe.decoder.kind == "projected":
        return None
    model = make_decoder(recipe.decoder, basis, device=typical.device).model
    damping = sum(recipe.simulation.damping) / 2
    return principal_directions(model.columns * torch.exp(-damping * model.time), typical, spread)


def _task(
    recipe: Recipe,
    decoder: Decoder,
    simulator: Simulator,
    scan: RealSignals | None,
    start: Model | None,
) -> Task[Pair]:
    training = recipe.training
    identity = {
        "recipe": recipe.model_dump(mode="json", exclude={"training"}),
        "basis": simulator.basis.fingerprint,
        "data": "simulated" if scan is None else scan.source,
        "start": None if start is None else f"{start.card.name} {start.checksum[:12]}",
    }
    batches = None if recipe.signals is None else recipe.signals // training.batch
    loss = _loss(recipe, decoder)
    if scan is not None:
        learned, held_out = _split(scan, simulator, training.seed)
        draw = _varying(recipe, learned, decoder.model.time)
        return Task(draw, (held_out, held_out), loss, identity, batches)

    def simulated(count: int, seed: int) -> Pair:
        batch = simulator.draw(count, seed)
        return batch.fids, batch.fids if recipe.target == "measured" else batch.clean

    validation = simulated(training.validation, training.seed_of(-1))
    return Task(simulated, validation, loss, identity, batches)


def _loss(recipe: Recipe, decoder: Decoder) -> Callable[[Encode, Pair], Tensor]:
    def loss(encode: Encode, pair: Pair) -> Tensor:
        seen, target = pair
        normalised, size = normalise(seen, recipe.input_points)
        target = target / size
        return decoder.loss(decoder.decode(encode(normalised), target), target)

    return loss


def _split(scan: RealSignals, simulator: Simulator, seed: int) -> tuple[Tensor, Tensor]:
    """Real signals to learn from and to validate with."""
    finite = scan.fids[np.isfinite(scan.fids).all(1)]
    points = simulator.basis.acquisition.points
    held_out = int(_HELD_OUT * len(finite))
    if scan.fids.shape[1] != points or held_out < 1:
        raise InputError(
            f"{scan.source}: {len(finite)} finite signals of {scan.fids.shape[1]} points; needed "
            f"are at least {round(1 / _HELD_OUT)} of the basis' {points} points"
        )
    order = np.random.default_rng(seed).permutation(len(finite))
    shuffled = torch.as_tensor(finite[order], dtype=torch.complex64, device=simulator.device)
    return shuffled[held_out:], shuffled[:held_out]


def _varying(recipe: Recipe, signals: Tensor, time: Tensor) -> Callable[[int, int], Pair]:
    """Draws real signals, each varied as the recipe says, with what is to be explained of them."""

    def draw(count: int, seed: int) -> Pair:
        chance = torch.Generator().manual_seed(seed)
        index = torch.randint(len(signals), (count,), generator=chance)
        chosen = signals[index.to(signals.device)]
        if recipe.augmentation == AugmentationSettings():
            return chosen, chosen
        seen, clean = recipe.augmentation.vary(chosen, time, seed)
        return seen, seen if recipe.target == "measured" else clean

    return draw


def _card(
    recipe: Recipe,
    basis: Basis,
    decoder: Decoder,
    task: Task[Pair],
    progress: TrainingProgress,
    seconds: float,
    device: str,
) -> Card:
    training = TrainingCard(
        data=task.identity["data"],
        start=task.identity["start"],
        steps=progress.step,
        signals=recipe.members * progress.step * recipe.training.batch,
        seed=recipe.training.seed,
        seconds=round(seconds, 1),
        device=device,
        curve=[(p.step, p.training, p.validation) for p in progress.curve],
    )
    return Card(
        kind="quantification",
        name=recipe.name,
        encoder=recipe.encoder,
        input_points=recipe.input_points,
        outputs=decoder.outputs,
        members=recipe.members,
        decoder=recipe.decoder.model_dump(mode="json"),
        axis=Axis.of(basis.acquisition),
        basis=BasisCard(source=basis.source, fingerprint=basis.fingerprint, names=basis.names),
        ranges=recipe.simulation.ranges,
        training=training,
        recipe=recipe.model_dump(mode="json"),
    )


def _scored(model: Model, simulator: Simulator, training: TrainingSettings) -> Model:
    """The model with its scores on simulated signals that neither training nor choice saw."""
    batch = simulator.draw(_SCORED, training.seed_of(-2))
    found = predict(model, batch.fids, device=simulator.device)
    error = (found.theta - batch.theta).square().mean(0).sqrt().tolist()
    scores = {f"rmse {n}": e for n, e in zip(THETA, error, strict=False)}
    scores["chi square"] = found.chi_square(batch.noise_sd).mean().item()
    for i, name in enumerate(simulator.basis.names):
        if name in found.names:
            truth = batch.amplitudes[:, i]
            guess = found.amplitudes[:, found.names.index(name)]
            scores[f"R2 {name}"] = _r_squared(truth, guess)
    rounded = {name: float(f"{value:.4g}") for name, value in scores.items()}
    card = model.card.model_copy(update={"scores": rounded})
    return replace(model, card=card)


def _r_squared(truth: Tensor, guess: Tensor) -> float:
    return 1 - ((guess - truth).square().sum() / (truth - truth.mean()).square().sum()).item()


KIND = NetworkKind("quantification", Recipe, train_for_user, Quantifier.of)
