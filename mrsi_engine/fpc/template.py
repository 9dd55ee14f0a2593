"""Methods by name, of those that compare with a template."""

from __future__ import annotations

from mrsi_engine.fpc.network import by_network
from mrsi_engine.fpc.registration import by_correlation, by_registration
from mrsi_engine.fpc.settings import FpcSettings
from mrsi_engine.fpc.signals import Find
from mrsi_engine.kernels.registration import Solver
from mrsi_engine.pipeline.stage import Context

#: The methods that compare with a template, by their names.
_BY_TEMPLATE = {
    "robust": by_registration,
    "registration": by_registration,
    "correlation": by_correlation,
    "network": by_network,
}


def solver_of(settings: FpcSettings) -> Solver:
    """How the best match is looked for."""
    damped = settings.method in ("robust", "network")
    return Solver(settings.max_shift_hz, fit_damping=damped)


def by_template(settings: FpcSettings, context: Context, solver: Solver) -> Find:
    """Where signals stand against the template found so far."""
    return _BY_TEMPLATE[settings.method](settings, context, solver)
