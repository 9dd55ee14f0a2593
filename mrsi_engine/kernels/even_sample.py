"""A few signals spread evenly over a scan, the same ones whatever blocks it is read in.

Every signal has a rank that depends on its place only, the fraction of a sum of its coordinates
times irrational numbers (Kronecker sequence of the generalised golden ratio: Roberts, "The
unreasonable effectiveness of quasirandom sequences", 2018). Places of low rank lie evenly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Powers of the inverse of the solution of ``x^5 = x + 1``.
_STEPS = tuple(1.1673039782614187**-k for k in (1, 2, 3, 4))


@dataclass(frozen=True)
class EvenSample:
    """``fids (signal, time)``, ``noise_sd (signal,)``, ``place (signal, 4)`` and ``rank``."""

    fids: Tensor
    noise_sd: Tensor
    place: Tensor
    rank: Tensor

    def first(self, count: int) -> EvenSample:
        """Those of lowest rank, in order of rank."""
        return self._chosen(self.rank.argsort()[:count])

    def by_place(self) -> EvenSample:
        """By z, then y, x and transient; ``place`` is (x, y, z, transient)."""
        order = torch.arange(len(self.rank), device=self.rank.device)
        for axis in (3, 0, 1, 2):
            order = order[self.place[order, axis].argsort(stable=True)]
        return self._chosen(order)

    def _chosen(self, which: Tensor) -> EvenSample:
        return EvenSample(
            self.fids[which], self.noise_sd[which], self.place[which], self.rank[which]
        )


def sample_evenly(fids: Tensor, noise_sd: Tensor, place: Tensor, count: int) -> EvenSample:
    """Up to ``count`` signals of a block.

    Parameters
    ----------
    fids, noise_sd
        ``(signal, time)`` complex64 and ``(signal,)``.
    place
        ``(signal, 4)`` integers that tell the signals of a scan apart.
    """
    rank = _rank(place)
    kept = rank.argsort()[:count]
    return EvenSample(fids[kept], noise_sd[kept], place[kept], rank[kept])


def combine_samples(first: EvenSample, second: EvenSample, count: int) -> EvenSample:
    """One sample of both."""
    both = EvenSample(
        torch.cat([first.fids, second.fids]),
        torch.cat([first.noise_sd, second.noise_sd]),
        torch.cat([first.place, second.place]),
        torch.cat([first.rank, second.rank]),
    )
    return both.first(count)


def _rank(place: Tensor) -> Tensor:
    steps = torch.tensor(_STEPS, dtype=torch.float64, device=place.device)
    return torch.frac(place.to(torch.float64) @ steps)
