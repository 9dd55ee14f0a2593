"""Method ``network``: a trained network begins."""

from __future__ import annotations

from mrsi_engine.errors import InputError
from mrsi_engine.fpc.registration import reference, registration
from mrsi_engine.fpc.settings import FpcSettings
from mrsi_engine.fpc.signals import Find
from mrsi_engine.kernels.refinement import Refinement
from mrsi_engine.kernels.registration import Solver
from mrsi_engine.networks.correctors import corrector, suited_model
from mrsi_engine.pipeline.stage import Context


def check_network(settings: FpcSettings, context: Context) -> None:
    """See that the model is for the scan and the settings for the model.

    Raises
    ------
    InputError
        If not.
    """
    suited_model(settings.model, context.acquisition)
    if settings.reference != "highest-peak":
        raise InputError(
            f"stage 'fpc': reference = {settings.reference!r} chooses the first template, which "
            "with method = 'network' is the model's; leave it out"
        )
    if settings.smooth and settings.template_passes == 0:
        raise InputError(
            "stage 'fpc': smooth = true with method = 'network' needs template_passes of at least 1"
        )


def by_network(settings: FpcSettings, context: Context, solver: Solver) -> Find:
    """A network's guess and a few steps from it; where those lead to no match, a search."""
    network = corrector(settings.model, str(context.device))
    ready = registration(settings, context)
    refinement = Refinement.build(ready, reference(settings, context), solver)
    return lambda fids, noise: refinement.align(fids, noise, network.predict(fids)[0])
