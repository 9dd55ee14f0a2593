from __future__ import annotations

import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.networks.encoders import (
    ConvNextSettings,
    ConvSettings,
    DenseSettings,
    Encoder,
    EncoderSettings,
    MixerSettings,
)

KINDS = (ConvSettings(), DenseSettings(), MixerSettings(), ConvNextSettings())


def test_the_convolutional_encoder_has_the_published_size() -> None:
    encoder = Encoder(ConvSettings(), 1024, 23)
    assert sum(p.numel() for p in encoder.parameters()) == 49_543


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: s.kind)
def test_every_weight_learns_and_later_points_do_not_matter(settings: EncoderSettings) -> None:
    torch.manual_seed(0)
    encoder = Encoder(settings, 1024, 5)
    signals = torch.randn(3, 1100, dtype=torch.complex64)
    outputs = encoder(signals)
    assert outputs.shape == (3, 5)
    torch.testing.assert_close(encoder(signals[:, :1024]), outputs)
    assert not torch.allclose(encoder(signals.conj()), outputs)
    outputs.square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.any(), name


@pytest.mark.parametrize("settings", [ConvSettings(), MixerSettings(), ConvNextSettings()])
def test_too_few_points_are_refused(settings: EncoderSettings) -> None:
    with pytest.raises(InputError, match=f"encoder {settings.kind}.*8 points"):
        Encoder(settings, 8, 3)
