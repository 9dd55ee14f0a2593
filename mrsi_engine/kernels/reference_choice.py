"""One signal as reference, chosen by k-means: how the published deep spectral registration does it.

Shamaei et al., Magn Reson Med 2023;89:1221: two clusters of magnitude FIDs, of which the one
that starts lower holds the signals without water and lipids; in it the signal of the highest SNR.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.kernels.band import Band

#: First samples whose mean tells the cluster without nuisances.
_FIRST_SAMPLES = 10

#: Last samples that are noise.
_NOISE_SAMPLES = 256


@dataclass(frozen=True)
class Clusters:
    """``centres (cluster, feature)`` float32 and ``label (signal,)`` int64."""

    centres: Tensor
    label: Tensor


def k_means(
    features: Tensor, clusters: int = 2, seed: int = 0, restarts: int = 5, max_iterations: int = 100
) -> Clusters:
    """Lloyd's algorithm from k-means++ starts (Arthur & Vassilvitskii, SODA 2007:1027).

    Parameters
    ----------
    features
        ``(signal, feature)`` float32, finite.
    clusters
        Their number, at most the number of signals.
    seed
        Of the starts.
    restarts, max_iterations
        The restart with the smallest sum of squared distances is kept.
    """
    generator = torch.Generator().manual_seed(seed)
    best, best_cost = None, float("inf")
    for _ in range(restarts):
        found = _lloyd(features, _spread_start(features, clusters, generator), max_iterations)
        cost = float((features - found.centres[found.label]).square().sum())
        if best is None or cost < best_cost:
            best, best_cost = found, cost
    assert best is not None
    return best


def choose_reference(fids: Tensor, band: Band, seed: int = 0) -> int:
    """Number of the signal that serves as reference; 0 where no signal is finite and not zero.

    Parameters
    ----------
    fids
        ``(signal, time)`` complex64.
    band
        Where the tallest peak is looked for (2.5-4.0 ppm in the publication).
    seed
        Of the clustering.
    """
    size = fids.abs().amax(1)
    usable = (torch.isfinite(size) & (size > 0)).nonzero().squeeze(1)
    if len(usable) < 2:
        return int(usable[0]) if len(usable) else 0
    signals = fids[usable] / size[usable, None]
    found = k_means(signals.abs(), seed=seed)
    clean = found.centres[:, :_FIRST_SAMPLES].mean(1).argmin()
    height = band.crop(signals[:, : band.points]).abs().amax(1)
    snr = height / signals[:, -_NOISE_SAMPLES:].real.std(1)
    return int(usable[torch.where(found.label == clean, snr, -torch.inf).argmax()])


def _spread_start(features: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    first = int(torch.randint(len(features), (1,), generator=generator))
    centres = features[first : first + 1]
    for _ in range(clusters - 1):
        distance = torch.cdist(features, centres).amin(1).square().double().cpu()
        # Equal signals leave no distance to draw by: any will do then.
        chosen = int(torch.multinomial(distance + 1e-300, 1, generator=generator))
        centres = torch.cat([centres, features[chosen : chosen + 1]])
    return centres


def _lloyd(features: Tensor, centres: Tensor, max_iterations: int) -> Clusters:
    label = torch.cdist(features, centres).argmin(1)
    for _ in range(max_iterations):
        member = torch.nn.functional.one_hot(label, len(centres)).to(features.dtype)
        count = member.sum(0)[:, None]
        centres = torch.where(count > 0, member.T @ features / count.clamp_min(1), centres)
        moved = torch.cdist(features, centres).argmin(1)
        if bool((moved == label).all()):
            break
        label = moved
    return Clusters(centres, label)
