"""A scan in one row of the group table, made when the scan is finished."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition, Flag
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.result_quantities import (
    fitted_voxels,
    measures_of,
    parameters_of,
    parts_of,
    scalp_voxels,
    total_of,
)
from mrsi_engine.io.stored_tissue import stored_tissue
from mrsi_engine.kernels.noise import MAD_TO_SD
from mrsi_engine.nuclei import Nucleus
from mrsi_engine.quantities import AMPLITUDES, MAIN, Quantity, Role, ratio
from mrsi_engine.report.columns import (
    BY_TISSUE,
    COVERAGE,
    CRLB,
    DOMINANT,
    FITTED,
    MEDIAN,
    SD,
    STATISTICS,
    flag_column,
    in_tissue,
    tissue_column,
)
from mrsi_engine.report.protocol import protocol_of, sequence_of
from mrsi_engine.report.tables import flags_of, limits, nucleus_of, usable_voxels
from mrsi_engine.report.verdict import verdict_on

#: Name of the file in a scan's folder, and the format written here.
SUMMARY_FILE = "summary.json"
SUMMARY_VERSION = 1

#: Variables of a result that rows are made of; signals are left where they are.
_READ = ("estimate", "sd", "quality", "status", "flags")

#: Fields of a quantity that travel with a row, to say what its columns are.
_TOLD = ("name", "role", "units", "doc", "title", "of", "reference")

#: Digits of numbers in a row.
_DIGITS = 6

#: A reference below this many of its SDs could be nothing: a ratio to it has no meaning.
_LEAST_REFERENCE_SDS = 3.0

_Values = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class _Estimates:
    """Quantities with their estimates and SDs ``(voxel, quantity)``."""

    quantities: list[Quantity]
    values: _Values
    sd: _Values

    @property
    def percent(self) -> _Values:
        """SDs in percent of the estimates; NaN where an estimate is 0."""
        size = np.abs(self.values)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(size > 0, 100.0 * self.sd / size, np.nan)

    def of_roles(self, *roles: Role) -> _Estimates:
        """Those of some roles."""
        kept = [i for i, q in enumerate(self.quantities) if q.role in roles]
        chosen = [self.quantities[i] for i in kept]
        return _Estimates(chosen, self.values[:, kept], self.sd[:, kept])


def write_summary(
    folder: Path, result: xr.Dataset, tissue: Mapping[str, _Values] | None = None
) -> dict[str, object]:
    """Write ``summary.json`` into a scan's folder; returns the row.

    Beside the row stands what its columns are made of, so that a group table says what each is.
    Tissue fractions are those of the scan store, if it is still there, unless they are given.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    tissue = stored_tissue(result) if tissue is None else tissue
    row, quantities = _summarised(_loaded(result), tissue)
    content = {
        "version": SUMMARY_VERSION,
        "row": row,
        "tissues": list(tissue),
        "quantities": [_told(q) for q in quantities],
        "pipeline": result.attrs.get("pipeline", {}),
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    write_atomically(folder / SUMMARY_FILE, text.encode())
    return row


def summarise_scan(
    result: xr.Dataset, tissue: Mapping[str, _Values] | None = None
) -> dict[str, object]:
    """The scan's row of the group table: column to a number, a word, or ``None`` where unknown.

    Columns are those of :func:`~mrsi_engine.report.columns.summary_columns`. Measures and
    lineshapes are over fitted voxels, as in the scan's own report; amounts and ratios over usable
    ones. Ratios are to the reference of the nucleus (1H: tCr), by the main estimator.

    Parameters
    ----------
    result
        A result store opened as a dataset.
    tissue
        Fractions ``(voxel,)`` by class; a voxel is of a class where its fraction is above
        :data:`~mrsi_engine.report.columns.DOMINANT`.
    """
    return _summarised(_loaded(result), tissue)[0]


@dataclass(frozen=True)
class ScanSummary:
    """What ``summary.json`` holds: the row, what its columns are of, and how it was processed."""

    row: Mapping[str, object]
    quantities: tuple[Quantity, ...]
    tissues: tuple[str, ...] = ()
    pipeline: Mapping[str, Any] = field(default_factory=dict)


def read_summary(folder: Path) -> ScanSummary:
    """The summary in a scan's folder.

    Raises
    ------
    InputError
        If there is none, or it was written by another version.
    """
    path = folder / SUMMARY_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stated = content["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no summary of a scan ({error}); run the scan again") from error
    if stated != SUMMARY_VERSION:
        raise InputError(
            f"{path}: summary of version {stated}, this mrsi_engine reads {SUMMARY_VERSION}; run "
            "the scan again"
        )
    quantities = tuple(_quantity(tuple(q.values())) for q in content["quantities"])
    return ScanSummary(
        content["row"], quantities, tuple(content["tissues"]), content.get("pipeline", {})
    )


def reference_of(amplitudes: Sequence[str], table: Nucleus) -> str:
    """Which of the amplitudes ratios are to: that of the nucleus, or the part of it that is there.

    Empty where there is none: without PCr in the basis ``Cr`` stands for ``CrPCr``.
    """
    possible = [table.label_of(table.ratio_to), *table.members_of(table.ratio_to)]
    return next((name for name in possible if name in amplitudes), "")


def _loaded(result: xr.Dataset) -> xr.Dataset:
    """The result without its signals, in memory: lazily it would be read for every number."""
    return result[[name for name in _READ if name in result]].load()


def _summarised(
    result: xr.Dataset, tissue: Mapping[str, _Values] | None
) -> tuple[dict[str, object], list[Quantity]]:
    fitted, usable = fitted_voxels(result), usable_voxels(result) & ~scalp_voxels(result)
    known = _main_estimates(result)
    table = nucleus_of(result)
    names = [q.name for q in known.of_roles(*AMPLITUDES).quantities]
    ratios = _ratios(known, reference_of(names, table))
    measures = [q for q in measures_of(result, Role.QUALITY) if q.estimator == MAIN]
    row: dict[str, object] = {
        **_verdict(result),
        **_frequency(result, fitted),
        **_protocol(result),
        **_processing(result),
        "ratio_to": reference_of(names, table) or None,
    }
    groups = {t: usable & (np.asarray(f) > DOMINANT) for t, f in (tissue or {}).items()}
    row |= {tissue_column(t).name: int(inside.sum()) for t, inside in groups.items()}
    limit = limits(result).max_crlb_percent
    row |= _spreads(measures, _measured(result, measures)[fitted])
    shapes = known.of_roles(Role.LINESHAPE)
    row |= _spreads(shapes.quantities, shapes.values[fitted])
    for estimates in (known.of_roles(*BY_TISSUE), ratios):
        row |= _amounts(estimates, usable, limit)
        for t, inside in groups.items():
            row |= _medians(estimates.quantities, estimates.values[inside], in_tissue(t).suffix)
    quantities = [*measures, *known.quantities, *ratios.quantities]
    told = [q for q in quantities if q.role in STATISTICS]
    return {name: _plain(value) for name, value in row.items()}, told


def _main_estimates(result: xr.Dataset) -> _Estimates:
    """Parameters by the main estimator."""
    every = parameters_of(result)
    kept = [i for i, q in enumerate(every) if q.estimator == MAIN and q.role in STATISTICS]
    values, sd = (
        result[n].transpose("voxel", "parameter").values[:, kept].astype(float)
        for n in ("estimate", "sd")
    )
    return _Estimates([every[i] for i in kept], values, sd)


def _measured(result: xr.Dataset, measures: Sequence[Quantity]) -> _Values:
    """Measures ``(voxel, measure)``."""
    places = {q.name: i for i, q in enumerate(measures_of(result))}
    kept = [places[q.name] for q in measures]
    return result["quality"].transpose("voxel", "measure").values[:, kept].astype(float)


def _ratios(known: _Estimates, reference: str) -> _Estimates:
    """Amplitudes over the reference's, but those ratios that the result has itself.

    Their errors are those of both, without the covariance that only the fit knows.
    """
    amplitudes = known.of_roles(Role.METABOLITE, Role.COMBINATION)
    below = next((i for i, q in enumerate(amplitudes.quantities) if q.name == reference), None)
    nothing = _Estimates([], known.values[:, :0], known.sd[:, :0])
    if below is None:
        return nothing
    own = {(q.of, q.reference) for q in known.quantities if q.role == Role.RATIO}
    under = amplitudes.quantities[below]
    kept = [
        i
        for i, q in enumerate(amplitudes.quantities)
        if i != below and (q.name, reference) not in own
    ]
    quantities = [_ratio(amplitudes.quantities[i], under) for i in kept]
    value, sd = amplitudes.values[:, below, None], amplitudes.sd[:, below, None]
    safe = np.where(value > np.nan_to_num(_LEAST_REFERENCE_SDS * sd), value, np.nan)
    values = amplitudes.values[:, kept] / safe
    relative = np.hypot(amplitudes.percent[:, kept], 100.0 * sd / safe)
    return _Estimates(quantities, values, np.abs(values) * relative / 100.0)


@lru_cache(maxsize=4096)
def _ratio(above: Quantity, below: Quantity) -> Quantity:
    doc = f"amplitude of {above.label} over that of {below.label}, where that is above 3 of its SDs"
    return ratio(above, below, doc, "from the errors of both amplitudes, without their covariance")


def _amounts(known: _Estimates, usable: NDArray[np.bool_], limit: float) -> dict[str, float]:
    values, percent = known.values[usable], known.percent[usable]
    found = _medians(known.quantities, values, MEDIAN.suffix)
    of_sd = [q for q in known.quantities if SD in STATISTICS[q.role]]
    sds = known.sd[usable][:, [known.quantities.index(q) for q in of_sd]]
    found |= _medians(of_sd, sds, SD.suffix)
    in_percent = [i for i, q in enumerate(known.quantities) if CRLB in STATISTICS[q.role]]
    amounts = [known.quantities[i] for i in in_percent]
    found |= _medians(amounts, percent[:, in_percent], CRLB.suffix)
    covered = 100.0 * (percent[:, in_percent] < limit).sum(0) / max(len(percent), 1)
    known_bars = np.atleast_1d(np.isfinite(percent[:, in_percent]).any(0))
    for q, share, bars in zip(amounts, covered, known_bars, strict=True):
        found[f"{q.name}_{COVERAGE.suffix}"] = float(share) if bars else math.nan
    return found


def _spreads(quantities: Sequence[Quantity], values: _Values) -> dict[str, float]:
    """Medians and quartiles of ``values (voxel, quantity)``."""
    found = _quantiles(values, (0.5, 0.25, 0.75))
    return {
        f"{q.name}_{statistic.suffix}": float(found[i, k])
        for k, q in enumerate(quantities)
        for i, statistic in enumerate(FITTED)
    }


def _medians(quantities: Sequence[Quantity], values: _Values, suffix: str) -> dict[str, float]:
    found = _quantiles(values, (0.5,))[0]
    return {f"{q.name}_{suffix}": float(v) for q, v in zip(quantities, found, strict=True)}


def _quantiles(values: _Values, shares: Sequence[float]) -> _Values:
    """Linear quantiles of the finite values along the first axis, ``(share, ...)``.

    Sorted once: ``nanpercentile`` goes column by column.
    """
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan), axis=0)
    count = np.isfinite(ordered).sum(0)
    found = np.full((len(shares), *values.shape[1:]), np.nan)
    if not len(values):
        return found
    for i, share in enumerate(shares):
        at = share * np.maximum(count - 1, 0)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        below, above = (np.take_along_axis(ordered, j[None], 0)[0] for j in (low, high))
        found[i] = below + (at - low) * (above - below)
    return found


def _verdict(result: xr.Dataset) -> dict[str, object]:
    verdict = verdict_on(result)
    inside = ~scalp_voxels(result)
    flags = flags_of(result)[inside]
    return {
        "verdict": verdict.text,
        "voxels": verdict.voxels,
        "fitted": int(fitted_voxels(result)[inside].sum()),
        "usable": verdict.usable,
        "usable_share": 100.0 * verdict.share,
        "main_reason": verdict.reasons[0][0] if verdict.reasons else None,
        **{flag_column(f).name: int(((flags & int(f)) != 0).sum()) for f in Flag},
    }


def _frequency(result: xr.Dataset, fitted: NDArray[np.bool_]) -> dict[str, object]:
    median, spread = math.nan, math.nan
    if parts_of(result, "b0shift"):
        shift = total_of(result, "b0shift")["estimate"].values[fitted].astype(float)
        median = float(_quantiles(shift, (0.5,))[0])
        spread = MAD_TO_SD * float(_quantiles(np.abs(shift - median), (0.5,))[0])
    return {"b0_shift_median": median, "b0_shift_spread": spread}


def _protocol(result: xr.Dataset) -> dict[str, object]:
    axis = Acquisition(**result.attrs["acquisition"])
    header = result.attrs.get("header", {})
    affine = np.asarray(result.attrs["affine"], float)[:3, :3]
    placed = result.attrs.get("position_code", 1) != 0
    sequence = sequence_of(header)
    return {
        "protocol": protocol_of(axis, sequence),
        "nucleus": axis.nucleus,
        "field": nucleus_of(result).field(axis.spectrometer_frequency),
        "sequence": sequence or None,
        "echo_time": axis.echo_time,
        "repetition_time": axis.repetition_time,
        "points": axis.points,
        "spectral_width": axis.spectral_width,
        "matrix": "x".join(str(n) for n in result.attrs["shape"]),
        "voxel_volume": 1e-3 * abs(float(np.linalg.det(affine))) if placed else None,
        "manufacturer": _word(header, "Manufacturer"),
        "model": _word(header, "ManufacturersModelName"),
        "scanner_software": _word(header, "SoftwareVersions"),
    }


def _processing(result: xr.Dataset) -> dict[str, object]:
    attrs = result.attrs
    sessions: list[Mapping[str, Any]] = attrs.get("timings", [])
    devices = sorted({d for session in sessions for d in session.get("devices", ())})
    return {
        "pipeline": attrs.get("pipeline", {}).get("name"),
        "basis": PurePath((attrs.get("basis") or {}).get("source", "")).name or None,
        "mask": attrs.get("mask_origin"),
        "crlb_limit": limits(result).max_crlb_percent,
        "engine_version": attrs.get("engine_version"),
        "torch_version": version("torch"),
        "devices": ", ".join(devices) or None,
        "finished": attrs.get("finished"),
        "processing_seconds": _sum(sessions, "seconds"),
        "kernel_seconds": _sum(sessions, "kernel_seconds"),
    }


def _sum(sessions: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return sum(float(s.get(name, 0.0)) for s in sessions) if sessions else None


def _word(header: Mapping[str, Any], name: str) -> str | None:
    value = header.get(name)
    return str(value).strip() or None if isinstance(value, str | int | float) else None


def _told(quantity: Quantity) -> dict[str, str]:
    return {name: str(getattr(quantity, name)) for name in _TOLD}


@lru_cache(maxsize=4096)
def _quantity(values: tuple[str, ...]) -> Quantity:
    """Made, and checked, once for all scans."""
    fields: dict[str, Any] = dict(zip(_TOLD, values, strict=True))
    return Quantity(**fields)


def _plain(value: object) -> object:
    """As JSON has it: rounded, ``None`` for what is not a number."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
