"""A trained model is a folder: ``weights.safetensors`` and ``card.json``, which says what it is.

The folder is complete: what a decoder needs beside the encoder's weights (basis columns, a
template) is in the weights file as well. Nothing is ever unpickled.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.networks.encoders import Encoder, EncoderSettings
from mrsi_engine.networks.kind_names import known_kind
from mrsi_engine.spectra.basis import Basis

#: Tensors of a quantification model that are no weights: the basis columns it was trained with.
COLUMNS = "columns"

#: The folder of trained models inside the package.
_SHIPPED = Path(__file__).parent / "models"

#: How folders begin that hold the checkpoints of an unfinished training.
CHECKPOINTS = "member"

#: The report of its training, in the model's folder.
REPORT = "report.html"

_CARD, _WEIGHTS = "card.json", "weights.safetensors"

#: Largest relative difference of frequencies (Hz axis) and of basis columns (norm). A basis that
#: is simulated on another machine differs by rounding, so its fingerprint alone would not do.
_SAME_FREQUENCY, _SAME_COLUMN, _SAME_START = 1e-3, 1e-3, 1e-2


def _absolute(source: str) -> str:
    """A folder as workers find it, wherever they were started; names stay names."""
    return str(Path(source).resolve()) if source and Path(source).is_dir() else source


#: A setting that says a model by folder or name.
ModelSource = Annotated[str, AfterValidator(_absolute)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Axis(_Part):
    """The axis of the signals a model was trained on; fields as :class:`Acquisition` has them."""

    points: PositiveInt
    dwell_time: PositiveFloat
    spectrometer_frequency: PositiveFloat
    reference_ppm: float = 4.65  # of cards from before it was stated; all were of protons
    nucleus: str = "1H"
    echo_time: float | None = None
    repetition_time: float | None = None
    start_time: NonNegativeFloat = 0.0

    @classmethod
    def of(cls, acquisition: Acquisition) -> Axis:
        """Of an acquisition."""
        return cls(**{name: getattr(acquisition, name) for name in cls.model_fields})

    @property
    def acquisition(self) -> Acquisition:
        """As the rest of the engine knows it."""
        return Acquisition(**self.model_dump())


class BasisCard(_Part):
    """The basis a model was trained with."""

    source: str
    fingerprint: str
    names: tuple[str, ...]


class TrainingCard(_Part):
    """How a model was trained.

    ``data`` is ``simulated`` or where real signals came from; ``start`` the model whose weights it
    began with, if it did not begin untrained, and the first of that model's checksum; ``seconds``
    were spent on ``device``; ``curve`` holds step, training loss and validation loss.
    """

    data: str
    steps: int
    signals: int
    seed: int
    seconds: float
    device: str
    start: str | None = None
    curve: list[tuple[int, float, float]] = []


class Calibration(_Part):
    """What makes the error bars of a network's own estimates true, measured on simulated signals.

    ``snr`` are the edges between bins of SNR; ``factors`` what errors are multiplied by in each
    bin, by the name of a parameter; ``coverage`` the share of 95 % intervals that then held the
    truth, on signals that the factors were not made from; ``signals`` are those of each step, and
    ``fit`` the settings of stage ``quantify`` that estimates were made with.
    """

    snr: tuple[float, ...]
    factors: dict[str, tuple[float, ...]]
    coverage: dict[str, tuple[float, ...]] = {}
    signals: int
    fit: dict[str, Any] = {}

    def at(self, names: Sequence[str], snr: Tensor) -> Tensor:
        """Factors ``(voxel, name)`` at ``snr (voxel,)``; 1 for names it has none of."""
        one = (1.0,) * (len(self.snr) + 1)
        table = snr.new_tensor([self.factors.get(name, one) for name in names])
        edges = snr.new_tensor(self.snr)
        return table.T[torch.bucketize(torch.nan_to_num(snr), edges)]


class Card(_Part):
    """What a model is, was trained on and is good for; the JSON file of its folder.

    ``decoder`` holds the settings of what reads the encoder's outputs, ``recipe`` all of the
    training, ``ranges`` the smallest and largest value of each parameter in training (in the
    parameter's unit), ``scores`` what was measured on signals that it had not seen; ``members``
    encoders make up the model, which differ by the seed they were trained from.
    """

    format_version: Literal[1] = 1
    kind: Annotated[str, AfterValidator(known_kind)]
    name: str
    encoder: EncoderSettings
    input_points: PositiveInt
    outputs: PositiveInt
    members: PositiveInt = 1
    decoder: dict[str, Any]
    axis: Axis
    basis: BasisCard | None = None
    ranges: dict[str, tuple[float, float]] = {}
    scores: dict[str, float] = {}
    calibration: Calibration | None = None
    training: TrainingCard | None = None
    recipe: dict[str, Any] = {}
    licence: str = "BSD-3-Clause"
    engine_version: str = version("mrsi-engine")


@dataclass(frozen=True, eq=False)
class Model:
    """A card, the encoders it describes, and tensors that a decoder needs beside them.

    Parameters
    ----------
    card
        What the model is.
    encoder
        In evaluation mode once loaded.
    tensors
        By name, e.g. ``columns (metabolite, time)`` complex64.
    source
        Folder it came from, for messages.
    others
        Further members of an ensemble.
    """

    card: Card
    encoder: Encoder
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    source: str = "model in memory"
    others: tuple[Encoder, ...] = ()

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        """All members."""
        return (self.encoder, *self.others)

    def to(self, device: str | torch.device) -> Model:
        """A copy of the model on a device; this one stays, as others may be using it."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        first, *others = (copy.deepcopy(member).to(device) for member in self.encoders)
        return replace(self, encoder=first, tensors=tensors, others=tuple(others))

    @property
    def checksum(self) -> str:
        """SHA-256 of all weights and tensors: what its predictions depend on."""
        found = hashlib.sha256()
        for name, tensor in sorted(_all_tensors(self).items()):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    @property
    def basis(self) -> Basis:
        """The basis it was trained with.

        Raises
        ------
        InputError
            If the model has none.
        """
        own = self.card.basis
        if own is None:
            raise InputError(f"{self.source}: a model of kind {self.card.kind!r} has no basis")
        fids = self.tensors[COLUMNS].cpu().numpy().astype(complex)
        return Basis(own.names, fids, self.card.axis.acquisition, source=own.source)

    def check_scan(self, acquisition: Acquisition, basis: Basis | None = None) -> Model:
        """This model, once it is known to be for signals like these.

        Parameters
        ----------
        acquisition
            Axis of the scan.
        basis
            On the scan's axis; models with a basis need it.

        Raises
        ------
        InputError
            If the axis or the basis is another: names what differs, found and expected.
        """
        for name, found, expected, same in self._axis_pairs(acquisition):
            if not same:
                raise InputError(
                    f"{self.source}: the model is for {name} {expected}, the scan has {found}; "
                    "take or train a model for this acquisition"
                )
        if self.card.basis is not None:
            self._check_basis(basis, self.card.basis)
        return self

    def suits(self, acquisition: Acquisition, basis: Basis | None = None) -> bool:
        """Whether :meth:`check_scan` would let this pass."""
        try:
            self.check_scan(acquisition, basis)
        except InputError:
            return False
        return True

    def _axis_pairs(self, scan: Acquisition) -> list[tuple[str, Any, Any, bool]]:
        own = self.card.axis
        tolerances = {
            "points": 0.0,
            "dwell_time": 1e-6,
            "spectrometer_frequency": _SAME_FREQUENCY,
            "reference_ppm": 1e-6,
        }
        pairs = [
            (
                n,
                getattr(scan, n),
                getattr(own, n),
                math.isclose(getattr(scan, n), getattr(own, n), rel_tol=t),
            )
            for n, t in tolerances.items()
        ]
        starts = (scan.start_time, own.start_time)
        same_start = math.isclose(*starts, abs_tol=_SAME_START * own.dwell_time)
        return [
            ("nucleus", scan.nucleus, own.nucleus, scan.nucleus == own.nucleus),
            *pairs,
            ("start_time", *starts, same_start),
        ]

    def _check_basis(self, basis: Basis | None, own: BasisCard) -> None:
        where = f"{self.source}: the model was trained with {own.source}"
        if basis is None:
            raise InputError(f"{where}; it needs that basis, none was given")
        if basis.names != own.names:
            apart = sorted(set(basis.names) ^ set(own.names))
            differs = f"differ in {apart}" if apart else "are in another order"
            raise InputError(
                f"{where}; its columns and those of {basis.source} {differs}. Train a model for "
                "this basis"
            )
        if basis.fingerprint != own.fingerprint:
            self._check_columns(basis, where)

    def _check_columns(self, basis: Basis, where: str) -> None:
        columns = self.tensors[COLUMNS].cpu().numpy()
        size = np.linalg.norm(columns, axis=1)
        difference = np.linalg.norm(basis.fids[:, : columns.shape[1]] - columns, axis=1) / size
        worst = int(difference.argmax())
        if not difference[worst] <= _SAME_COLUMN:
            raise InputError(
                f"{where}; {basis.names[worst]} of {basis.source} differs from it by "
                f"{100 * difference[worst]:.2g} % of its norm. Train a model for this basis"
            )


def save_model(folder: Path | str, model: Model) -> Path:
    """Write a model; the card comes last, so that a folder with one is complete.

    Raises
    ------
    InputError
        If the folder holds files that are not of a model.
    """
    folder = Path(folder)
    check_model_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.detach().cpu().contiguous() for n, t in _all_tensors(model).items()}
    temporary = folder / f".{_WEIGHTS}.partial"
    # Not save_file: what it writes, only its owner may read.
    temporary.write_bytes(save(tensors))
    os.replace(temporary, folder / _WEIGHTS)
    (folder / _CARD).write_text(model.card.model_dump_json(indent=2) + "\n")
    return folder


def check_model_folder(folder: Path) -> None:
    """See that a model may be written to a folder.

    Raises
    ------
    InputError
        If it is a file, or holds files that are neither a model's nor of its training.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; a model needs a folder")
    ours = (_CARD, _WEIGHTS, REPORT, CHECKPOINTS, ".")
    others = sorted(f.name for f in folder.glob("*") if not f.name.startswith(ours))
    if others:
        raise InputError(f"{folder}: holds {others}, which is no model's; give a new folder")


def shipped_models() -> list[str]:
    """Names that :func:`load_model` finds."""
    return sorted(folder.name for folder in _SHIPPED.iterdir() if is_model(folder))


def shipped_model_for(acquisition: Acquisition, basis: Basis) -> Model | None:
    """The shipped quantification model for a scan and a basis on its axis, if there is one."""
    for name in shipped_models():
        model = _shipped_model(name)
        if model.card.kind == "quantification" and model.suits(acquisition, basis):
            return model
    return None


@cache
def _shipped_model(name: str) -> Model:
    """Read once a process: unlike others, shipped models do not change."""
    return load_model(name)


def is_model(folder: Path) -> bool:
    """Whether a folder holds a complete model."""
    return (folder / _CARD).is_file()


def load_model(folder: Path | str, kind: str | None = None) -> Model:
    """A model from its folder, in evaluation mode on the CPU.

    Parameters
    ----------
    folder
        As :func:`save_model` wrote it, or the name of a shipped model.
    kind
        What it must be for; anything if not given.

    Raises
    ------
    InputError
        If a file is missing, the card has a wrong field (named), the weights do not belong to it,
        or it is of another kind.
    """
    shipped = not Path(folder).exists() and str(folder) in shipped_models()
    folder = _SHIPPED / folder if shipped else Path(folder)
    card = _read_card(folder / _CARD)
    if kind is not None and card.kind != kind:
        raise InputError(f"{folder}: kind is {card.kind!r}, expected a model for {kind!r}")
    stored = _read_tensors(folder / _WEIGHTS)
    first, *others = [_encoder(card, k, stored, folder / _WEIGHTS) for k in range(card.members)]
    tensors = {n: t for n, t in stored.items() if not n.startswith("encoder")}
    if card.basis is not None and COLUMNS not in tensors:
        raise InputError(f"{folder / _WEIGHTS}: no tensor {COLUMNS!r}; copy the model again")
    return Model(card, first, tensors, str(folder), tuple(others))


def _all_tensors(model: Model) -> dict[str, Tensor]:
    """Weights of all members and the other tensors, by their names in the file."""
    weights = {
        _prefix(k) + name: tensor
        for k, encoder in enumerate(model.encoders)
        for name, tensor in encoder.state_dict().items()
    }
    return {**weights, **model.tensors}


def _prefix(member: int) -> str:
    return f"encoder{member}."


def _encoder(card: Card, member: int, stored: Mapping[str, Tensor], path: Path) -> Encoder:
    encoder, prefix = Encoder(card.encoder, card.input_points, card.outputs), _prefix(member)
    weights = {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path}: does not belong to encoder {member} of {_CARD}: {error}"
        ) from error
    return encoder.eval()


def _read_card(path: Path) -> Card:
    try:
        return Card.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; {path.parent} is no model folder, and none of the shipped "
            f"models {shipped_models()}"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    except ValidationError as error:
        raise InputError(f"{path}: {first_mistake(error)}; copy the model again") from error


def first_mistake(error: ValidationError) -> str:
    """The first wrong field of a file: its name, what is wrong and what was found."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {first['input']!r}"


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); copy the model again") from error
