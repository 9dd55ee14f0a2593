"""A scan of a cohort as workers get it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from mrsi_engine.choices import Reports
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.engine.clusters import LOCAL
from mrsi_engine.engine.opening import pipeline_of
from mrsi_engine.io.places import place
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.one_scan import Inputs, Options

#: Voxels up to which a scan is one task from import to report. It is a block of most pipelines:
#: cut, its blocks would be small, and a task more costs less than its stores opened once more.
WHOLE_VOXELS = 2048


@dataclass(frozen=True)
class ScanJob:
    """A scan and all that a process has to know to run it; made by :meth:`of`.

    Parameters
    ----------
    row
        The scan.
    out
        Folder of the cohort, or its address on an object store.
    pipeline, modules
        Settings of the pipeline as JSON, and where its stages are defined.
    basis
        May be left out where no stage needs one.
    options
        How to run; where, is said by who runs the jobs.
    points, keep_personal
        Of the import.
    reports
        Whether a report is made.
    voxels
        About how many, as far as known; those of its grid will do.
    whole_voxels
        Voxels up to which it is one task.
    """

    row: ScanRow
    out: str
    pipeline: str
    modules: tuple[str, ...] = ()
    basis: BasisChoice | None = None
    options: Options = field(default_factory=Options)
    points: int | None = None
    keep_personal: bool = False
    reports: Reports = "all"
    voxels: int | None = None
    whole_voxels: int = WHOLE_VOXELS

    @classmethod
    def of(
        cls,
        row: ScanRow,
        out: str | Path,
        pipeline: Pipeline,
        basis: BasisChoice | None = None,
        options: Options | None = None,
        *,
        points: int | None = None,
        keep_personal: bool = False,
        reports: Reports = "all",
        voxels: int | None = None,
    ) -> ScanJob:
        """A scan with what is done to it."""
        here = replace(options or Options(), cluster=LOCAL, workers=0, tls=None)
        return cls(
            row,
            str(out),
            json.dumps(pipeline.settings()),
            tuple(pipeline.modules),
            basis,
            here,
            points,
            keep_personal,
            reports,
            voxels,
        )

    @property
    def name(self) -> str:
        """What the cohort knows it by: its folder inside that of the cohort."""
        return self.row.folder

    @property
    def folder(self) -> Path:
        """Its folder."""
        return place(self.out) / self.row.folder

    @property
    def inputs(self) -> Inputs:
        """Its files."""
        return self.row.inputs(self.points, self.keep_personal)

    def load_pipeline(self) -> Pipeline:
        """Its pipeline, read once a process."""
        return _pipeline(self.pipeline, self.modules)


@lru_cache(maxsize=16)
def _pipeline(settings: str, modules: tuple[str, ...]) -> Pipeline:
    known: Mapping[str, object] = json.loads(settings)
    return pipeline_of(dict(known), modules, str(known["name"]))
