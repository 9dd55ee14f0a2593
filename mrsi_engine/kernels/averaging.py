"""Average of repeated transients without those unlike the others.

Each transient is compared with the median of all over the start of the FID, where the signal is:
similarity is the normalised inner product, 1 for the same signal with the same phase. Outliers
are told by the modified z-score of Iglewicz & Hoaglin (How to detect and handle outliers, 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Modified z-score of an outlier, its constant, and the fewest transients that can be judged.
_OUTLIER, _SCORE, _FEWEST = 3.5, 0.6745, 4

#: Spread of the similarity that is never an outlier: identical transients have none.
_SMALLEST_SPREAD = 1e-3


@dataclass(frozen=True)
class Averaged:
    """``fids`` ``(voxel, time)`` complex64; ``similarity``, ``weights`` ``(voxel, transient)``.

    Similarities are float32, -1 to 1, NaN for a transient with NaN, Inf or only zeros; weights
    float32 sum to 1, or are all 0 where no transient was usable.
    """

    fids: Tensor
    similarity: Tensor
    weights: Tensor


def average(transients: Tensor, compared: int | None = None, reject: bool = True) -> Averaged:
    """Mean of the transients that are like the others.

    Align them first: a transient with another frequency or phase is an outlier here.

    Parameters
    ----------
    transients
        ``(voxel, transient, time)`` complex.
    compared
        Samples from the start over which they are compared; a quarter of the FID if not given.
    reject
        Leave outliers out. Fewer than four usable transients are never rejected.
    """
    usable = torch.isfinite(transients.abs()).all(2) & (transients != 0).any(2)
    safe = torch.where(usable[:, :, None], transients, 0).to(torch.complex128)
    start = safe[:, :, : compared or max(1, transients.shape[2] // 4)]
    similarity = _similarity(start, usable)
    kept = usable & ~_outliers(similarity, usable) if reject else usable
    weights = kept / kept.sum(1, keepdim=True).clamp_min(1)
    mean = torch.einsum("vk,vkt->vt", weights.to(safe.dtype), safe).to(torch.complex64)
    return Averaged(mean, similarity.float(), weights.float())


def _similarity(start: Tensor, usable: Tensor) -> Tensor:
    middle = torch.complex(_median(start.real, usable), _median(start.imag, usable))
    product = (middle[:, None].conj() * start).sum(2).real
    lengths = (
        torch.linalg.vector_norm(start, dim=2) * torch.linalg.vector_norm(middle, dim=1)[:, None]
    )
    return torch.where(usable & (lengths > 0), product / lengths, torch.nan)


def _median(values: Tensor, usable: Tensor) -> Tensor:
    """Of the usable transients, ``(voxel, time)``; 0 where there is none."""
    return torch.where(usable[:, :, None], values, torch.nan).nanmedian(1).values.nan_to_num(0.0)


def _outliers(similarity: Tensor, usable: Tensor) -> Tensor:
    """Which transients are far less similar than most, ``(voxel, transient)``."""
    middle = similarity.nanmedian(1, keepdim=True).values
    spread = (similarity - middle).abs().nanmedian(1, keepdim=True).values
    score = _SCORE * (middle - similarity) / spread.clamp_min(_SMALLEST_SPREAD)
    return (score > _OUTLIER) & (usable.sum(1, keepdim=True) >= _FEWEST)
