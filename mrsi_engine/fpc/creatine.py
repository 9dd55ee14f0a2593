"""Method ``creatine``: a line of known place, which the frame of a template goes by, too."""

from __future__ import annotations

from functools import lru_cache

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.fpc.bands import lines_of
from mrsi_engine.fpc.settings import FpcSettings
from mrsi_engine.fpc.signals import Find
from mrsi_engine.kernels.creatine import CreatineReferencing, reference_to_creatine
from mrsi_engine.pipeline.stage import Context


def by_creatine(settings: FpcSettings, context: Context) -> Find:
    """Each signal by its own line."""
    line = creatine_line(settings, context.acquisition).to(context.device)
    return lambda fids, noise: reference_to_creatine(line, fids, noise, settings.max_shift_hz)


def creatine_line(settings: FpcSettings, acquisition: Acquisition) -> CreatineReferencing:
    """Creatine's line made ready.

    Raises
    ------
    InputError
        If the spectrum does not hold it, or too few points of it.
    """
    try:
        return _line(acquisition, whole=settings.window_ppm is False)
    except ValueError as error:
        raise InputError(
            f"stage 'fpc': creatine at {lines_of(acquisition).line:.2f} ppm is not seen: "
            f"{error}; choose another method, or frame = 'template'"
        ) from error


def holds_creatine(settings: FpcSettings, acquisition: Acquisition) -> bool:
    """Whether the spectrum holds creatine's line in points enough; short FIDs do not."""
    try:
        creatine_line(settings, acquisition)
    except InputError:
        return False
    return True


@lru_cache(maxsize=8)
def _line(acquisition: Acquisition, whole: bool) -> CreatineReferencing:
    return CreatineReferencing.build(acquisition, whole)
