"""Result store to NIfTI: which maps a result has, as its quantities are declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.choices import Fill
from mrsi_engine.conventions import Flag, Status
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import safe_stem
from mrsi_engine.io.map_files import MRSIPREP_CRLB, Map, MapFrame, check_exportable, write_map
from mrsi_engine.io.result_quantities import (
    fitted_voxels,
    measures_of,
    parameters_of,
    parts_of,
    relative_crlb,
    scalp_voxels,
    total_of,
    values_of,
)
from mrsi_engine.quantities import (
    AMPLITUDES,
    MAPS_OF_EVERY_RESULT,
    TOTALS,
    Quantity,
    Role,
    Total,
)


def export_maps(
    result: xr.Dataset, folder: Path, *, fill: Fill = "nan", stem: str | None = None
) -> list[Path]:
    """Write every map of a result as ``.nii.gz`` with a JSON sidecar.

    Metabolites, macromolecules and combinations get ``desc-signal`` (the estimate), ``desc-crlb``
    (percent) and ``desc-sd`` (absolute); every measure and lineshape parameter gets one file, and
    so do the status and the mask. ``desc-b0shift`` and ``desc-phase`` are those of the data as
    acquired, over all stages; where several stages share them each has its own file beside, the
    fit's called ``desc-fitshift`` and ``desc-fitphase``. Maps are float32 with the scan's affine.

    Amplitudes that are a network's own get ``desc-crlbabs`` and, of an ensemble,
    ``desc-epistemic``: what their SD is made of. Ratios of the fit get ``desc-ratio`` and
    ``desc-ratiosd``, scaled amplitudes ``desc-conc`` and ``desc-concsd``, whose sidecars say all
    that they rest on and how many voxels have none.

    Every sidecar says the role of the quantity, whose it is and by which estimator and stage.

    Parameters
    ----------
    result
        A result store opened as a dataset.
    folder
        Made if missing; files in it with the same names are replaced.
    fill
        ``"nan"`` writes NaN where there is no fit or no finite number; ``"mrsiprep"`` writes what
        MRSIPrep reads there: signal 0, SNR 0, CRLB 999 (which is then also the largest CRLB).
    stem
        Start of the file names; the scan's own by default.

    Returns
    -------
    list of Path
        The NIfTI files; each has its sidecar beside it.

    Raises
    ------
    InputError
        If the result lacks an attribute, its affine is singular or two maps share a name.
    RunError
        If a file cannot be written.
    """
    check_exportable(result)
    if fill not in ("nan", "mrsiprep"):
        raise InputError(f"fill {fill!r}: unknown; allowed are nan, mrsiprep")
    maps = list(_all_maps(result))
    _check_names_differ([m.entities for m in maps])
    prefix = safe_stem(stem or result.attrs["stem"])
    frame, start = MapFrame.of(result), f"{prefix}_space-orig_"
    return [write_map(result, m, folder / f"{start}{m.entities}", fill, frame) for m in maps]


def _check_names_differ(names: list[str]) -> None:
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise InputError(f"maps: {repeated} would be written twice; rename the basis' metabolites")


def _all_maps(result: xr.Dataset) -> Iterator[Map]:
    alone = []
    for total in TOTALS.values():
        parts = parts_of(result, total.name)
        if parts:
            yield _total_map(result, total, parts)
        alone += parts if len(parts) == 1 else []
    for quantity in parameters_of(result):
        if quantity not in alone:
            yield from _parameter_maps(result, quantity)
    for quantity in measures_of(result):
        yield _measure_map(result, quantity)
    yield from _maps_of_every_result(result)


def _parameter_maps(result: xr.Dataset, quantity: Quantity) -> Iterator[Map]:
    """The estimate, and its errors as far as the role has maps of them."""
    q, doc, about = quantity, quantity.doc, _about(result, quantity)
    estimate, sd = (_fitted(result, values_of(result, kind, q.name)) for kind in ("estimate", "sd"))
    first, *errors = q.maps
    yield Map(first, estimate, q.units, doc, about, q.fill)
    absolute = {**about, "Statistic": "standard deviation", "SD": q.sd_doc}
    if q.role in AMPLITUDES:
        definition = f"{q.label}: {q.sd_doc}, in percent of the estimate; no number where that is 0"
        percent = _fitted(result, relative_crlb(result, q.name))
        relative = {**absolute, "Statistic": "relative standard deviation"}
        yield Map(errors[0], percent, "%", definition, relative, MRSIPREP_CRLB)
        doc = f"{q.label}: {q.sd_doc}"
    elif errors:
        doc = f"SD of {doc}"
    if errors:
        yield Map(errors[-1], sd, q.units, doc, absolute)


def _measure_map(result: xr.Dataset, quantity: Quantity) -> Map:
    values = _fitted(result, values_of(result, "quality", quantity.name))
    (entities,) = quantity.maps
    about = _about(result, quantity)
    return Map(entities, values, quantity.units, quantity.doc, about, quantity.fill)


def _total_map(result: xr.Dataset, total: Total, parts: list[Quantity]) -> Map:
    values = _fitted(result, total_of(result, total.name)["estimate"].values)
    names = [q.name for q in parts]
    about = {"Role": str(Role.LINESHAPE), "Statistic": "sum of estimates", "SumOf": names}
    definition = f"{total.doc} ({' + '.join(names)})"
    return Map(f"desc-{total.name}", values, total.units, definition, about)


def _maps_of_every_result(result: xr.Dataset) -> Iterator[Map]:
    status, flags, mask = MAPS_OF_EVERY_RESULT
    meanings = ", ".join(f"{int(s)} {s.meaning}" for s in Status)
    values = result["status"].values.astype(float)
    yield Map(f"desc-{status}", values, "1", meanings, {"Role": status}, 0.0)
    if "flags" in result:
        meanings = ", ".join(f"{int(f)} {f.meaning}" for f in Flag)
        definition = f"Sum of what is wrong with a voxel, 0 nothing: {meanings}"
        # Where nothing was fitted they say why.
        done = result["status"].values != Status.NOT_PROCESSED
        values = np.where(done, result["flags"].values, np.nan)
        yield Map(f"desc-{flags}", values, "1", definition, {"Role": flags})
    inside = 1.0 - scalp_voxels(result)
    definition = "1 where voxels were kept for processing"
    # A mask that is NaN outside would be read as "inside" by anything that tests for non-zero.
    yield Map(f"desc-{mask}", inside, "1", definition, {"Role": mask}, 0.0, 0.0)


def _about(result: xr.Dataset, quantity: Quantity) -> dict[str, Any]:
    """What a sidecar says of a quantity beside unit, definition and fill."""
    said = {
        "Role": str(quantity.role),
        "Of": quantity.of,
        "Reference": quantity.reference,
        "Estimator": quantity.estimator,
        "Statistic": "estimate" if quantity.sd_doc else "measure",
        "AddsTo": quantity.adds_to,
        "Stage": quantity.stage,
    }
    about = {name: value for name, value in said.items() if value}
    if quantity.role == Role.CONCENTRATION:
        about |= _rests_on(result, quantity)
    return about


def _rests_on(result: xr.Dataset, quantity: Quantity) -> dict[str, Any]:
    """What concentrations rest on beside the data, and which voxels have none."""
    assumptions: Mapping[str, Any] = result.attrs.get("assumptions", {})
    said = {"Assumptions": assumptions.get(quantity.stage, {})}
    reasons = [q for q in measures_of(result, Role.REASON) if q.stage == quantity.stage]
    return {**said, "NotScaled": _not_scaled(result, reasons[0])} if reasons else said


def _not_scaled(result: xr.Dataset, reason: Quantity) -> dict[str, Any]:
    codes = _fitted(result, values_of(result, "quality", reason.name))
    found, counts = np.unique_counts(codes[np.isfinite(codes)])
    voxels = {str(int(c)): int(n) for c, n in zip(found, counts, strict=True)}
    return {"Definition": reason.doc, "Voxels": voxels}


def _fitted(result: xr.Dataset, values: NDArray[Any]) -> NDArray[np.floating]:
    return np.where(fitted_voxels(result), values, np.nan)
