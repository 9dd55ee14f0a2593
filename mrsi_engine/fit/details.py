"""The fit of few voxels taken apart: every metabolite's own signal, and how estimates covary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.fit.least_squares import LeastSquares
from mrsi_engine.pipeline.pipeline import PreparedPipeline
from mrsi_engine.pipeline.stage import Block


@dataclass(frozen=True, eq=False)
class FitDetails:
    """What the main estimator found in some voxels, column by column of its basis.

    Parameters
    ----------
    names
        Of the columns: metabolites and macromolecules.
    window_ppm
        Where the spectra were fitted.
    corrected, fit, baseline
        FIDs ``(voxel, time)`` complex64: as they went into the fit, the fitted model with its
        baseline, and the baseline alone.
    components
        ``(voxel, column, time)`` complex64; they and the baseline add up to the fit.
    covariance
        Of the amplitudes, ``(voxel, column, column)`` float64 in data units squared: the
        Cramér-Rao bounds. NaN where the data do not determine an amplitude.
    """

    names: tuple[str, ...]
    window_ppm: tuple[float, float]
    corrected: NDArray[np.complex64]
    fit: NDArray[np.complex64]
    baseline: NDArray[np.complex64]
    components: NDArray[np.complex64]
    covariance: NDArray[np.float64]

    @property
    def correlation(self) -> NDArray[np.float64]:
        """Correlation of the errors of every two amplitudes, ``(voxel, column, column)``."""
        sd = np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))
        return self.covariance / (sd[:, :, None] * sd[:, None, :])


def fit_in_detail(pipeline: PreparedPipeline, block: Block) -> FitDetails:
    """Run few voxels through a pipeline up to its least-squares fit, and take that apart.

    Parameters
    ----------
    block
        Of few voxels: it takes a signal for every column of the basis.

    Raises
    ------
    InputError
        If no stage of the pipeline fits by least squares.
    """
    for step in pipeline.stages:
        if isinstance(step.apply, LeastSquares):
            return _details(step.apply, block)
        step(block)
    whole = pipeline.pipeline
    raise InputError(
        f"pipeline {whole.name}: none of its stages "
        f"({', '.join(s.stage for s in whole.stages)}) fits by least squares, so there is no "
        "fit to take apart"
    )


def _details(fit: LeastSquares, block: Block) -> FitDetails:
    solved, points = fit.solve(block), block.fids.shape[1]
    model, baseline = fit.signals(solved, points)
    arrays = (block.fids, model, baseline, fit.components(solved, points), fit.covariance(solved))
    columns = fit.outputs.names[: arrays[3].shape[1]]
    window = fit.settings.window_ppm
    assert window is not None  # the settings of a fit that is built are all stated
    return FitDetails(columns, window, *(a.cpu().numpy() for a in arrays))
