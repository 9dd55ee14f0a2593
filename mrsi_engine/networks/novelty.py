"""How unlike those of training a signal is: its power, band by band.

The squared Mahalanobis distance (Lee et al., NeurIPS 2018, section 2) of the logarithms of a
spectrum's power in coarse bands, where training signals are strongest. Not of the encoder's
features, as there: an encoder that was taught shift and phase hardly sees a lipid, and on simulated
brain spectra its features told 0 % of those with lipids of ten times NAA's height and 27 % of those
shifted by 40 Hz, power 36 % and 68 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

#: Bins of the spectrum in a band, and bands that are looked at.
_BINS, _BANDS = 4, 32

#: Spread of a band that is told from none, as a share of the mean variance.
_LEAST_SPREAD = 1e-4

#: Share of training signals that count as novel.
_RARE = 1e-3


@dataclass(frozen=True, eq=False)
class Novelty:
    """A measure of novelty, 1 for what one in a thousand training signals exceeds.

    ``bands (band,)`` int64 number the strongest bands; ``mean (band,)`` and the whitening matrix
    ``root (band, band)`` float32 are of the logarithms of their power.
    """

    bands: Tensor
    mean: Tensor
    root: Tensor

    @classmethod
    def learn(cls, known: Tensor, others: Tensor) -> Novelty:
        """From normalised training signals, and others of the same kind that set the scale.

        Both are ``(signal, time)``, cut to the points that the encoder looks at.
        """
        bands = _power(known).mean(0).argsort(descending=True)[:_BANDS].sort().values
        features = _power(known)[:, bands].log().double()
        size, directions = torch.linalg.eigh(torch.cov(features.T))
        root = directions / (size.clamp_min(0) + _LEAST_SPREAD * size.mean()).sqrt()
        unscaled = cls(bands, features.mean(0).float(), root.float())
        limit = unscaled.score(others).quantile(1 - _RARE)
        return cls(bands, unscaled.mean, unscaled.root / limit.sqrt())

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Novelty:
        """As :attr:`tensors` gave it.

        Raises
        ------
        KeyError
            If they are of a model without one.
        """
        return cls(*(tensors[f"novelty_{name}"] for name in ("bands", "mean", "root")))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What a model keeps of it."""
        found = {"bands": self.bands, "mean": self.mean, "root": self.root}
        return {f"novelty_{name}": tensor for name, tensor in found.items()}

    def score(self, signals: Tensor) -> Tensor:
        """Of normalised ``signals (signal, time)``, ``(signal,)``; above 1 is unlike training."""
        features = _power(signals)[:, self.bands].log()
        return ((features - self.mean) @ self.root).square().sum(1)


def _power(signals: Tensor) -> Tensor:
    """Mean power of bands of the spectrum of ``signals (signal, time)``, ``(signal, band)``."""
    spectra = torch.view_as_real(torch.fft.fft(signals, norm="ortho"))
    bins = spectra.square().sum(2)
    whole = bins[:, : bins.shape[1] // _BINS * _BINS]
    return whole.unflatten(1, (-1, _BINS)).mean(2)
