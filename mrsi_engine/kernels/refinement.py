"""Registration from a guess: a step or a few where that is enough, the search where it is not.

A guess (a network's) that lies in the right valley is after a Gauss-Newton step or a few as good as
a search. One that does not can still lead to a place where the template fits a little: choline upon
creatine. The template itself says how much such a place can explain at most, so a guess is taken
only where, after its steps, more is explained than halfway from there to everything, and where no
further step would be longer than a tenth of a standard error.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from mrsi_engine.kernels.alignment import Alignment, turned
from mrsi_engine.kernels.registration import Registration, Solver, register
from mrsi_engine.kernels.varpro import Code

#: Longest step, in standard errors, that may be left after those that are taken.
_LEFT = 0.1

#: Steps from a guess. Where noise is the largest error one is enough; in good spectra that are not
#: made as the template is, each leaves a tenth of the error.
_STEPS = 4


@dataclass(frozen=True)
class Refinement:
    """A template made ready, and ``needed``, the match from which a guess is believed."""

    registration: Registration
    solver: Solver
    needed: float
    steps: int = _STEPS

    @classmethod
    def build(
        cls, registration: Registration, template: Tensor, solver: Solver, steps: int = _STEPS
    ) -> Refinement:
        """For one template ``(time,)``, the one the registration was built from."""
        rival = rival_match(registration, template, 2 * solver.limit_hz)
        return cls(registration, solver, 0.5 * (1 + rival), steps)

    def align(self, fids: Tensor, noise_sd: Tensor, guess: Tensor) -> Alignment:
        """Where signals stand; those whose guess was not good are ``searched``.

        Parameters
        ----------
        fids, noise_sd
            As for :func:`~mrsi_engine.kernels.registration.register`.
        guess
            ``(signal,)`` Hz; NaN is none.
        """
        few = replace(self.solver, max_iterations=self.steps, tolerance=_LEFT)
        start = guess.to(torch.float64)
        found = register(self.registration, fids, noise_sd, few, start.nan_to_num(0.0))
        near = (start.abs() <= self.solver.limit_hz) & (found.shift.abs() <= self.solver.limit_hz)
        good = near & (found.code == Code.CONVERGED) & (found.match >= self.needed)
        if bool(good.all()):
            return found
        searched = register(self.registration, fids[~good], noise_sd[~good], self.solver)
        return _with(found, ~good, searched)


def rival_match(registration: Registration, template: Tensor, limit_hz: float) -> float:
    """Largest share of itself that a template explains at a wrong place within a limit.

    Wrong is what lies beyond the valley of the right place: from where the share first rises again.

    Parameters
    ----------
    registration
        Built from the template.
    template
        ``(time,)`` complex.
    limit_hz
        Largest distance from the right place.
    """
    band = registration.start_band
    count = int(4 * limit_hz * band.duration) + 2
    moves = torch.arange(count, dtype=torch.float64) / (4 * band.duration)
    both = torch.cat([moves, -moves]).to(registration.gram.device)
    alone = template[None, : registration.last].to(both.device, torch.complex64)
    moved = turned(alone.expand(len(both), -1), band.dwell_time, both)
    # A place is given, not searched for: the shares there are those of no step at all.
    here = register(
        registration,
        moved,
        torch.zeros_like(both),
        Solver(limit_hz, max_iterations=0),
        torch.zeros_like(both),
    )
    shares = here.match.nan_to_num(0.0).view(2, count)
    return max(_beyond_valley(side) for side in shares)


def _beyond_valley(shares: Tensor) -> float:
    rising = (shares[1:] > shares[:-1]).nonzero().flatten()
    return float(shares[int(rising[0]) :].max()) if len(rising) else 0.0


def _with(found: Alignment, where: Tensor, other: Alignment) -> Alignment:
    """An alignment with that of some signals replaced."""
    parts = {}
    for f in fields(Alignment):
        parts[f.name] = getattr(found, f.name).clone()
        parts[f.name][where] = getattr(other, f.name)
    return Alignment(**parts)
