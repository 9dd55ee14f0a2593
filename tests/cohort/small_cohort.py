"""Cohorts of tiny scans whose stages act by a script; workers import the module of those."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrsi_engine.cohort.events import CohortEvent
from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.conventions import Acquisition
from mrsi_engine.io.nifti_mrs import write_nifti_mrs
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.folder import result_folder
from mrsi_engine.runs.one_scan import Options

# Forked and spawned workers take over sys.path.
_ENGINE = str(Path(__file__).parent.parent / "engine")
if _ENGINE not in sys.path:
    sys.path.insert(0, _ENGINE)

import scripted  # noqa: E402
import whole_scan  # noqa: E402

ACQUISITION = Acquisition(
    points=64, dwell_time=5e-4, spectrometer_frequency=123.25, echo_time=0.03, repetition_time=1.5
)


def write_scan(path: Path, voxels: int = 12, first: int = 0) -> Path:
    """A scan of ``(voxels, 1, 1)``; the first sample of voxel i is ``first + i + 1``."""
    rng = np.random.default_rng(first)
    shape = (voxels, 1, 1, ACQUISITION.points)
    fids = 0.1 * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    fids[..., 0] = (first + np.arange(voxels) + 1)[:, None, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_nifti_mrs(path, fids.astype(np.complex64), ACQUISITION, np.diag([5.0, 5, 10, 1]))


def scripted_pipeline(
    folder: Path, table: Mapping[int, Sequence[str]] | None = None, passes: int = 0
) -> Pipeline:
    """Stages that act by a table: voxel (with its scan's offset) that begins a block to actions."""
    folder.mkdir(exist_ok=True)
    actions = {str(voxel): tuple(script) for voxel, script in (table or {}).items()}
    script = scripted.Script(folder=str(folder), table=actions)
    template = (whole_scan.Template(passes_wanted=passes),) if passes else ()
    return Pipeline(name="scripted", stages=(script, *template, scripted.Moments()))


def jobs_of(
    folder: Path,
    pipeline: Pipeline,
    count: int,
    *,
    out: str = "out",
    voxels: int = 12,
    block_size: int | None = None,
    **fields: Any,
) -> list[ScanJob]:
    """Scans of a cohort: voxels of scan i begin with 100 i."""
    options = Options(block_size=block_size)
    jobs = []
    for number in range(count):
        scan = folder / "in" / f"sub-{number:02d}_mrsi.nii.gz"
        if not scan.exists():
            write_scan(scan, voxels, 100 * number)
        row = ScanRow(str(scan), subject=f"{number:02d}")
        jobs.append(ScanJob.of(row, folder / out, pipeline, options=options, **fields))
    return jobs


def results(job: ScanJob) -> dict[str, bytes]:
    """What a scan left that must not depend on who did it: maps, and chunks of its results."""
    stored, maps = result_folder(job.folder), job.folder / "maps"
    files = [p for p in stored.rglob("*") if p.is_file() and p.name != "zarr.json"]
    files += maps.glob("*.nii.gz")
    return {str(p.relative_to(job.folder)): p.read_bytes() for p in sorted(files)}


def of_kind(events: Sequence[CohortEvent], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]
