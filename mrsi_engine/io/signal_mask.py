"""A mask for scans that come without one, from the energy of their FIDs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Share of the variance of log energy that two classes must explain before they are believed: an
#: even spread gives 0.75, one normal distribution 0.64, noise beside a head more than 0.85.
SEPARATION = 0.8

#: Ratio of mean (geometric) energies below which two classes are not head and noise.
CONTRAST = 2.0


def signal_mask(energy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Voxels with signal: Otsu's threshold on the logarithm of FID energy.

    Noise-only voxels share one energy while those with water or metabolites lie orders of magnitude
    above, so the logarithm is split where the variance between both classes is greatest (Otsu, IEEE
    Trans Syst Man Cybern 1979;9:62). A split that explains less than :data:`SEPARATION` of the
    variance, or whose classes differ by less than :data:`CONTRAST`, is no split: every voxel with
    finite, positive energy then counts as signal.

    Parameters
    ----------
    energy
        Sum over time of the squared magnitude, any shape; NaN, Inf and 0 are never signal.
    """
    usable = np.isfinite(energy) & (energy > 0)
    if not usable.any():
        return usable
    logarithm = np.log10(energy, where=usable, out=np.full(energy.shape, -np.inf))
    return logarithm > _otsu(np.sort(logarithm[usable]))


def _otsu(values: NDArray[np.float64]) -> float:
    """The best threshold between ascending values, minus infinity if none separates them."""
    if values[-1] - values[0] < np.log10(CONTRAST):
        return -np.inf
    below = np.arange(1, len(values))
    above = len(values) - below
    sums = np.cumsum(values)
    distance = (sums[-1] - sums[:-1]) / above - sums[:-1] / below
    explained = below * above / len(values) ** 2 * distance**2 / values.var()
    best = int(explained.argmax())
    if explained[best] < SEPARATION or distance[best] < np.log10(CONTRAST):
        return -np.inf
    return float(values[best : best + 2].mean())
