"""Which way each voxel went to its numbers, and why the unusual ones did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Status
from mrsi_engine.fit.quantities import NOVELTY
from mrsi_engine.io.map_files import volume
from mrsi_engine.io.result_quantities import scalp_voxels
from mrsi_engine.report.mosaic import View
from mrsi_engine.report.pictures import Picture, histogrammed
from mrsi_engine.report.png import data_uri, indexed_png, palette_of
from mrsi_engine.report.tables import measure, number
from mrsi_engine.stages.quantify import Quantify

STATUS_COLOURS = {
    Status.NO_FIT: "#d1495b",
    Status.NETWORK: "#a98bd3",
    Status.NETWORK_REFINED: "#4f8fc0",
    Status.LEAST_SQUARES: "#8cb369",
    Status.CORRECTED: "#d9a441",
    Status.NOT_PROCESSED: "#8b929c",
}

#: Novelty from which the network is not asked, and the ends of its colour scale around that.
_NOVEL, _NOVELTY_SCALE = 1.0, (0.0, 2.0)

#: Digits of a checksum that tell models apart.
_DIGITS = 12

_GRID = "fitted from the best points of a grid"
_MEANINGS = {
    Status.NETWORK: "the network's own estimate; nothing was iterated",
    Status.NETWORK_REFINED: "begun by the network, refined by Gauss-Newton steps, and accepted",
    Status.LEAST_SQUARES: f"{_GRID}, as the estimate that the network began was not accepted",
    Status.NO_FIT: "blank in every map: no signal, NaN or Inf, or nothing that the data determine",
    Status.NOT_PROCESSED: "not fitted yet: the run is not complete",
}
_ACCEPTED = (
    "An estimate is accepted where the steps reached a minimum, the residual is at noise level "
    "(chi-square test), and signal and parameters are within what the network was trained on. "
    "Errors are the Cramér-Rao bounds of the fit, whichever way led to it."
)


@dataclass(frozen=True)
class Count:
    """How many voxels something is true of, and their share of the mask's in percent."""

    text: str
    voxels: int
    percent: float


@dataclass(frozen=True)
class Way:
    """The voxels of one status; ``reasons`` are disjoint."""

    title: str
    colour: str
    count: Count
    reasons: tuple[Count, ...]


@dataclass(frozen=True)
class Ways:
    """The section of a run with a network: what it was, who went which way, and how novel it is.

    ``novelty`` is missing where there are too few voxels for maps.
    """

    summary: str
    rows: tuple[Way, ...]
    novelty: Picture | None


def ways_content(result: xr.Dataset, view: View | None) -> dict[str, Any]:
    """What the template needs: ``ways``, or without a network ``ways_line``, one sentence.

    Both are empty where the pipeline quantifies nothing.

    Parameters
    ----------
    result
        A result store opened as a dataset.
    view
        Of its maps; none are drawn without.
    """
    own = _settings(result)
    if own is None:
        return {"ways": None, "ways_line": ""}
    if not has_network(result):
        return {"ways": None, "ways_line": _without_network(result, own)}
    novelty = None if view is None else _novelty_picture(result, view)
    found = Ways(_summary(result), tuple(_rows(result)), novelty)
    return {"ways": found, "ways_line": ""}


def has_network(result: xr.Dataset) -> bool:
    """Whether a network took part in the quantification."""
    return NOVELTY.name in result["measure"].values


def believed(result: xr.Dataset) -> bool:
    """Whether estimates are a network's own, with errors of its own."""
    return has_network(result) and _assumptions(result).get("method") == "network"


def calibration_remarks(result: xr.Dataset) -> Iterator[str]:
    """What is wrong with the error bars of a network's own estimates, if anything."""
    assumed = _assumptions(result)
    if not assumed.get("calibrated", True):
        state = assumed["calibration"]
        yield f"Calibration of the error bars of the network's own estimates: {state}."


def status_picture(result: xr.Dataset, view: View) -> tuple[str, int]:
    """The map of the status as a data URI, and its width on the page in pixels."""
    status = result["status"].values
    inside = np.zeros(status.shape, np.uint8)
    for shade, known in enumerate(STATUS_COLOURS, start=1):
        inside[status == known] = shade
    # The background is number 0.
    canvas = view.mosaic(volume(result, inside, 0).astype(np.uint8))
    drawn = indexed_png(canvas, palette_of(list(STATUS_COLOURS.values())))
    return data_uri(drawn, "image/png"), canvas.shape[1] // 2


def _settings(result: xr.Dataset) -> Mapping[str, Any] | None:
    stages = result.attrs.get("pipeline", {}).get("stages", [])
    return next((s for s in stages if s.get("stage") == Quantify.stage), None)


def _assumptions(result: xr.Dataset) -> Mapping[str, Any]:
    found: Mapping[str, Any] = result.attrs.get("assumptions", {}).get(Quantify.stage, {})
    return found


def _without_network(result: xr.Dataset, own: Mapping[str, Any]) -> str:
    reason = _assumptions(result).get("no_model")
    method = own.get("method", "least-squares")
    return f'Method "{method}": {reason or f"every voxel was {_GRID}"}.'


def _summary(result: xr.Dataset) -> str:
    assumed = _assumptions(result)
    model = f"the network {_model(result)}"
    if not believed(result):
        return f'Method "auto": each voxel was begun by {model}. {_ACCEPTED}'
    calibration = assumed.get("calibration", "unknown")
    return (
        f'Method "network": {model}, took the place of the fit. Errors are made of the Cramér-Rao '
        "bound at its estimate and, of an ensemble, of what its members disagree by. Calibration: "
        f"{calibration}."
    )


def _model(result: xr.Dataset) -> str:
    """The model's name with the first digits of its checksum, as far as they were kept."""
    models = result.attrs.get("identity", {}).get("models", {}).get(Quantify.stage, {})
    known = [f"{name} (SHA-256 {checksum[:_DIGITS]}…)" for name, checksum in models.items()]
    return ", ".join(known) or Path(str(_assumptions(result).get("model", "unknown"))).name


def _rows(result: xr.Dataset) -> Iterator[Way]:
    status, brain = result["status"].values, ~scalp_voxels(result)
    for one, meaning in _MEANINGS.items():
        chosen = (status == one) & brain
        if chosen.any():
            title = one.meaning.replace("_", " ")
            reasons = tuple(_reasons(result, one, chosen))
            yield Way(title, STATUS_COLOURS[one], _count(result, meaning, chosen), reasons)


def _reasons(result: xr.Dataset, status: Status, chosen: NDArray[np.bool_]) -> Iterator[Count]:
    """Why voxels are unusual, the first reason that is true of each."""
    tests = {
        Status.NETWORK: _doubts,
        Status.LEAST_SQUARES: _refusals,
    }.get(status, _none)
    left = chosen
    for text, true in tests(result):
        if (left & true).any():
            yield _count(result, text, left & true)
        left = left & ~true


_Tests = Iterator[tuple[str, NDArray[np.bool_]]]


def _none(result: xr.Dataset) -> _Tests:
    return iter(())


def _doubts(result: xr.Dataset) -> _Tests:
    yield _unlike(result)
    text = "not to be trusted: parameters outside the ranges that it was trained on"
    yield text, measure(result, "converged") == 0


def _refusals(result: xr.Dataset) -> _Tests:
    quality = measure(result, "fit_quality")
    yield _unlike(result)
    yield "noise unknown, so that no residual can be tested", ~np.isfinite(quality)
    accepted = quality[result["status"].values == Status.NETWORK_REFINED]
    if accepted.size:
        worst = float(np.nanmax(accepted))
        text = f"residual above that of every accepted voxel (fit quality above {number(worst)})"
        yield text, quality > worst
    text = "else: steps that led to no minimum or a worse one, or out of the trained ranges"
    yield text, np.ones(quality.shape, bool)


def _unlike(result: xr.Dataset) -> tuple[str, NDArray[np.bool_]]:
    return (
        "unlike the signals that the network was trained on (novelty above 1)",
        measure(result, NOVELTY.name) > _NOVEL,
    )


def _count(result: xr.Dataset, text: str, chosen: NDArray[np.bool_]) -> Count:
    voxels = int((~scalp_voxels(result)).sum())
    return Count(text, int(chosen.sum()), 100.0 * float(chosen.sum()) / max(voxels, 1))


def _novelty_picture(result: xr.Dataset, view: View) -> Picture:
    """Its limit in the middle of the scale, so that what is beyond it stands out."""
    values = measure(result, NOVELTY.name)
    doc = f"{NOVELTY.doc[:1].upper()}{NOVELTY.doc[1:]}"
    drawn = histogrammed(
        result, view, values, NOVELTY.label, "1", "signed", _NOVELTY_SCALE, doc, _NOVEL
    )
    return replace(drawn, ticks=("0", "1, the limit", "2 and more"))
