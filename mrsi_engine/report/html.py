"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Status
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.result_quantities import (
    error_meaning,
    fitted_voxels,
    measures_of,
    parameter_of,
    parts_of,
    relative_crlb,
    scalp_voxels,
    total_of,
)
from mrsi_engine.pipeline.trace import StageTrace
from mrsi_engine.quantities import AMPLITUDES, TOTALS, Quantity, Role
from mrsi_engine.report.compare import Comparison, ComparisonRow
from mrsi_engine.report.examples import SpectrumExample, stored_examples
from mrsi_engine.report.figures import spectrum_figure
from mrsi_engine.report.fit_figures import correlation_figure, fit_figure
from mrsi_engine.report.mosaic import CRLB_SCALE, View, view_of
from mrsi_engine.report.pictures import Picture, colours_of, histogrammed, picture
from mrsi_engine.report.png import BACKGROUND
from mrsi_engine.report.stages import FEW_VOXELS, stages_content
from mrsi_engine.report.tables import (
    MetaboliteRow,
    estimate,
    flag_counts,
    limits,
    measure,
    median,
    metabolite_table,
    number,
    percentage,
    status_counts,
    usable_voxels,
)
from mrsi_engine.report.truth import TruthRow
from mrsi_engine.report.verdict import verdict_on
from mrsi_engine.report.ways import (
    STATUS_COLOURS,
    believed,
    calibration_remarks,
    status_picture,
    ways_content,
)
from mrsi_engine.stages.denoise import Denoise

#: Metabolites whose median CRLB is above this stand folded, with the macromolecules.
FOLDED_CRLB = 50.0

#: Median fit quality from which the noise level, not the fit, is in doubt.
FILTERED_FIT_QUALITY = 20.0

_SECTIONS = {
    Role.CONCENTRATION: "Ratios and concentrations",
    Role.RATIO: "Ratios of amplitudes",
    Role.COMBINATION: "Sums of overlapping metabolites",
    Role.METABOLITE: "Single metabolites",
    Role.MACROMOLECULE: "Macromolecules and lipids",
    Role.PROPERTY: "Other properties of metabolites",
    Role.QUALITY: "Measures of metabolites",
}
_DENOISED = (
    "The signals were denoised before the fit. The Cramér-Rao bounds are computed from the noise "
    "before that: from what is left they would be too small."
)
_QUALITY = ("snr", "fwhm", "fit_quality", "water_residual")
_PACKAGES = ("numpy", "scipy", "torch", "xarray", "zarr", "dask", "nibabel", "nifti-mrs")
_MASKS = {
    "given": "The mask was given with the scan.",
    "every voxel": "No mask was given: every voxel of the few there are was taken.",
    "signal energy": (
        "No mask was given. This one was made from the signal energy of the scan: it follows where "
        "there is signal, not anatomy, and can hold scalp or miss weak brain."
    ),
}


def write_report(
    result: xr.Dataset,
    out: Path,
    *,
    examples: Sequence[SpectrumExample] = (),
    timings: Mapping[str, float] | None = None,
    comparison: Comparison | None = None,
    truth_table: Sequence[TruthRow] | None = None,
    traces: Sequence[StageTrace] = (),
    remarks: Sequence[str] = (),
) -> Path:
    """Write the report of one scan.

    Parameters
    ----------
    result
        A result store opened as a dataset.
    out
        The HTML file; replaced if it is there.
    examples
        Spectra to show; those of the result's own best, median and worst voxel by default, if it
        kept its signals.
    timings
        Seconds by step.
    comparison
        Adds a section on LCModel.
    truth_table
        Adds a section on known amplitudes.
    traces
        Adds a section on what each stage did; of the voxels that
        :func:`~mrsi_engine.report.examples.example_voxels` names, in that order.
    remarks
        Said at the top beside what the result itself calls for.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    stages = stages_content(result, traces)
    content = {
        **_scan(result, remarks),
        **_maps(result, [name for name in _QUALITY if name not in stages["written"]]),
        **stages,
        **_spectra(examples or stored_examples(result)),
        **_compared(comparison),
        "truth": truth_table or (),
        "timings": timings or {},
    }
    page = template("report.html.j2").render(content)
    return write_atomically(out, page.encode())


@cache
def template(name: str) -> jinja2.Template:
    """A page of this room, with the filters that write numbers for people; compiled once."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mrsi_engine.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=number, percentage=percentage)
    return environment.get_template(name)


def _scan(result: xr.Dataset, remarks: Sequence[str]) -> dict[str, Any]:
    attrs = result.attrs
    return {
        "stem": attrs["stem"],
        "verdict": verdict_on(result).text,
        "facts": _facts(attrs),
        "headlines": list(_headlines(result)),
        "remarks": [*_remarks(result), *remarks],
        "status_counts": status_counts(result),
        "flag_counts": flag_counts(result),
        "crlb_limit": limits(result).max_crlb_percent,
        "mask_text": _MASKS.get(attrs.get("mask_origin", ""), "How the mask was made is unknown."),
        "mask_voxels": _mask_voxels(result),
        "settings": _settings(attrs),
        "pipeline": attrs.get("pipeline", {}),
        "provenance": _provenance(attrs),
        "versions": _versions(),
        "engine_version": attrs["engine_version"],
    }


def _facts(attrs: Mapping[str, Any]) -> list[tuple[str, str]]:
    a, basis = attrs.get("acquisition") or {}, attrs.get("basis") or {}
    zooms = np.linalg.norm(np.asarray(attrs["affine"], float)[:3, :3], axis=0)
    milliseconds = {
        k: None if a.get(k) is None else 1e3 * a[k] for k in ("echo_time", "repetition_time")
    }
    width = 1 / a["dwell_time"] if "dwell_time" in a else None
    return [
        ("Matrix", " × ".join(str(n) for n in attrs["shape"])),
        ("Voxel", " × ".join(number(float(z)) for z in zooms) + " mm"),
        ("Nucleus", str(a.get("nucleus", "–"))),
        ("Frequency", f"{number(a.get('spectrometer_frequency'), 6)} MHz"),
        ("Points", f"{number(a.get('points'))} at {number(width, 4)} Hz"),
        ("Echo time", f"{number(milliseconds['echo_time'])} ms"),
        ("Repetition time", f"{number(milliseconds['repetition_time'], 4)} ms"),
        (
            "Basis",
            f"{Path(str(basis.get('source', '–'))).name}, {len(basis.get('names', []))} columns",
        ),
    ]


def _headlines(result: xr.Dataset) -> Iterator[tuple[str, str, str]]:
    usable, voxels = int(usable_voxels(result).sum()), _mask_voxels(result)
    done = int(fitted_voxels(result).sum())
    share = f"{percentage(100 * done / max(voxels, 1))} of {number(voxels)} in the mask"
    if (result["status"] == Status.CORRECTED).any():
        yield number(done), "voxels corrected", share
        return
    yield number(done), "voxels fitted", share
    limit = limits(result)
    within = f"FWHM ≤ {limit.max_fwhm_ppm:g} ppm, SNR ≥ {limit.min_snr:g} and no other flag"
    yield percentage(100 * usable / max(voxels, 1)), "usable spectra", within
    yield number(median(measure(result, "snr"))), "median SNR", "NAA peak over SD of noise"
    hertz = number(median(measure(result, "fwhm_hz")))
    yield f"{number(median(measure(result, 'fwhm')))} ppm", "median linewidth", f"FWHM, {hertz} Hz"
    quality = number(median(measure(result, "fit_quality")))
    yield quality, "median fit quality", "SD of residual over noise; 1 is ideal"


def _remarks(result: xr.Dataset) -> Iterator[str]:
    counts = {name: n for name, n, _ in status_counts(result)}
    scalp = int(scalp_voxels(result).sum())
    unfinished, unfit = counts.get("not processed", 0), counts.get("no fit", 0) - scalp
    if unfinished:
        yield f"{_voxels(unfinished)} not processed: the run is not complete."
    if unfit > 0:
        yield f"{_voxels(unfit)} without a fit (NaN, Inf or no signal): blank in every map."
    if scalp:
        yield f"{_voxels(scalp)} of scalp that stages learned from: blank in every map."
    fitted = int(fitted_voxels(result).sum())
    unusable = fitted - int(usable_voxels(result).sum())
    if counts.get("corrected"):
        yield "The pipeline corrects signals and quantifies nothing."
    elif unusable > 0.1 * fitted:
        yield (
            f"{percentage(100 * unusable / fitted)} of the fitted voxels are flagged; read their "
            "concentrations with care."
        )
    if median(measure(result, "fit_quality")) > FILTERED_FIT_QUALITY:
        yield (
            "The residual is many times the noise measured where there is no signal: the data are "
            "filtered or apodised, or the model does not hold. The Cramér-Rao bounds are then far "
            "too small; go by the relative residual."
        )
    if any(s.get("stage") == Denoise.stage for s in _tables(result.attrs)):
        yield _DENOISED
    yield from _not_scaled(result)
    yield from calibration_remarks(result)
    if result.attrs.get("mask_origin") == "signal energy":
        yield _MASKS["signal energy"]
    yield from (str(note) for note in result.attrs.get("notes", []))


def _not_scaled(result: xr.Dataset) -> Iterator[str]:
    for q in measures_of(result, Role.REASON):
        missing = int((measure(result, q.name) > 0).sum())
        if missing:
            yield f"{_voxels(missing)} fitted but without concentrations ({q.doc}): blank there."


def _mask_voxels(result: xr.Dataset) -> int:
    return int(result.sizes["voxel"] - scalp_voxels(result).sum())


def _voxels(count: int) -> str:
    return f"{number(count)} voxel{'s' if count != 1 else ''}"


def _settings(attrs: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (str(s.get("stage", "")), [(k, _plain(v)) for k, v in s.items() if k != "stage"])
        for s in _tables(attrs)
    ]


def _tables(attrs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The settings of each stage."""
    return list(attrs.get("pipeline", {}).get("stages", []))


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "–"}[value]
    return str(value)


def _provenance(attrs: Mapping[str, Any]) -> list[tuple[str, str]]:
    basis = attrs.get("basis") or {}
    pairs = [
        ("Scan", attrs.get("source")),
        ("SHA-256 of the scan", attrs.get("checksum")),
        ("Basis", basis.get("source")),
        ("Sequence of the basis", basis.get("sequence")),
        ("Columns of the basis", ", ".join(basis.get("names", []))),
        ("SHA-256 of the basis", basis.get("fingerprint")),
        *_models(attrs),
        ("Run", attrs.get("run_fingerprint")),
        ("Computed on", ", ".join(_devices(attrs))),
    ]
    return [(name, str(value)) for name, value in pairs if value]


def _models(attrs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Trained models that stages took, with their checksums."""
    for stage, models in attrs.get("identity", {}).get("models", {}).items():
        for name, checksum in models.items():
            yield f"Network of stage {stage}", f"{name}, SHA-256 of its weights {checksum}"


def _devices(attrs: Mapping[str, Any]) -> list[str]:
    """What computed the blocks, over all sessions: ``cpu``, or names of GPUs."""
    sessions = attrs.get("timings", [])
    return sorted({device for session in sessions for device in session.get("devices", ())})


def _versions() -> list[tuple[str, str]]:
    found = [("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return found


def _maps(result: xr.Dataset, quality: Sequence[str]) -> dict[str, Any]:
    view, rows = view_of(result), metabolite_table(result)
    few = result.sizes["voxel"] <= FEW_VOXELS
    pairs = [] if few else [(row, _metabolite_pictures(result, view, row)) for row in rows]
    return {
        "few": few,
        "orientation": view.caption,
        "letters": view.letters,
        "background": BACKGROUND,
        "with_table": bool(rows),
        "error": _error_name(result),
        "error_text": error_meaning(result),
        "in_parts": any(len(pictures) > 2 for _, pictures in pairs),
        "with_priors": any(math.isfinite(row.data_percent) for row in rows),
        "table": [
            (title, [r for r in rows if r.role == role]) for role, title in _SECTIONS.items()
        ],
        "maps": [p for p in pairs if not _folded(p[0])],
        "folded_maps": [p for p in pairs if _folded(p[0])],
        "qc": [] if few else list(_quality_pictures(result, view, quality)),
        "qc_numbers": list(_quality_numbers(result, quality)) if few else [],
        "status_map": status_picture(result, view),
        "status_legend": [
            (s.meaning.replace("_", " "), STATUS_COLOURS[s])
            for s in Status
            if (result["status"] == s).any()
        ],
        **ways_content(result, None if few else view),
    }


def _folded(row: MetaboliteRow) -> bool:
    return row.role == Role.MACROMOLECULE or (_has_error(row) and not row.crlb <= FOLDED_CRLB)


def _has_error(row: MetaboliteRow) -> bool:
    return row.role != Role.QUALITY


def _error_name(result: xr.Dataset) -> str:
    return "SD" if believed(result) else "CRLB"


def _metabolite_pictures(result: xr.Dataset, view: View, row: MetaboliteRow) -> list[Picture]:
    """The estimate, its error, and what that is made of if of several parts; errors in percent."""
    if not _has_error(row):
        values = measure(result, row.label)
        return [picture(result, view, values, row.title, row.unit, "quality")]
    values = estimate(result, row.label)
    percent = np.where(np.isfinite(values), relative_crlb(result, row.label), np.nan)
    colours = colours_of(parameter_of(result, row.label))
    shown = picture(result, view, values, row.title, row.unit, colours)
    error = f"{_error_name(result)} of {row.title}"
    parts = {error: percent, **_parts_of_error(result, row.label)}
    return [shown, *(_error_picture(result, view, *part) for part in parts.items())]


def _parts_of_error(result: xr.Dataset, label: str) -> dict[str, NDArray[np.floating]]:
    """In percent of the estimate, by title; none where there is but one."""
    own = parameter_of(result, label)
    parts = [
        q
        for q in measures_of(result, Role.ERROR_PART)
        if own.role in AMPLITUDES and (q.of, q.estimator) == (own.of, own.estimator)
    ]
    if len(parts) < 2:
        return {}
    size = np.abs(estimate(result, label))
    size = np.where(size > 0, size, np.nan)
    return {q.label: 100 * measure(result, q.name) / size for q in parts}


def _error_picture(
    result: xr.Dataset, view: View, title: str, percent: NDArray[np.floating]
) -> Picture:
    with np.errstate(divide="ignore"):
        exponent = np.log10(percent)
    low, high = np.log10(CRLB_SCALE)
    drawn = picture(result, view, exponent, title, "%", "uncertainty", (low, high))
    return replace(drawn, ticks=tuple(number(t) for t in (1.0, 10.0, 100.0)))


def _quality_numbers(
    result: xr.Dataset, quality: Sequence[str]
) -> Iterator[tuple[str, str, list[str]]]:
    """Title, unit and the value of each voxel, where there are too few for pictures."""
    for q in _shown(result, quality):
        values = [number(float(v)) for v in measure(result, q.name)]
        yield q.label, "" if q.units == "1" else q.units, values


def _quality_pictures(result: xr.Dataset, view: View, quality: Sequence[str]) -> Iterator[Picture]:
    for q in _shown(result, quality):
        values = measure(result, q.name)
        yield histogrammed(result, view, values, q.label, q.units, colours_of(q))
    for total in TOTALS.values():
        if parts_of(result, total.name):
            summed = total_of(result, total.name)["estimate"]
            values = np.where(fitted_voxels(result), summed, np.nan)
            yield histogrammed(result, view, values, total.title, total.units, "signed")


def _shown(result: xr.Dataset, names: Sequence[str]) -> list[Quantity]:
    measures = {q.name: q for q in measures_of(result)}
    return [measures[name] for name in names if name in measures]


def _spectra(examples: Sequence[SpectrumExample]) -> dict[str, Any]:
    return {"spectra": [(e, spectrum_figure(e), _in_detail(e)) for e in examples]}


def _in_detail(example: SpectrumExample) -> tuple[str, str] | None:
    """Figures of its metabolites and of their correlations, where they are known."""
    if example.correlation is None:
        return None
    return fit_figure(example), correlation_figure(example)


def _compared(comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return {"comparison": None, "scatter": "", "differences": ""}
    # Matplotlib takes half a second to import, and hardly any report has a comparison.
    from mrsi_engine.report.plotted import difference_figure, scatter_figure

    shown: list[ComparisonRow] = [r for r in comparison.rows if r.voxels]
    return {
        "comparison": comparison,
        "scatter": scatter_figure(comparison, shown) if shown else "",
        "differences": difference_figure(comparison, shown) if shown else "",
    }
