"""Result store to NIfTI-MRS: the signals a run kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.dimensions import TIME, VOXEL
from mrsi_engine.errors import InputError
from mrsi_engine.io.dimensions import DIMENSION_TAGS
from mrsi_engine.io.files import safe_stem
from mrsi_engine.io.map_files import check_exportable, plain, position_code
from mrsi_engine.io.nifti_mrs import write_nifti_mrs
from mrsi_engine.quantities import RESIDUAL, safe_label


def export_signals(result: xr.Dataset, folder: Path, *, stem: str | None = None) -> list[Path]:
    """Write every signal that was kept as NIfTI-MRS, and the residual where data and fit were.

    Each header extension is the scan's own plus ``ProcessingApplied`` entries, one a stage
    that was not passed over. Voxels outside the mask are zero; those without a fit hold what the
    store holds, NaN.

    Raises
    ------
    InputError
        If the result holds no signals.
    RunError
        If a file cannot be written.
    """
    check_exportable(result)
    signals = signals_of(result)
    if not signals:
        raise InputError(
            f"{result.attrs['stem']}: the result holds no signals; run again and keep the signals"
        )
    prefix = safe_stem(stem or result.attrs["stem"])
    header = _signal_header(result)
    acquisition = Acquisition(**result.attrs["acquisition"])
    affine, code = np.asarray(result.attrs["affine"], float), position_code(result)
    paths = []
    for name, values in signals.items():
        path = folder / f"{prefix}_space-orig_desc-{safe_label(name)}_mrsi.nii.gz"
        meaning = str(values.attrs.get("long_name", name))
        entry = _export_entry(meaning, str(result.attrs["engine_version"]))
        applied = [*header["ProcessingApplied"], entry]
        full = {**_with_tags(header, values), "ProcessingApplied": applied}
        paths.append(
            write_nifti_mrs(path, _signal_volume(result, values), acquisition, affine, full, code)
        )
    return paths


def signals_of(result: xr.Dataset) -> dict[str, xr.DataArray]:
    """Every signal that was kept, whatever stage wrote it, and the residual of the fit."""
    kept = {str(n): v for n, v in result.data_vars.items() if {VOXEL, TIME} <= set(v.dims)}
    if "corrected" in kept and "fit" in kept:
        left = kept["corrected"] - kept["fit"]
        kept[RESIDUAL] = left.assign_attrs(long_name="corrected FID less the fitted model")
    return kept


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
    version = str(result.attrs["engine_version"])
    methods = result.attrs.get("processing_methods", {})
    finished = result.attrs.get("finished")
    time = {} if finished is None else {"Time": _without_zone(datetime.fromisoformat(finished))}
    stages = result.attrs.get("applied", result.attrs.get("pipeline", {}).get("stages", []))
    done = [{**time, **_stage_entry(settings, methods, version)} for settings in stages]
    return {**header, "ProcessingApplied": [*header.get("ProcessingApplied", []), *done]}


def _stage_entry(
    settings: Mapping[str, Any], methods: Mapping[str, str], version: str
) -> dict[str, str]:
    details = json.dumps(dict(settings), default=plain)
    return _entry(methods.get(settings["stage"], settings["stage"]), details, version)


def _export_entry(details: str, version: str) -> dict[str, str]:
    return {"Time": _without_zone(datetime.now(UTC)), **_entry("Export", details, version)}


def _without_zone(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat(timespec="milliseconds")


def _entry(method: str, details: str, version: str) -> dict[str, str]:
    return {"Program": "mrsi_engine", "Version": version, "Method": method, "Details": details}
