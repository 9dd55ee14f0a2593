"""Making the error bars of a network's own estimates true, on simulated signals with known truth.

Split conformal prediction (Papadopoulos et al., ECML 2002; Angelopoulos & Bates, Found Trends Mach
Learn 2023;16:494, section 2.3) with the error over its SD as score: in each bin of SNR errors are
multiplied by what makes 95 % of their intervals hold the truth. What the Cramér-Rao bound and the
disagreement of an ensemble leave out, above all the bias of a network, is in the factor.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.fit.least_squares import LeastSquares
from mrsi_engine.fit.quantities import amplitude_quantities, amplitude_weights
from mrsi_engine.fit.settings import FitSettings
from mrsi_engine.networks.model import Calibration, Model
from mrsi_engine.networks.quantifier import Quantifier
from mrsi_engine.networks.simulation import Batch, Simulator
from mrsi_engine.pipeline.stage import Block
from mrsi_engine.spectra.basis import Basis

#: Edges between the bins of SNR.
SNR_EDGES = (10.0, 20.0, 40.0, 80.0)

#: What an interval of 1.96 SDs is to hold.
_LEVEL, _SDS = 0.95, 1.959964

#: Fewest signals of a bin that say anything; a bin with fewer has the factor of all.
_FEWEST = 200

#: Signals simulated at a time.
_CHUNK = 2048


def calibrated(
    stage: FitSettings, model: Model, simulator: Simulator, signals: int, seed: int
) -> Calibration:
    """The calibration of a model for the fit settings of a stage.

    Parameters
    ----------
    stage
        Of the pipeline that the model is to be used in.
    simulator
        Of signals like those of training.
    signals
        That factors are made from; as many others say what they achieve.
    seed
        Of the first signals; no seed of the model's training.
    """
    fit = _fit(stage, model, simulator)
    scores, snr = _scores(fit, stage, simulator, signals, seed)
    factors = {name: _factors(score, snr) for name, score in scores.items()}
    settings = stage.resolved(simulator.basis.acquisition).settings_of_fit
    calibration = Calibration(snr=SNR_EDGES, factors=factors, signals=signals, fit=settings)
    others, at = _scores(fit, stage, simulator, signals, seed + math.ceil(signals / _CHUNK))
    coverage = {name: _coverage(score, at, factors[name]) for name, score in others.items()}
    return calibration.model_copy(update={"coverage": coverage})


def _fit(stage: FitSettings, model: Model, simulator: Simulator) -> LeastSquares:
    bare = replace(model, card=model.card.model_copy(update={"calibration": None}))
    basis, device = stage.fitted_basis(simulator.basis), torch.device(simulator.device)
    axis = simulator.basis.acquisition
    return LeastSquares.build(stage, basis, axis, device, "network", Quantifier.of(bare, device))


def _scores(
    fit: LeastSquares, stage: FitSettings, simulator: Simulator, signals: int, seed: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Errors in SDs by name, NaN where there is none, and SNR, ``(signal,)``."""
    found: dict[str, list[Tensor]] = {}
    snr = []
    for chunk in range(math.ceil(signals / _CHUNK)):
        drawn = simulator.draw(_CHUNK, seed + chunk)
        block = Block(drawn.fids)
        fit(block)
        # Where the network says itself that it does not know, no error bar can help.
        known = torch.where(block.measures["converged"] == 1, 1.0, torch.nan)
        snr.append(block.measures["snr"])
        for name, truth in _truth(stage, simulator.basis, drawn).items():
            score = (block.estimate[name] - truth).abs() / block.sd[name]
            found.setdefault(name, []).append(score * known)
    scores = {name: torch.cat(parts).cpu().numpy() for name, parts in found.items()}
    return scores, torch.cat(snr).cpu().numpy()


def _truth(stage: FitSettings, basis: Basis, drawn: Batch) -> dict[str, Tensor]:
    """What the fit's parameters would be without an error."""
    fitted = stage.fitted_basis(basis)
    names = [q.name for q in amplitude_quantities(fitted)]
    columns = torch.zeros(len(drawn.fids), len(fitted.names), dtype=torch.float64)
    for i, name in enumerate(fitted.names):
        if name in basis.names:
            columns[:, i] = drawn.amplitudes[:, basis.names.index(name)]
    sums = columns @ torch.from_numpy(amplitude_weights(fitted)).T
    truth = dict(zip(names, sums.to(drawn.fids.device).unbind(1), strict=True))
    lineshape = {"phase": 0, "shift": 1, "lorentzian": 2}
    if stage.lineshape != "lorentzian":
        del lineshape["lorentzian"]
    return truth | {name: drawn.theta[:, i].double() for name, i in lineshape.items()}


def _factors(score: NDArray[np.float64], snr: NDArray[np.float64]) -> tuple[float, ...]:
    every = _factor(score)
    bins = _bins(snr)
    found = []
    for number in range(len(SNR_EDGES) + 1):
        inside = score[bins == number]
        enough = np.isfinite(inside).sum() >= _FEWEST
        found.append(_factor(inside) if enough else every)
    return tuple(found)


def _factor(score: NDArray[np.float64]) -> float:
    """What makes intervals hold the truth as often as they say, to four digits; 1 if unknown."""
    known = score[np.isfinite(score)]
    if len(known) == 0:
        return 1.0
    level = min(1.0, math.ceil((len(known) + 1) * _LEVEL) / len(known))
    return float(f"{np.quantile(known, level, method='higher') / _SDS:.4g}")


def _coverage(
    score: NDArray[np.float64], snr: NDArray[np.float64], factors: tuple[float, ...]
) -> tuple[float, ...]:
    """Share of intervals that hold the truth in each bin; -1 where too few say."""
    bins, found = _bins(snr), []
    for number, factor in enumerate(factors):
        inside = score[(bins == number) & np.isfinite(score)]
        held = (inside <= _SDS * factor).mean() if len(inside) >= _FEWEST else -1.0
        found.append(float(f"{held:.4g}"))
    return tuple(found)


def _bins(snr: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.digitize(np.nan_to_num(snr), SNR_EDGES, right=True)
