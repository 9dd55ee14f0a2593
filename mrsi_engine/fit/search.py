"""Finding the fit of each voxel: from a grid of start points, or from where a network says.

The router (``method = "auto"``): the network's estimate is refined by a few Gauss-Newton steps and
accepted where that led to a minimum, the residual is at noise level, and signal and parameters are
within what the network was trained on. Every other voxel is fitted from the grid, from up to three
of its points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from mrsi_engine.conventions import Status
from mrsi_engine.fit.network_start import NetworkStart, Start
from mrsi_engine.fit.settings import FitSettings
from mrsi_engine.fit.tables import FitTables
from mrsi_engine.kernels.evaluation import Problem, Spectra, residual_energy, stiffness_scores
from mrsi_engine.kernels.linear import inverse_spd
from mrsi_engine.kernels.tabulated import TabulatedSteps
from mrsi_engine.kernels.varpro import Code, Fit, fit, given

Method = Literal["auto", "network", "least-squares"]

#: Start points tried after the first where a fit did not converge.
_RESTARTS = 2

#: Gauss-Newton steps from the network's estimate, and the length, in standard errors, of one that
#: is taken without another look: what is left is of the order of its square.
_STEPS, _LAST_STEP = 3, 0.02

#: Steps with tabulated normal matrices before them.
_TABULATED_STEPS = 3

#: A residual is at noise level up to so many SDs of its chi-square: one in a thousand is not.
_CHI_SQUARE_SDS = 3.1

#: Relative variance of a measured noise variance times the number of differences it is the median
#: deviation of. An SD from the median absolute deviation has 1.36 / n (Rousseeuw & Croux, J Am Stat
#: Assoc 1993;88:1273), a variance four times that; neighbouring differences share a bin.
_NOISE_VARIANCE = 7.0

#: Noise of an FID's window, relative to its norm, that no prior is weighed against less than:
#: float32 columns are no more exact.
_LEAST_NOISE = 1e-6


@dataclass(frozen=True)
class Solved:
    """Fits of a batch: what was fitted, how it ended, and what brings it back to the data.

    ``frame (voxel,)`` Hz that the data were moved by, ``size (voxel,)`` data units that are 1 in
    the fit, ``noise (voxel,)`` SD in units of ``size``, NaN where it is not known; ``way
    (voxel,)`` uint8, the status of each voxel unless it has no fit.

    With a network's own estimates ``spread (voxel, parameter, parameter)`` is the covariance of
    amplitudes and free parameters between the members of an ensemble, and ``known (voxel,)`` bool
    says where the network is within what it was trained on.
    """

    problem: Problem
    spectra: Spectra
    result: Fit
    frame: Tensor
    size: Tensor
    noise: Tensor
    way: Tensor
    spread: Tensor | None = None
    known: Tensor | None = None

    @property
    def status(self) -> Tensor:
        """How each voxel was quantified, ``(voxel,)`` uint8."""
        failed = self.result.code == Code.SINGULAR
        return torch.where(failed, int(Status.NO_FIT), self.way).to(torch.uint8)

    def taking(self, index: Tensor, other: Solved, better: Tensor) -> Solved:
        """With another's voxels ``better`` in place of this one's ``index[better]``.

        In the same tensors: this one is not to be used any more.
        """
        into = index[better]
        for name in ("window", "precision", "fitted_share"):
            own, others = getattr(self.spectra, name), getattr(other.spectra, name)
            if own is not None and others is not None:
                own[into] = others[better]
        self.result.last.write(into, other.result.last.rows(better))
        self.result.code[into] = other.result.code[better]
        self.result.iterations[into] = other.result.iterations[better]
        self.frame[into], self.size[into] = other.frame[better], other.size[better]
        self.noise[into], self.way[into] = other.noise[better], other.way[better]
        return replace(self)

    @cached_property
    def energy(self) -> Tensor:
        """Squared norm of what model and baseline leave of the data, of norm 1, ``(voxel,)``."""
        return residual_energy(self.problem, self.spectra, self.result.last)

    @cached_property
    def freedom(self) -> Tensor:
        """Degrees of freedom of the residual, ``(voxel,)``."""
        inverse = None
        if self.spectra.has_priors:
            inverse, _ = inverse_spd(self.result.last.fisher)
        return self.spectra.residual_freedom(self.problem, inverse)

    @property
    def residual_sd(self) -> Tensor:
        """SD of the residual in units of ``size``, ``(voxel,)``."""
        return (self.energy / self.freedom).sqrt()

    @property
    def fit_quality(self) -> Tensor:
        """SD of the residual over that of the noise, ``(voxel,)``."""
        return self.residual_sd / self.noise


@dataclass(frozen=True)
class _Framed:
    """Windows ready to be fitted; fields as those of :class:`Solved`."""

    spectra: Spectra
    frame: Tensor
    size: Tensor
    noise: Tensor

    def solved(self, problem: Problem, result: Fit, way: Status) -> Solved:
        """With their fits, all found one way."""
        ways = torch.full_like(result.code, int(way), dtype=torch.uint8)
        return Solved(problem, self.spectra, result, self.frame, self.size, self.noise, ways)


@dataclass(frozen=True)
class Search:
    """How voxels of a scan are fitted.

    ``noise_bins`` signal-free bins were used to measure the noise, 0 where it is stated;
    ``network`` is none where there is no model for the scan, or none is wanted; ``tabulated``
    steps where the model is too large for tables.
    """

    settings: FitSettings
    tables: FitTables
    used: slice
    noise_bins: int
    method: Method = "least-squares"
    network: NetworkStart | None = None
    tabulated: TabulatedSteps | None = None

    def __call__(self, fids: Tensor, unit: Tensor, noise: Tensor, start: Start | None) -> Solved:
        """Fits of ``fids (voxel, time)`` of the used points.

        Voxels whose way is ``NOT_PROCESSED`` are to be fitted without the network: many batches'
        together, since there are few.

        Parameters
        ----------
        unit
            ``(voxel,)``, data units that are 1 in the FIDs.
        noise
            ``(voxel,)`` SD in units of the FIDs.
        start
            What the network says of them, if it is to be heard.
        """
        if start is None or self.network is None:
            return self._fitted(fids, unit, noise)
        if self.method == "network":
            return self._believed(fids, unit, noise, start)
        return self._routed(fids, unit, noise, start, self.network)

    def reached(self, solved: Solved) -> Tensor:
        """Whether a minimum was reached, the shift inside its bounds: else it lies elsewhere.

        Of the network's own estimates, whether it knows such signals.
        """
        if solved.known is not None:
            return solved.known
        return (solved.result.code == Code.CONVERGED) & ~self._at_limit(solved)

    def at_shift_bound(self, solved: Solved) -> Tensor:
        """Whether a shift ended where the search for it does, ``(voxel,)`` bool."""
        shift = solved.result.last.theta[:, self._shift] + solved.frame
        return self._at_limit(solved) | (shift.abs() >= self.settings.max_shift_hz)

    def _at_limit(self, solved: Solved) -> Tensor:
        problem, at = self.tables.problem, solved.result.last.theta[:, self._shift]
        return (at <= problem.lower[self._shift]) | (at >= problem.upper[self._shift])

    def trusted(self, solved: Solved) -> Tensor:
        """SD that data are weighed by against priors.

        The residual's own where errors hold it, or the noise is not known.
        """
        known = solved.noise * self.inflation(solved)
        return torch.where(solved.noise.isnan(), solved.residual_sd, known)

    def error_noise(self, solved: Solved) -> Tensor:
        """SD of the noise that errors are made from, ``(voxel,)``.

        Where it is not known that is the residual's, if errors may be; else NaN.
        """
        if self.settings.errors == "noise":
            return solved.noise
        return torch.where(solved.noise.isnan(), solved.residual_sd, solved.noise)

    def inflation(self, solved: Solved) -> Tensor:
        """What errors are multiplied by, ``(voxel,)``."""
        quality = solved.fit_quality
        if self.settings.errors == "noise":
            return torch.ones_like(quality)
        return torch.where(quality.isnan(), 1.0, quality.clamp_min(1.0))

    def _routed(
        self, fids: Tensor, unit: Tensor, noise: Tensor, start: Start, network: NetworkStart
    ) -> Solved:
        """Fits from the network; the way of those that cannot be accepted is still to be found."""
        solved = self._refined(fids, unit, noise, start)
        accepted = self._accepted(solved, start, network)
        solved.way[~accepted] = int(Status.NOT_PROCESSED)
        return solved

    def _refined(self, fids: Tensor, unit: Tensor, noise: Tensor, start: Start) -> Solved:
        """A few steps from the network's estimate, in the frame that a fit from the grid has."""
        quick = replace(self.tables.problem, max_iterations=_STEPS, tolerance=_LAST_STEP)
        best = self.tables.starts.best(self.tables.problem.band.crop(fids))
        framed = self._framed(fids, unit, noise, best)
        theta = self._moved(start.theta, -framed.frame)
        if self.tabulated is None:
            first = fit(quick, framed.spectra, theta)
            return self._settled(framed.solved(quick, first, Status.NETWORK_REFINED))
        # So near the minimum that the stiffness can be chosen before the first full step.
        theta = self.tabulated.refined(framed.spectra.window, theta, _TABULATED_STEPS)
        framed = replace(framed, spectra=self._with_stiffness(framed.spectra, theta))
        fitted = fit(quick, framed.spectra, theta)
        return framed.solved(quick, fitted, Status.NETWORK_REFINED)

    def _accepted(self, solved: Solved, start: Start, network: NetworkStart) -> Tensor:
        """Whether a refined estimate may stay, ``(voxel,)`` bool."""
        theta = self._moved(solved.result.last.theta, solved.frame)
        known = start.known & network.inside_ranges(theta)
        return self.reached(solved) & known & self._at_noise_level(solved)

    def _at_noise_level(self, solved: Solved) -> Tensor:
        """Whether noise alone could leave such a residual; both are known with some error."""
        measured = _NOISE_VARIANCE / (2 * self.noise_bins) if self.noise_bins else 0.0
        sd = (2 / solved.freedom + measured).sqrt()
        return solved.fit_quality.square() <= 1 + _CHI_SQUARE_SDS * sd

    def _believed(self, fids: Tensor, unit: Tensor, noise: Tensor, start: Start) -> Solved:
        """The network's own estimates; nothing is iterated."""
        problem = self.tables.problem
        framed = self._framed(fids, unit, noise, start.theta)
        theta = self._moved(start.theta, -framed.frame)
        amplitudes = None
        if start.amplitudes is not None:
            amplitudes = start.amplitudes.mean(0) / framed.size[:, None]
        framed = replace(framed, spectra=self._with_stiffness(framed.spectra, theta))
        result = given(problem, framed.spectra, theta, amplitudes)
        solved = framed.solved(problem, result, Status.NETWORK)
        return replace(solved, spread=self._spread(solved, start), known=start.known)

    def _spread(self, solved: Solved, start: Start) -> Tensor | None:
        """Covariance of amplitudes and free parameters between members, ``(voxel, p, p)``.

        Amplitudes that are solved for follow the others to first order.
        """
        members = len(start.members)
        if members < 2:
            return None
        moved = (start.members - start.theta)[:, :, self.tables.problem.free]
        if start.amplitudes is None:
            response = solved.result.last.response
            amplitudes = -torch.einsum("vaf,mvf->mva", response, moved)
        else:
            apart = start.amplitudes - start.amplitudes.mean(0)
            amplitudes = apart / solved.size[:, None]
        both = torch.cat([amplitudes, moved], dim=2)
        return torch.einsum("mvp,mvq->vpq", both, both) / (members - 1)

    def _fitted(self, fids: Tensor, unit: Tensor, noise: Tensor) -> Solved:
        """Fits from the best start points; where they did not converge, from the next best."""
        solved = self._attempt(fids, unit, noise, 0)
        for rank in range(1, _RESTARTS + 1):
            again = (~self.reached(solved)).nonzero().squeeze(1)
            if len(again) == 0:
                break
            other = self._attempt(fids[again], unit[again], noise[again], rank)
            less = other.result.last.cost <= solved.result.last.cost[again]
            solved = solved.taking(again, other, self.reached(other) & less)
        return self._settled(solved)

    def _attempt(self, fids: Tensor, unit: Tensor, noise: Tensor, rank: int) -> Solved:
        """Fits from the start points of a rank."""
        problem = self.tables.problem
        start = self.tables.starts.best(problem.band.crop(fids), rank)
        framed = self._framed(fids, unit, noise, start)
        fitted = fit(problem, framed.spectra, self._moved(start, -framed.frame))
        return framed.solved(problem, fitted, Status.LEAST_SQUARES)

    def _framed(self, fids: Tensor, unit: Tensor, noise: Tensor, theta: Tensor) -> _Framed:
        """Windows that follow each voxel's own frequency, of unit norm.

        By whole bins, so that they always hold the same peaks and baselines stay on the bins of
        the spectrum.
        """
        band, time = self.tables.problem.band, self.tables.full.time[self.used.start :]
        frame = torch.round(theta[:, self._shift] * band.duration) / band.duration
        window = band.crop(fids * turn(-frame, time))
        size = torch.linalg.vector_norm(window, dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        noise = noise / size
        spectra = Spectra(window / size[:, None], precision=self._precision(noise))
        return _Framed(spectra, frame, size * unit, noise)

    @property
    def _shift(self) -> int:
        return self.tables.problem.model.layout.shift(0)

    def _moved(self, theta: Tensor, hertz: Tensor) -> Tensor:
        """``theta (voxel, parameter)`` with shifts that are ``hertz (voxel,)`` larger."""
        moved = theta.clone()
        moved[:, self._shift] += hertz
        return moved

    def _settled(self, solved: Solved) -> Solved:
        """Fits with what is found from the first ones: stiffness, and the weight of priors."""
        if self.settings.baseline.adaptive:
            solved = self._adapted(solved)
        known = self.settings.errors == "noise" and not bool(solved.noise.isnan().any())
        return solved if known else self._weighed_anew(solved)

    def _precision(self, noise: Tensor) -> Tensor | None:
        sd = self.tables.prior_sd
        if bool(sd.isinf().all()):
            return None
        return (weighing(noise)[:, None] / sd).square()

    def _weighed_anew(self, solved: Solved) -> Solved:
        """Fits with priors on what is iterated weighed against the residual, not the noise."""
        if solved.spectra.precision is None:
            return solved
        precision = self._precision(self.trusted(solved))
        spectra = replace(solved.spectra, precision=precision)
        theta = torch.nan_to_num(solved.result.last.theta)
        return replace(solved, spectra=spectra, result=fit(solved.problem, spectra, theta))

    def _adapted(self, solved: Solved) -> Solved:
        """Fits with each voxel's own stiffness of the baseline."""
        theta = torch.nan_to_num(solved.result.last.theta)
        spectra = self._with_stiffness(solved.spectra, theta)
        return replace(solved, spectra=spectra, result=fit(solved.problem, spectra, theta))

    def _with_stiffness(self, spectra: Spectra, theta: Tensor) -> Spectra:
        """Each voxel's own stiffness of the baseline, if it may have one."""
        if not self.settings.baseline.adaptive:
            return spectra
        problem = self.tables.problem
        shares = torch.stack(
            [problem.baseline.shares(s) for s in self.settings.baseline.stiffnesses]
        )
        scores = stiffness_scores(problem, spectra, theta, shares, self.settings.baseline.weight)
        chosen = torch.nan_to_num(scores, nan=torch.inf).argmin(1)
        return replace(spectra, fitted_share=shares[chosen])


def weighing(noise: Tensor) -> Tensor:
    """Noise as priors are weighed against it."""
    return torch.nan_to_num(noise).clamp_min(_LEAST_NOISE)


def turn(frequency: Tensor, time: Tensor) -> Tensor:
    """``exp(2*pi*i*f*t)``, ``(voxel, time)`` complex64."""
    angle = (2 * math.pi * frequency[:, None] * time).to(torch.float32)
    return torch.polar(torch.ones_like(angle), angle)
