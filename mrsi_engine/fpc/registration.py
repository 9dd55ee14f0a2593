"""Methods that compare with a template: registration and correlation."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.fpc.bands import hertz_of
from mrsi_engine.fpc.settings import FpcSettings
from mrsi_engine.fpc.signals import Find
from mrsi_engine.kernels.projection import LineRange, Projection
from mrsi_engine.kernels.registration import Registration, Solver, correlate, register
from mrsi_engine.networks.correctors import model_template
from mrsi_engine.pipeline.stage import Context

#: Range of dampings (1/s) of water and lipid lines, and the vectors their tails span in the window.
_WATER_DAMPING, _WATER_RANK = (5.0, 120.0), 12

_LIPID_DAMPING, _LIPID_RANK = (30.0, 200.0), 6


@lru_cache(maxsize=8)
def view(settings: FpcSettings, acquisition: Acquisition) -> tuple[Projection, Projection]:
    """What counts in the registration, and in the correlation that starts it.

    Raises
    ------
    InputError
        If a range leaves the spectrum or the window holds too few points.
    """
    points = min(acquisition.points, round(settings.seconds / acquisition.dwell_time))
    robust = settings.method in ("robust", "network")
    limited = settings.window_ppm is not False
    window = hertz_of(settings, acquisition, "window_ppm") if limited else None
    order = settings.nuisance.baseline_order if robust and window else None
    lines = []
    if robust and settings.nuisance.kind == "subspace":
        tails = (
            ("nuisance.water_ppm", _WATER_DAMPING, _WATER_RANK),
            ("nuisance.lipid_ppm", _LIPID_DAMPING, _LIPID_RANK),
        )
        lines = [
            LineRange(*hertz_of(settings, acquisition, key), *damping, rank)
            for key, damping, rank in tails
            if settings.own(key, acquisition) is not None
        ]
    try:
        start = Projection.build(points, acquisition.dwell_time, window, order)
        seen = Projection.build(points, acquisition.dwell_time, window, order, lines)
    except ValueError as error:
        raise InputError(
            f"stage 'fpc': window_ppm = {settings.own('window_ppm', acquisition)} with seconds = "
            f"{settings.seconds:g}: {error}"
        ) from error
    return seen, start


def reference(settings: FpcSettings, context: Context) -> Tensor:
    """The template found so far, ``(time,)``; with a network it begins with the model's."""
    known = context.state.get("template")
    return model_template(settings.model) if known is None else known


def registration(settings: FpcSettings, context: Context) -> Registration:
    """Registration to the template found so far."""
    seen, start = view(settings, context.acquisition)
    template = reference(settings, context).to("cpu")
    return Registration.build(template, seen, start=start).to(context.device)


def by_registration(settings: FpcSettings, context: Context, solver: Solver) -> Find:
    """Methods ``robust`` and ``registration``: the best match in the window."""
    ready = registration(settings, context)
    return lambda fids, noise: register(ready, fids, noise, solver)


def by_correlation(settings: FpcSettings, context: Context, solver: Solver) -> Find:
    """Method ``correlation``: the peak of the cross-correlation."""
    ready = registration(settings, context)
    return lambda fids, noise: correlate(ready, fids, noise, solver.limit_hz)
