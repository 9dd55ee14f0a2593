"""Whether the FIDs of a finished run begin when its header says: the phases of their lines tell.

A first sample that comes late or early turns lines by a phase that grows with frequency. Amplitudes
alone can follow that a little, so that a fit looks better than it is: metabolites are wrong by tens
of percent. A fit that may choose the delay finds it to some microseconds.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from mrsi_engine.conventions import Flag
from mrsi_engine.engine.revisit import fitted_delays
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.kernels.noise import MAD_TO_SD
from mrsi_engine.report.tables import flags_of, measure
from mrsi_engine.runs.opened import OpenedRun

#: Voxels that are asked, those of the highest SNR, and SDs from which their mean is believed.
_ASKED, _SURE_SDS = 12, 5.0


def unstated_delay(run: OpenedRun) -> float:
    """How much later the FIDs of a run begin than header and basis say, ms; 0 if that is not sure.

    Also where the voxels that would tell cannot be processed again.
    """
    voxels = _strongest(run.result)
    try:
        delays, sds = fitted_delays(run.store, run.scan, voxels) if voxels else (np.zeros(0),) * 2
    except (InputError, RunError):
        return 0.0
    known = np.isfinite(delays)
    if not known.any():
        return 0.0
    middle = float(np.median(delays[known]))
    scatter = MAD_TO_SD * float(np.median(np.abs(delays[known] - middle)))
    stated = float(np.median(np.nan_to_num(sds[known])))
    error = max(scatter, stated) / math.sqrt(known.sum())
    return middle if abs(middle) > _SURE_SDS * error > 0 else 0.0


def _strongest(result: xr.Dataset) -> list[int]:
    fitted = (flags_of(result) & int(Flag.NO_FIT | Flag.NO_SIGNAL)) == 0
    height = np.where(fitted, np.nan_to_num(measure(result, "snr"), nan=0.0), -np.inf)
    order = np.argsort(-height, kind="stable")[:_ASKED]
    return sorted(int(voxel) for voxel in order if fitted[voxel])
