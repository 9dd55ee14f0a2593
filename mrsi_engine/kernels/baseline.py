"""A smooth complex baseline under a windowed spectrum, eliminated before anything is iterated.

Penalised B-splines (Eilers & Marx, Stat Sci 1996;11:89) for the real and the imaginary part. The
coefficients are linear, so at their best they turn the cost ``|r|^2`` into ``r' W r`` with
``W = I - B (B'B + P)^-1 B'``. Data and columns are multiplied by the root of ``W`` once and are
then fitted as if there were no baseline, but with its uncertainty in every normal matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from torch import Tensor


@dataclass(frozen=True)
class Baseline:
    """Orthonormal curves and how far each is fitted.

    ``curves (2 * bins, curve)`` float32, real and imaginary parts interleaved;
    ``fitted_share (curve,)`` float32 from 0 (not at all) to 1 (freely).
    """

    curves: Tensor
    fitted_share: Tensor

    @classmethod
    def none(cls, bins: int, device: torch.device) -> Baseline:
        """No baseline."""
        return cls(torch.zeros((2 * bins, 0), device=device), torch.zeros(0, device=device))

    @classmethod
    def splines(
        cls, bins: int, coefficients: int, stiffness: float, device: torch.device
    ) -> Baseline:
        """Cubic P-splines.

        Parameters
        ----------
        coefficients
            B-splines across the window, at least 4.
        stiffness
            Weight of the squared second differences of the coefficients, relative to the data:
            0 leaves the splines free, large values leave a straight line.
        """
        splines = _bsplines(bins, coefficients)
        differences = np.diff(np.eye(coefficients), n=2, axis=0)
        # A coefficient is supported by bins / coefficients bins: with that factor the same
        # stiffness means the same curve for any number of bins.
        penalty = stiffness * bins / coefficients * differences.T @ differences
        factor = np.linalg.cholesky(splines.T @ splines + penalty)
        curves, size, _ = np.linalg.svd(np.linalg.solve(factor, splines.T).T, full_matrices=False)
        both = np.zeros((bins, 2, coefficients, 2))
        both[:, 0, :, 0] = both[:, 1, :, 1] = curves
        columns = both.reshape(2 * bins, 2 * coefficients).astype(np.float32)
        share = np.repeat(np.minimum(size**2, 1.0), 2).astype(np.float32)
        return cls(torch.from_numpy(columns).to(device), torch.from_numpy(share).to(device))

    @property
    def degrees_of_freedom(self) -> float:
        """Effective number of real parameters the baseline takes from the data."""
        return float(self.fitted_share.sum())

    def remove(self, rows: Tensor) -> Tensor:
        """Rows ``(..., 2 * bins)`` times the root of ``W``."""
        if self.curves.shape[1] == 0:
            return rows
        curves = self.curves.to(rows.dtype)
        lost = 1 - (1 - self.fitted_share.to(rows.dtype)).sqrt()
        return rows - ((rows @ curves) * lost) @ curves.T

    def fitted(self, residual: Tensor) -> Tensor:
        """Baseline that fits a residual ``(..., 2 * bins)`` best, of the same shape."""
        return ((residual @ self.curves) * self.fitted_share) @ self.curves.T


def _bsplines(bins: int, coefficients: int) -> NDArray[np.float64]:
    inner = np.linspace(0.0, 1.0, coefficients - 2)
    step = inner[1] - inner[0]
    knots = np.concatenate(
        [inner[0] - step * np.arange(3, 0, -1), inner, inner[-1] + step * np.arange(1, 4)]
    )
    at = np.linspace(0.0, 1.0, bins) * (1 - 1e-12)
    return np.asarray(BSpline.design_matrix(at, knots, 3).toarray())
