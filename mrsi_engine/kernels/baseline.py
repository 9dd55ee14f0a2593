"""A smooth complex baseline under a windowed spectrum, eliminated before anything is iterated.

Penalised B-splines (Eilers & Marx, Stat Sci 1996;11:89), or a polynomial, for the real and the
imaginary part. The
coefficients are linear, so at their best they turn the cost ``|r|^2`` into ``r' W r`` with
``W = I - B (B'B + P)^-1 B'``. Data and columns are multiplied by the root of ``W`` once and are
then fitted as if there were no baseline, but with its uncertainty in every normal matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from torch import Tensor


@dataclass(frozen=True)
class Baseline:
    """Orthonormal curves and how far each is fitted.

    ``curves (2 * bins, curve)`` float32, real and imaginary parts interleaved;
    ``fitted_share (curve,)`` float32 from 0 (not at all) to 1 (freely); ``roughness (curve,)``
    float64, what a unit of stiffness takes from that: the share is ``1 / (1 + stiffness *
    roughness)``.
    """

    curves: Tensor
    fitted_share: Tensor
    roughness: Tensor

    @classmethod
    def none(cls, bins: int, device: torch.device) -> Baseline:
        """No baseline."""
        return cls._of(np.zeros((bins, 0)), np.zeros(0), 0.0, device)

    @classmethod
    def polynomial(cls, bins: int, order: int, device: torch.device) -> Baseline:
        """A polynomial of an order, 0 for a constant."""
        powers = np.polynomial.legendre.legvander(np.linspace(-1.0, 1.0, bins), order)
        return cls._of(np.linalg.qr(powers)[0], np.zeros(order + 1), 0.0, device)

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
        penalty = bins / coefficients * differences.T @ differences
        # The smoothers of all stiffnesses have the same eigenvectors (Demmler & Reinsch, Numer
        # Math 1975;24:375).
        factor = np.linalg.cholesky(splines.T @ splines + penalty)
        curves, size, _ = np.linalg.svd(np.linalg.solve(factor, splines.T).T, full_matrices=False)
        return cls._of(curves, 1 / np.minimum(size**2, 1.0) - 1, stiffness, device)

    @classmethod
    def _of(
        cls,
        curves: NDArray[np.float64],
        roughness: NDArray[np.float64],
        stiffness: float,
        device: torch.device,
    ) -> Baseline:
        """Of orthonormal ``curves (bins, curve)`` for the real and for the imaginary part."""
        bins, count = curves.shape
        both = np.zeros((bins, 2, count, 2))
        both[:, 0, :, 0] = both[:, 1, :, 1] = curves
        columns = torch.from_numpy(both.reshape(2 * bins, 2 * count).astype(np.float32))
        rough = torch.from_numpy(np.repeat(roughness, 2)).to(device)
        made = cls(columns.to(device), torch.zeros(0), rough)
        return replace(made, fitted_share=made.shares(stiffness))

    def shares(self, stiffness: float) -> Tensor:
        """How far each curve is fitted at a stiffness, ``(curve,)`` float32."""
        return (1 / (1 + stiffness * self.roughness)).to(torch.float32)

    def degrees_of_freedom(self, share: Tensor | None = None) -> Tensor:
        """Effective number of real parameters the baseline takes from the data, float64.

        A scalar, or ``(voxel,)`` where every voxel has its own ``share (voxel, curve)``.
        """
        return (self.fitted_share if share is None else share).to(torch.float64).sum(-1)

    def remove(self, rows: Tensor, share: Tensor | None = None) -> Tensor:
        """Rows ``(..., 2 * bins)`` times the root of ``W``.

        With ``share (voxel, curve)`` the rows are ``(voxel, row, 2 * bins)``.
        """
        if self.curves.shape[1] == 0:
            return rows
        share = self.fitted_share if share is None else share[:, None, :]
        curves = self.curves.to(rows.dtype)
        lost = 1 - (1 - share.to(rows.dtype)).sqrt()
        return rows - ((rows @ curves) * lost) @ curves.T

    def fitted(self, residual: Tensor, share: Tensor | None = None) -> Tensor:
        """Baseline that fits residuals ``(voxel, 2 * bins)`` best, of the same shape."""
        share = self.fitted_share if share is None else share
        return ((residual @ self.curves) * share) @ self.curves.T


def _bsplines(bins: int, coefficients: int) -> NDArray[np.float64]:
    inner = np.linspace(0.0, 1.0, coefficients - 2)
    step = inner[1] - inner[0]
    knots = np.concatenate(
        [inner[0] - step * np.arange(3, 0, -1), inner, inner[-1] + step * np.arange(1, 4)]
    )
    at = np.linspace(0.0, 1.0, bins) * (1 - 1e-12)
    return np.asarray(BSpline.design_matrix(at, knots, 3).toarray())
