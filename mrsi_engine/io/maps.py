"""Result store to NIfTI: one file a map, with a JSON sidecar that says what it holds."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.choices import Fill
from mrsi_engine.conventions import TIME, VOXEL, Acquisition, Flag, Status
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import safe_label, safe_stem, write_atomically
from mrsi_engine.io.nifti_mrs import DIMENSION_TAGS, write_nifti_mrs

#: Kinds of parameter that are an amount of something, so that a relative CRLB has a meaning.
AMPLITUDE_KINDS = ("metabolite", "macromolecule", "combination")

#: What the error of a network's own amplitude is made of: how the measures' names begin, and what
#: files and columns call it. The SD holds both, multiplied by a factor where it is calibrated.
ERROR_PARTS = {"crlb": "crlbabs", "epistemic": "epistemic"}

_NETWORK_ERROR = (
    "standard deviation of the network's own estimate: Cramér-Rao lower bound there and spread of "
    "an ensemble together, calibrated where the model is"
)

#: What MRSIPrep expects where a CRLB (percent) is unknown; also the largest it is given.
MRSIPREP_CRLB = 999.0


class _Total(NamedTuple):
    """What several stages share: its name in files, unit and meaning."""

    label: str
    unit: str
    doc: str


_TOTALS = {
    "shift": _Total(
        "b0shift", "Hz", "frequency of the data as acquired; positive is towards lower ppm"
    ),
    "phase": _Total("phase", "rad", "zero-order phase of the data as acquired"),
}
_NEEDED_ATTRS = ("shape", "affine", "stem", "source", "checksum", "engine_version")
_SIGNALS = {
    "corrected": "FID after every correction of the pipeline",
    "fit": "Complete fitted model, baseline included",
    "baseline": "Baseline part of the fitted model",
    "residual": "Corrected FID minus the complete fitted model",
}
_STANDARD_METHODS = {
    "water": "Nuisance peak removal",
    "lipid": "Nuisance peak removal",
    "registration": "Frequency and phase correction",
    "phase": "Phasing",
    "ecc": "Eddy current correction",
    "eddy": "Eddy current correction",
}


@dataclass(frozen=True, eq=False)
class Map:
    """One map to be written: ``values (voxel,)``, and ``mrsiprep`` where no number is known.

    ``more`` is what its sidecar says beyond that of every map.
    """

    entities: str
    values: NDArray[np.floating]
    units: str
    definition: str
    mrsiprep: float = np.nan
    more: Mapping[str, Any] = field(default_factory=dict)


def fitted_voxels(result: xr.Dataset) -> NDArray[np.bool_]:
    """Which voxels hold results, a fit or clean signals with their measures, ``(voxel,)``."""
    status = result["status"].values
    return (status != Status.NO_FIT) & (status != Status.NOT_PROCESSED)


def scalp_voxels(result: xr.Dataset) -> NDArray[np.bool_]:
    """Which voxels are scalp, where nothing is quantified, ``(voxel,)``."""
    none = np.zeros(result.sizes["voxel"], bool)
    return result["scalp"].values if "scalp" in result.coords else none


def parameter_names(result: xr.Dataset, *kinds: str) -> list[str]:
    """Names of the parameters of these kinds, in the order of the store."""
    pairs = zip(result["parameter"].values, result["kind"].values, strict=True)
    return [str(name) for name, kind in pairs if str(kind) in kinds]


def relative_crlb(result: xr.Dataset, parameter: str) -> NDArray[np.float32]:
    """CRLB in percent of the estimate's magnitude, ``(voxel,)``; NaN where the estimate is 0."""
    estimate = np.abs(result["estimate"].sel(parameter=parameter).values.astype(float))
    sd = result["sd"].sel(parameter=parameter).values
    percent = np.full(estimate.shape, np.nan)
    np.divide(100.0 * sd, estimate, out=percent, where=estimate > 0)
    return percent.astype(np.float32)


def error_part_of(result: xr.Dataset, measure: str) -> tuple[str, str] | None:
    """Which part of the error of which amplitude a measure is; none for any other measure."""
    part, _, amplitude = measure.partition("_")
    known = part in ERROR_PARTS and amplitude in parameter_names(result, *AMPLITUDE_KINDS)
    return (part, amplitude) if known else None


def error_meaning(result: xr.Dataset) -> str:
    """What the SD of an amplitude is."""
    if any(error_part_of(result, str(name)) for name in result["measure"].values):
        return _NETWORK_ERROR
    return str(result["sd"].attrs.get("long_name", "Cramér-Rao lower bound"))


def total_of(result: xr.Dataset, name: str) -> xr.Dataset:
    """Shift or phase of the data as acquired, over all stages: ``estimate`` and ``sd`` (voxel).

    Each stage says what it found in what the stages before left: ``eddy_shift``, ``fpc_shift`` and
    then ``shift``, the fit's. They add up to that of the data, and an error a stage made is found
    again, with the other sign, by those after it. So the bound is that of the last one that found
    any. NaN where no stage found any.

    Parameters
    ----------
    result
        A result store opened as a dataset.
    name
        ``"shift"`` (Hz) or ``"phase"`` (rad, -pi to pi).

    Raises
    ------
    InputError
        If no stage of the pipeline looks for it.
    """
    parts = parts_of(result, name)
    if not parts:
        raise InputError(f"result: no stage of its pipeline found any {name}")
    rows = result[["estimate", "sd"]].sel(parameter=parts).transpose("parameter", ...)
    found = np.isfinite(rows["estimate"].values)
    total = np.where(found, rows["estimate"].values, 0.0).sum(0)
    if name == "phase":
        total = np.angle(np.exp(1j * total))
    last = len(parts) - 1 - found[::-1].argmax(0)
    sd = np.take_along_axis(rows["sd"].values, last[None], 0)[0]
    known = {"estimate": total, "sd": sd}
    masked = {n: ("voxel", np.where(found.any(0), v, np.nan)) for n, v in known.items()}
    return xr.Dataset(masked, attrs=_TOTALS[name]._asdict())


def parts_of(result: xr.Dataset, name: str) -> list[str]:
    """Parameters that add up to the total ``name``, in the order of the stages."""
    lineshape = parameter_names(result, "lineshape")
    return [n for n in lineshape if n == name or n.endswith(f"_{name}")]


def volume(
    result: xr.Dataset, values: NDArray[Any], background: float = np.nan
) -> NDArray[np.float32]:
    """``values (voxel,)`` scattered into the scan's volume ``(x, y, z)``, float32."""
    out = np.full(tuple(result.attrs["shape"]), background, np.float32)
    out[tuple(result[axis].values for axis in "xyz")] = values
    return out


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
    _check(result)
    if fill not in ("nan", "mrsiprep"):
        raise InputError(f"fill {fill!r}: unknown; allowed are nan, mrsiprep")
    maps = list(_all_maps(result))
    _check_names_differ([m.entities for m in maps])
    prefix = safe_stem(stem or result.attrs["stem"])
    return [_write_map(result, m, folder / f"{prefix}_space-orig_{m.entities}", fill) for m in maps]


def export_signals(result: xr.Dataset, folder: Path, *, stem: str | None = None) -> list[Path]:
    """Write the corrected data, fit, baseline and residual as NIfTI-MRS, as far as stored.

    Each header extension is the scan's own plus ``ProcessingApplied`` entries, one a pipeline
    stage. Voxels outside the mask are zero; those without a fit hold what the store holds, NaN.

    Raises
    ------
    InputError
        If the result holds no signals.
    RunError
        If a file cannot be written.
    """
    _check(result)
    signals = _signals(result)
    if not signals:
        raise InputError(
            f"{result.attrs['stem']}: the result holds no corrected, fit or baseline signals; run "
            "again and keep the signals"
        )
    prefix = safe_stem(stem or result.attrs["stem"])
    header = _signal_header(result)
    acquisition = Acquisition(**result.attrs["acquisition"])
    affine = np.asarray(result.attrs["affine"], float)
    paths = []
    for name, values in signals.items():
        path = folder / f"{prefix}_space-orig_desc-{name}_mrsi.nii.gz"
        entry = _export_entry(_SIGNALS[name], str(result.attrs["engine_version"]))
        applied = [*header["ProcessingApplied"], entry]
        full = {**_with_tags(header, values), "ProcessingApplied": applied}
        paths.append(
            write_nifti_mrs(path, _signal_volume(result, values), acquisition, affine, full)
        )
    return paths


def _check(result: xr.Dataset) -> None:
    missing = [a for a in _NEEDED_ATTRS if a not in result.attrs]
    if missing:
        raise InputError(f"result: attributes {missing} are missing; it is no result store")
    affine = np.asarray(result.attrs["affine"], float)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or _singular(affine):
        raise InputError(
            f"{result.attrs['source']}: affine {affine.tolist()} is not an invertible 4x4 matrix, "
            "so maps would have no place in space; correct the scan's sform and import it again"
        )


def _singular(affine: NDArray[np.float64]) -> bool:
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((zooms == 0).any() or abs(np.linalg.det(affine[:3, :3] / zooms)) < 1e-6)


def _check_names_differ(names: list[str]) -> None:
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        raise InputError(f"maps: {repeated} would be written twice; rename the basis' metabolites")


def _all_maps(result: xr.Dataset) -> Iterator[Map]:
    for name in parameter_names(result, *AMPLITUDE_KINDS):
        yield from _amplitude_maps(result, name)
    for name in parameter_names(result, "concentration"):
        yield from _concentration_maps(result, name)
    for name in parameter_names(result, "ratio"):
        yield from _ratio_maps(result, name)
    yield from _lineshape_maps(result)
    for name in result["measure"].values:
        yield _measure_map(result, str(name))
    yield _status_map(result)
    if "flags" in result:
        yield _flags_map(result)
    inside = 1.0 - scalp_voxels(result)
    yield Map("desc-brainmask", inside, "1", "1 where voxels were kept for processing", 0.0)


def _amplitude_maps(result: xr.Dataset, name: str) -> Iterator[Map]:
    row = result.sel(parameter=name)
    units, doc, title = (str(row[c].values) for c in ("unit", "doc", "title"))
    met = f"met-{safe_label(name)}"
    bound = error_meaning(result)
    percent = relative_crlb(result, name)
    definition = f"{title}: {bound}, in percent of the estimate; no number where that is 0"
    yield Map(f"{met}_desc-signal", _fitted(result, row["estimate"].values), units, doc, 0.0)
    yield Map(f"{met}_desc-crlb", _fitted(result, percent), "%", definition, MRSIPREP_CRLB)
    yield Map(f"{met}_desc-sd", _fitted(result, row["sd"].values), units, f"{title}: {bound}")


def _lineshape_maps(result: xr.Dataset) -> Iterator[Map]:
    shared = {name: parts for name in _TOTALS if (parts := parts_of(result, name))}
    yield from (_total_map(result, name, parts) for name, parts in shared.items())
    alone = [parts[0] for parts in shared.values() if len(parts) == 1]
    for name in parameter_names(result, "lineshape"):
        if name not in alone:
            row = result.sel(parameter=name)
            desc = f"fit{name}" if name in shared else safe_label(name)
            values = _fitted(result, row["estimate"].values)
            yield Map(f"desc-{desc}", values, str(row["unit"].values), str(row["doc"].values))


def _total_map(result: xr.Dataset, name: str, parts: list[str]) -> Map:
    total, about = total_of(result, name)["estimate"].values, _TOTALS[name]
    return Map(
        f"desc-{about.label}",
        _fitted(result, total),
        about.unit,
        f"{about.doc} ({' + '.join(parts)})",
    )


def _concentration_maps(result: xr.Dataset, name: str) -> Iterator[Map]:
    row = result.sel(parameter=name)
    units, doc = (str(row[c].values) for c in ("unit", "doc"))
    met, more = f"met-{safe_label(name.removesuffix('_conc'))}", _rests_on(result)
    values, sd = (_fitted(result, row[kind].values) for kind in ("estimate", "sd"))
    yield Map(f"{met}_desc-conc", values, units, doc, 0.0, more)
    yield Map(f"{met}_desc-concsd", sd, units, f"SD of {doc}", more=more)


def _ratio_maps(result: xr.Dataset, name: str) -> Iterator[Map]:
    row = result.sel(parameter=name)
    units, doc = (str(row[c].values) for c in ("unit", "doc"))
    values, sd = (_fitted(result, row[kind].values) for kind in ("estimate", "sd"))
    yield Map(f"met-{safe_label(name)}_desc-ratio", values, units, doc, 0.0)
    yield Map(f"met-{safe_label(name)}_desc-ratiosd", sd, units, f"SD of {doc}")


def _rests_on(result: xr.Dataset) -> dict[str, Any]:
    """What concentrations rest on beside the data, and which voxels have none."""
    row = result.sel(measure="not_scaled")
    reasons = _fitted(result, row["quality"].values)
    codes, counts = np.unique_counts(reasons[np.isfinite(reasons)])
    return {
        "Assumptions": result.attrs.get("assumptions", {}).get("scale", {}),
        "Import": list(result.attrs.get("notes", [])),
        "NotScaled": {
            "Definition": str(row["measure_doc"].values),
            "Voxels": {str(int(c)): int(n) for c, n in zip(codes, counts, strict=True)},
        },
    }


def _measure_map(result: xr.Dataset, name: str) -> Map:
    row, entities = result.sel(measure=name), f"desc-{safe_label(name)}"
    if (part := error_part_of(result, name)) is not None:
        entities = f"met-{safe_label(part[1])}_desc-{ERROR_PARTS[part[0]]}"
    return Map(
        entities,
        _fitted(result, row["quality"].values),
        str(row["measure_unit"].values),
        str(row["measure_doc"].values),
        0.0 if name == "snr" else np.nan,
    )


def _status_map(result: xr.Dataset) -> Map:
    meanings = ", ".join(f"{int(s)} {s.meaning}" for s in Status)
    return Map("desc-status", result["status"].values.astype(float), "1", meanings, 0.0)


def _flags_map(result: xr.Dataset) -> Map:
    meanings = ", ".join(f"{int(f)} {f.meaning}" for f in Flag)
    definition = f"Sum of what is wrong with a voxel, 0 nothing: {meanings}"
    return Map("desc-flags", _fitted(result, result["flags"].values), "1", definition)


def _fitted(result: xr.Dataset, values: NDArray[Any]) -> NDArray[np.floating]:
    return np.where(fitted_voxels(result), values, np.nan)


def _write_map(result: xr.Dataset, described: Map, base: Path, fill: Fill) -> Path:
    data = volume(result, described.values, _background(described))
    if fill == "mrsiprep":
        data = np.where(np.isfinite(data), data, np.float32(described.mrsiprep))
        if described.units == "%":
            data = np.minimum(data, np.float32(MRSIPREP_CRLB))
    image, notes = _image(data, np.asarray(result.attrs["affine"], float))
    path = base.with_name(f"{base.name}_mrsi.nii.gz")
    sidecar = _sidecar(result.attrs, described, fill, notes)
    write_atomically(base.with_name(f"{base.name}_mrsi.json"), _json(sidecar))
    return write_atomically(path, gzip.compress(image.to_bytes(), 6, mtime=0))


def _background(described: Map) -> float:
    # A mask that is NaN outside would be read as "inside" by anything that tests for non-zero.
    return 0.0 if described.entities == "desc-brainmask" else np.nan


def _image(
    data: NDArray[np.float32], affine: NDArray[np.float64]
) -> tuple[nib.Nifti1Image, list[str]]:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1, strip_shears=True)
    return image, _qform_notes(image, affine)


def _qform_notes(image: nib.Nifti1Image, affine: NDArray[np.float64]) -> list[str]:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1)
    apart = (image.get_qform() - affine) @ np.vstack([corners, np.ones(corners.shape[1])])
    worst = float(np.linalg.norm(apart[:3], axis=0).max())
    zoom = float(min(image.header.get_zooms()[:3]))
    if worst <= 0.01 * zoom:
        return []
    return [
        "The affine holds shear, which a qform cannot represent: the sform is exact, the qform the "
        f"nearest rotation, up to {worst:.2f} mm off at a corner of the volume. Use the sform."
    ]


def _sidecar(
    attrs: Mapping[str, Any], described: Map, fill: Fill, notes: list[str]
) -> dict[str, Any]:
    blank = "NaN" if fill == "nan" or np.isnan(described.mrsiprep) else described.mrsiprep
    sidecar: dict[str, Any] = {
        "Units": described.units,
        "Definition": described.definition,
        "NoFit": blank,
        "Sources": [attrs["source"]],
        "SourceSHA256": attrs["checksum"],
        "Basis": attrs.get("basis"),
        "Pipeline": attrs.get("pipeline"),
        "Networks": attrs.get("identity", {}).get("models", {}),
        "MaskOrigin": attrs.get("mask_origin"),
        "GeneratedBy": [{"Name": "mrsi_engine", "Version": attrs["engine_version"]}],
        **described.more,
    }
    return {**sidecar, "Notes": notes} if notes else sidecar


def _json(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    return (text + "\n").encode()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _signals(result: xr.Dataset) -> dict[str, xr.DataArray]:
    stored = {n: result[n] for n in ("corrected", "fit", "baseline") if n in result}
    if "corrected" in stored and "fit" in stored:
        stored["residual"] = stored["corrected"] - stored["fit"]
    return stored


def _signal_volume(result: xr.Dataset, values: xr.DataArray) -> NDArray[np.complex64]:
    """``(x, y, z, time, ...)``: what stands between voxel and time comes last in NIfTI-MRS."""
    ordered = values.transpose(VOXEL, TIME, ...).values
    out = np.zeros((*result.attrs["shape"], *ordered.shape[1:]), np.complex64)
    out[tuple(result[axis].values for axis in "xyz")] = ordered
    return out


def _with_tags(header: Mapping[str, Any], values: xr.DataArray) -> dict[str, Any]:
    """The header with the tags of the dimensions that are left, and of no others."""
    tags = {name: tag for tag, name in DIMENSION_TAGS.items()}
    left = [tags[str(d)] for d in values.transpose(VOXEL, TIME, ...).dims[2:]]
    others = {key: value for key, value in header.items() if not key.startswith("dim_")}
    return {**others, **{f"dim_{number}": tag for number, tag in enumerate(left, 5)}}


def _signal_header(result: xr.Dataset) -> dict[str, Any]:
    header = dict(result.attrs.get("header", {}))
    version, finished = str(result.attrs["engine_version"]), result.attrs.get("finished")
    time = {} if finished is None else {"Time": _without_zone(datetime.fromisoformat(finished))}
    stages = result.attrs.get("applied", result.attrs.get("pipeline", {}).get("stages", []))
    done = [{**time, **_stage_entry(settings, version)} for settings in stages]
    return {**header, "ProcessingApplied": [*header.get("ProcessingApplied", []), *done]}


def _stage_entry(settings: Mapping[str, Any], version: str) -> dict[str, str]:
    key = str(settings.get("stage", "stage"))
    method = next((m for part, m in _STANDARD_METHODS.items() if part in key), key)
    return _entry(method, json.dumps(dict(settings), default=_plain), version)


def _export_entry(details: str, version: str) -> dict[str, str]:
    return {"Time": _without_zone(datetime.now(UTC)), **_entry("Export", details, version)}


def _without_zone(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat(timespec="milliseconds")


def _entry(method: str, details: str, version: str) -> dict[str, str]:
    return {"Program": "mrsi_engine", "Version": version, "Method": method, "Details": details}
