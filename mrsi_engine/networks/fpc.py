"""Networks for frequency and phase correction: a recipe is trained to a model, a model predicts.

The encoder sees the first samples of a FID, or the part of their spectrum that a recipe names,
divided by its root mean square magnitude. What it says is where a signal stands relative to the
model's template, whose creatine is at 3.027 ppm and phase 0.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt, ValidationError
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.alignment import corrected, wrapped
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.creatine import CreatineReferencing, reference_to_creatine
from mrsi_engine.kernels.projection import Projection
from mrsi_engine.kernels.registration import Solver
from mrsi_engine.kernels.template import averaged_template
from mrsi_engine.networks.encoders import ConvSettings, EncoderSettings
from mrsi_engine.networks.fpc_decoders import (
    FpcDecoder,
    FpcDecoderSettings,
    Ppm,
    hertz_between,
    make_fpc_decoder,
)
from mrsi_engine.networks.fpc_signals import (
    FpcSimulationSettings,
    MixtureSettings,
    MixtureSource,
    Source,
    Transients,
    TransientSource,
)
from mrsi_engine.networks.kinds import Given, GivenBasis, NetworkKind
from mrsi_engine.networks.model import (
    Axis,
    Card,
    Model,
    TrainingCard,
    first_mistake,
    save_model,
)
from mrsi_engine.networks.quantifier import normalise
from mrsi_engine.networks.recipe_files import RecipeFile, SignalAxis
from mrsi_engine.networks.training import (
    Encode,
    Task,
    TrainingProgress,
    TrainingSettings,
    check_unused,
    member_folder,
    seeded_encoder,
    train,
)
from mrsi_engine.nuclei import nucleus

TEMPLATE = "template"

#: Samples (s) that count for the template, signals it is averaged from, signals of the scores.
_TEMPLATE_SECONDS, _AVERAGED, _SCORED = 0.32, 512, 4096


class FpcInput(BaseModel):
    """What the encoder sees of a FID.

    Parameters
    ----------
    points
        Samples, from the first.
    window_ppm
        Of their spectrum, only this; all of the FID itself if not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    points: PositiveInt = 512
    window_ppm: Ppm | None = None

    def band(self, acquisition: Acquisition) -> Band | None:
        """Bins of the window.

        Raises
        ------
        InputError
            If the window leaves the spectrum or holds too few points.
        """
        if self.window_ppm is None:
            return None
        low, high = hertz_between(acquisition, self.window_ppm)
        try:
            return Band.between(self.points, acquisition.dwell_time, low, high)
        except ValueError as error:
            raise InputError(f"input: window_ppm = {list(self.window_ppm)}: {error}") from error

    def size(self, acquisition: Acquisition) -> int:
        """Complex numbers a signal that the encoder sees."""
        band = self.band(acquisition)
        return self.points if band is None else band.bins


class FpcRecipe(RecipeFile):
    """Everything that makes a model but the basis, where one is needed.

    Parameters
    ----------
    axis
        Of signals simulated from a basis.
    input, encoder, decoder, simulation
        See their classes.
    """

    kind: ClassVar[str] = "fpc"

    axis: SignalAxis = SignalAxis()
    input: FpcInput = FpcInput()
    noise_split: NonNegativeFloat = 0.0
    encoder: EncoderSettings = ConvSettings(channels=(16, 24, 32, 40, 48, 56))
    decoder: FpcDecoderSettings
    simulation: FpcSimulationSettings

    @property
    def needs_basis(self) -> bool:
        """Whether its signals are simulated from a basis."""
        return isinstance(self.simulation, MixtureSettings)


@dataclass(frozen=True, eq=False)
class Corrector:
    """A model ready to say where signals stand, on a device; make it once, use it for blocks."""

    model: Model
    decoder: FpcDecoder
    seen: FpcInput
    band: Band | None

    @classmethod
    def of(cls, model: Model, device: str | torch.device = "cpu") -> Corrector:
        """Of a loaded model.

        Raises
        ------
        InputError
            If the model is not for frequency and phase correction, or its card is wrong.
        """
        card = model.card
        if card.kind != "fpc":
            raise InputError(f"{model.source}: kind is {card.kind!r}, expected a model for 'fpc'")
        try:
            decoder = dict(card.decoder)
            seen = FpcInput.model_validate(decoder.pop("input", None))
            settings = FpcDecoderSettings.model_validate(decoder)
        except ValidationError as error:
            raise InputError(f"{model.source}: decoder: {first_mistake(error)}") from error
        here, axis = model.to(device), card.axis.acquisition
        ready = make_fpc_decoder(settings, axis, here.tensors[TEMPLATE], device)
        return cls(here, ready, seen, seen.band(axis))

    @torch.inference_mode()
    def predict(self, fids: Tensor | NDArray[Any], batch: int = 1024) -> tuple[Tensor, Tensor]:
        """Shift (Hz) and phase (rad) of ``fids (signal, time)``, ``(signal,)`` float32 each.

        NaN where a signal is not finite. But for rounding, a signal's numbers do not depend on the
        others of its batch.
        """
        signals = torch.as_tensor(fids, dtype=torch.complex64)
        if len(signals) == 0:
            # Transforms of the CPU take no empty batch.
            return signals.real.new_zeros(0), signals.real.new_zeros(0)
        parts = [self._predict(part) for part in signals.split(batch)]
        shift, phase = (torch.cat(column) for column in zip(*parts, strict=True))
        return shift, phase

    def _predict(self, signals: Tensor) -> tuple[Tensor, Tensor]:
        signals = signals.to(self.model.tensors[TEMPLATE].device)
        outputs = self.model.encoder(encoder_input(signals, self.seen, self.band))
        decoded = self.decoder.decode(outputs, signals)
        return decoded.shift.float(), decoded.phase.float()


def encoder_input(signals: Tensor, seen: FpcInput, band: Band | None) -> Tensor:
    """What an encoder sees of ``signals (signal, time)``, normalised."""
    head = signals[:, : seen.points]
    head = head if band is None else band.crop(head)
    return normalise(head, head.shape[1])[0]


def train_for_user(recipe: FpcRecipe, given: Given) -> tuple[Model, TrainingProgress]:
    """Train by a recipe on what a user named.

    Raises
    ------
    InputError
        If recipe, basis and folder do not go together, or a scan or model to begin with is given.
    """
    for option, name in (("--scan", given.scan and given.scan.name), ("--start", given.start)):
        if name is not None:
            raise InputError(
                f"{name}: recipe {recipe.name} is for frequency and phase correction, which is "
                f"learned from simulated signals and from the beginning; leave out {option}"
            )
    return train_fpc(
        recipe,
        _source(recipe, given.basis),
        given.folder,
        resume=given.resume,
        device=given.device,
        on_point=given.on_point,
    )


def _source(recipe: FpcRecipe, basis: GivenBasis | None) -> Source:
    settings = recipe.simulation
    if not isinstance(settings, MixtureSettings):
        if basis is not None:
            raise InputError(
                f"recipe {recipe.name}: simulates a spectrum of its own; leave out --basis"
            )
        return TransientSource(settings)
    if basis is None:
        raise InputError(
            f"recipe {recipe.name}: simulates signals from a basis; give it with --basis"
        )
    return MixtureSource(settings, basis.on(recipe.axis.of(basis.own_axis())))


def train_fpc(
    recipe: FpcRecipe,
    source: Source,
    folder: Path,
    *,
    resume: bool = False,
    device: str | torch.device = "cpu",
    on_point: Callable[[TrainingProgress], None] | None = None,
) -> tuple[Model, TrainingProgress]:
    """Train a model and write its folder.

    What signals were simulated from is never looked at but for the scores, on signals of their own.
    The template is the mean of signals that were aligned by classical registration.

    Parameters
    ----------
    recipe, source
        What to train, and on what.
    folder
        New or empty, or of the training that is to go on.
    resume
        Go on from the folder's checkpoint.
    device, on_point
        Where; and what is told of the progress.

    Raises
    ------
    InputError
        If recipe, signals or folder do not go together.
    RunError
        If the training diverges.
    """
    check_unused(folder, resume)
    template = averaged(source, recipe.training.seed_of(-1))
    decoder = make_fpc_decoder(recipe.decoder, source.acquisition, template, device)
    size = recipe.input.size(source.acquisition)
    encoder = seeded_encoder(recipe.encoder, size, recipe.decoder.outputs, recipe.training.seed)
    task, own = _task(recipe, decoder, source, device), member_folder(folder, 0)
    progress = train(
        encoder.to(device), task, recipe.training, folder=own, resume=resume, on_point=on_point
    )
    card = _card(recipe, source, progress, str(device))
    model = Model(card, encoder, {TEMPLATE: template}, str(folder))
    model = _scored(model, source, recipe.training, device)
    save_model(folder, model)
    shutil.rmtree(own)
    return model, progress


def averaged(source: Source, seed: int) -> Tensor:
    """A template ``(time,)`` complex64 made of signals alone, its creatine at its place."""
    axis = source.acquisition
    made = source.draw(_AVERAGED, seed)
    points = min(axis.points, round(_TEMPLATE_SECONDS / axis.dwell_time))
    lines = nucleus(axis.nucleus).alignment_for("frequency and phase correction")
    window = hertz_between(axis, lines.template)
    projection = Projection.build(points, axis.dwell_time, window, 2)
    pick = Band.between(axis.points, axis.dwell_time, *hertz_between(axis, lines.pick))
    limit = 2 * max(abs(v) for v in source.ranges["shift"]) + 10
    noise = made.noise_sd.double()
    template, _ = averaged_template(made.fids, noise, projection, pick, Solver(limit))
    line = CreatineReferencing.build(axis)
    found = reference_to_creatine(line, template[None], noise[:1] / len(noise) ** 0.5, limit)
    return corrected(template[None], axis.dwell_time, found.shift, found.phase)[0]


@dataclass(frozen=True)
class Pair:
    """The same signals ``(signal, time)`` twice: what the encoder sees and what the loss compares.

    With noise that is independent where a recipe asks for it.
    """

    seen: Tensor
    compared: Tensor

    def to(self, device: str | torch.device) -> Pair:
        """The same on a device."""
        return Pair(self.seen.to(device), self.compared.to(device))


def _task(
    recipe: FpcRecipe, decoder: FpcDecoder, source: Source, device: str | torch.device
) -> Task[Pair]:
    seen, band = recipe.input, recipe.input.band(source.acquisition)
    points = max(seen.points, recipe.decoder.points)

    def loss(encode: Encode, pair: Pair) -> Tensor:
        outputs = encode(encoder_input(pair.seen, seen, band))
        compared, _ = normalise(pair.compared, recipe.decoder.points)
        return decoder.loss(decoder.decode(outputs, compared), compared)

    def draw(count: int, seed: int) -> Pair:
        return split(source.draw(count, seed, points), recipe.noise_split, seed).to(device)

    training = recipe.training
    identity = {"recipe": recipe.model_dump(mode="json", exclude={"training"})}
    return Task(draw, draw(training.validation, training.seed_of(-1)), loss, identity)


def split(signals: Transients, share: float, seed: int) -> Pair:
    """Signals twice, with independent noise; see ``noise_split`` of :class:`FpcRecipe`."""
    if share == 0:
        return Pair(signals.fids, signals.fids)
    # Another stream than that of the signals, whose noise it must not be.
    chance = torch.Generator().manual_seed(seed + 2_000_000_011)
    parts = torch.randn((*signals.fids.shape, 2), generator=chance)
    noise = torch.view_as_complex(parts) * signals.noise_sd.float()[:, None]
    return Pair(signals.fids + share * noise, signals.fids - noise / share)


def _card(recipe: FpcRecipe, source: Source, progress: TrainingProgress, device: str) -> Card:
    training = TrainingCard(
        data="simulated",
        steps=progress.step,
        signals=progress.step * recipe.training.batch,
        seed=recipe.training.seed,
        seconds=round(progress.seconds, 1),
        device=device,
        curve=[(p.step, p.training, p.validation) for p in progress.curve],
    )
    settings = recipe.model_dump(mode="json")
    return Card(
        kind="fpc",
        name=recipe.name,
        encoder=recipe.encoder,
        input_points=recipe.input.size(source.acquisition),
        outputs=recipe.decoder.outputs,
        decoder={**settings["decoder"], "input": settings["input"]},
        axis=Axis.of(source.acquisition),
        ranges=source.ranges,
        training=training,
        recipe=settings,
    )


def _scored(
    model: Model, source: Source, training: TrainingSettings, device: str | torch.device
) -> Model:
    """The model with its errors on signals that neither training nor choice saw."""
    corrector = Corrector.of(model, device)
    points = max(corrector.seen.points, corrector.decoder.settings.points)
    made = source.draw(_SCORED, training.seed_of(-2), points)
    shift, phase = (found.cpu() for found in corrector.predict(made.fids))
    error = {"shift": shift - made.shift, "phase": wrapped(phase - made.phase.to(phase))}
    scores = {f"sd {name}": e.std().item() for name, e in error.items()}
    scores |= {f"bias {name}": e.mean().item() for name, e in error.items()}
    scores |= {f"median error {name}": e.abs().median().item() for name, e in error.items()}
    rounded = {name: float(f"{value:.4g}") for name, value in scores.items()}
    card = model.card.model_copy(update={"scores": rounded})
    return replace(model, card=card)


KIND = NetworkKind("fpc", FpcRecipe, train_for_user, Corrector.of)
