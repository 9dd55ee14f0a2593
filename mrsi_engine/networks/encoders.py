"""Encoders: complex signals in, a few numbers a signal out. What those mean, decoders say.

``conv`` is the small convolutional encoder of Shamaei et al. (Comput Biol Med 2023;158:106837),
``dense`` fully connected, ``mixer`` an MLP-Mixer (Tolstikhin et al., NeurIPS 2021) and
``convnext`` a ConvNeXt (Liu et al., CVPR 2022), both in one dimension. Real and imaginary part are
two channels. Sizes are settings; the defaults run on a CPU.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from mrsi_engine.errors import InputError

_CHANNELS = 2


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConvSettings(_Settings):
    """Strided convolutions; the defaults are the published ones for 1024 points (49 543 weights).

    Every layer halves the length; the first has ``first_kernel``, the others ``kernel``.
    """

    kind: Literal["conv"] = "conv"
    channels: tuple[PositiveInt, ...] = (16, 24, 32, 40, 48, 56, 64, 72)
    first_kernel: PositiveInt = 5
    kernel: PositiveInt = 3


class DenseSettings(_Settings):
    """Fully connected layers; published: 768, 512, 256."""

    kind: Literal["dense"] = "dense"
    widths: tuple[PositiveInt, ...] = (256, 128, 64)


class MixerSettings(_Settings):
    """MLP-Mixer; published: patch 16, width 512, depth 8, token 256, channel 2048."""

    kind: Literal["mixer"] = "mixer"
    patch: PositiveInt = 16
    width: PositiveInt = 64
    depth: PositiveInt = 2
    token: PositiveInt = 64
    channel: PositiveInt = 128


class ConvNextSettings(_Settings):
    """ConvNeXt; published: depths 3, 3, 9, 3 and widths 96 to 768. Every stage is 4 times shorter.

    ``kernel`` is odd, so that a block keeps the length.
    """

    kind: Literal["convnext"] = "convnext"
    depths: tuple[PositiveInt, ...] = (1, 1, 2, 1)
    widths: tuple[PositiveInt, ...] = (16, 32, 48, 64)
    kernel: PositiveInt = 7


EncoderSettings = Annotated[
    ConvSettings | DenseSettings | MixerSettings | ConvNextSettings, Field(discriminator="kind")
]


class Encoder(nn.Module):
    """``outputs`` numbers of each complex signal.

    Parameters
    ----------
    settings
        Architecture and sizes.
    points
        Samples it looks at, from the first; further ones are ignored.
    outputs
        Numbers a signal.

    Raises
    ------
    InputError
        If the architecture does not fit so few points.
    """

    def __init__(self, settings: EncoderSettings, points: int, outputs: int) -> None:
        super().__init__()
        self.settings, self.points, self.outputs = settings, points, outputs
        self.body = _body(settings, points)
        with torch.no_grad():
            features = self.body(torch.zeros(1, _CHANNELS, points)).shape[1]
        self.head = nn.Linear(features, outputs)

    def forward(self, signals: Tensor) -> Tensor:
        """Of complex ``(signal, time)``: ``(signal, outputs)`` float32."""
        used = signals[:, : self.points].resolve_conj()
        parts = torch.view_as_real(used).transpose(1, 2)
        outputs: Tensor = self.head(self.body(parts.float()))
        return outputs.float()


def _body(settings: EncoderSettings, points: int) -> nn.Module:
    """``(signal, channel, time)`` to ``(signal, feature)``."""
    match settings:
        case ConvSettings():
            return _conv(settings, points)
        case DenseSettings():
            return _dense(settings, points)
        case MixerSettings():
            return _mixer(settings, points)
        case ConvNextSettings():
            return _convnext(settings, points)


def _conv(settings: ConvSettings, points: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before, length, kernel = _CHANNELS, points, settings.first_kernel
    for channels in settings.channels:
        _require(length >= kernel, settings, points)
        layers += [nn.Conv1d(before, channels, kernel, stride=2), nn.GELU()]
        length = (length - kernel) // 2 + 1
        before, kernel = channels, settings.kernel
    return nn.Sequential(*layers, nn.Flatten())


def _dense(settings: DenseSettings, points: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    before = _CHANNELS * points
    for width in settings.widths:
        layers += [nn.Linear(before, width), nn.GELU()]
        before = width
    return nn.Sequential(*layers)


def _mixer(settings: MixerSettings, points: int) -> nn.Sequential:
    patches = points // settings.patch
    _require(patches >= 1, settings, points)
    return nn.Sequential(
        nn.Conv1d(_CHANNELS, settings.width, settings.patch, stride=settings.patch),
        _Transpose(),
        *(_MixerBlock(settings, patches) for _ in range(settings.depth)),
        nn.LayerNorm(settings.width),
        _Mean(),
    )


def _convnext(settings: ConvNextSettings, points: int) -> nn.Sequential:
    _require(len(settings.depths) == len(settings.widths), settings, points)
    _require(settings.kernel % 2 == 1, settings, points)
    _require(points >= 4 ** len(settings.widths), settings, points)
    layers: list[nn.Module] = [nn.Conv1d(_CHANNELS, settings.widths[0], 4, stride=4), _Transpose()]
    before = 0
    for depth, width in zip(settings.depths, settings.widths, strict=True):
        if before:
            shorter = nn.Conv1d(before, width, 4, stride=4)
            layers += [nn.LayerNorm(before), _Transpose(), shorter, _Transpose()]
        layers += [_ConvNextBlock(width, settings.kernel) for _ in range(depth)]
        before = width
    return nn.Sequential(*layers, nn.LayerNorm(before), _Mean())


def _require(fits: bool, settings: EncoderSettings, points: int) -> None:
    if not fits:
        raise InputError(
            f"encoder {settings.kind}: {settings} does not fit {points} points; "
            "take fewer or smaller layers"
        )


class _Transpose(nn.Module):
    """Between ``(signal, channel, position)`` and ``(signal, position, channel)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class _Mean(nn.Module):
    """Over positions of ``(signal, position, channel)``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class _MixerBlock(nn.Module):
    """Mixes positions, then channels, of ``(signal, position, channel)``."""

    def __init__(self, settings: MixerSettings, patches: int) -> None:
        super().__init__()
        width = settings.width
        self.positions = nn.Sequential(
            nn.LayerNorm(width), _Transpose(), *_mlp(patches, settings.token), _Transpose()
        )
        self.channels = nn.Sequential(nn.LayerNorm(width), *_mlp(width, settings.channel))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions(x)
        return x + self.channels(x)


class _ConvNextBlock(nn.Module):
    """Depthwise convolution, then an MLP over channels, of ``(signal, position, channel)``."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.layers = nn.Sequential(
            _Transpose(), depthwise, _Transpose(), nn.LayerNorm(width), *_mlp(width, 4 * width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _mlp(size: int, hidden: int) -> tuple[nn.Module, ...]:
    return nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size)
