"""A cohort whose scans live at once: what is told and written of them, without their numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrsi_engine.cohort.events import (
    CohortSink,
    ScanAdvanced,
    ScanFailed,
    ScanFinished,
    ScanStarted,
    Step,
)
from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.runs.one_scan import Options

HERE = CohortOptions(Options(workers=0))
BASIS = "press-3t-te30"


def rows(phantom: Path, folder: Path, *names: str) -> list[ScanRow]:
    """A scan by each name, all of the phantom."""
    for name in names:
        if not (folder / f"{name}.nii.gz").exists():
            shutil.copy(phantom / "scan.nii.gz", folder / f"{name}.nii.gz")
    mask = {"mask": str(phantom / "mask.nii.gz")}
    return [ScanRow(str(folder / f"{name}.nii.gz"), files=mask) for name in names]


@dataclass
class Lives:
    """Stands for :func:`~mrsi_engine.cohort.life.live`.

    ``failing`` scans fail, ``useless`` ones are of no use; ``before`` is called before each scan,
    ``after`` with its job once its files are there.
    """

    failing: set[str] = field(default_factory=set)
    useless: set[str] = field(default_factory=set)
    before: Callable[[str], None] = lambda name: None
    after: Callable[[ScanJob], None] = lambda job: None
    ran: list[str] = field(default_factory=list)
    jobs: list[ScanJob] = field(default_factory=list)

    def __call__(
        self,
        client: object,
        jobs: Iterable[ScanJob],
        sink: CohortSink,
        *,
        retries: int,
        stop_on_first_failure: bool,
        **how: Any,
    ) -> None:
        for job in jobs:
            self.ran.append(job.name)
            self.jobs.append(job)
            sink(ScanStarted(job.name, 1))
            self.before(job.name)
            if job.name in self.failing:
                sink(ScanFailed(job.name, Step.PROCESS, "it broke\nbadly", "Traceback: x"))
                if stop_on_first_failure:
                    return
                continue
            # The folder is known as one of a run by what an import leaves.
            (job.folder / ".scan.zarr.0.partial").mkdir(parents=True, exist_ok=True)
            (job.folder / "summary.json").write_text("{}")
            (job.folder / "report.html").write_text("a report")
            self.after(job)
            sink(ScanAdvanced(job.name, Step.IMPORT, 0.25, voxels=16, workers=("tcp://w:1",)))
            good = job.name not in self.useless
            sink(ScanFinished(job.name, 16, good, "16 of 16", {"usable_share": 100.0}))

    def pop(self) -> list[str]:
        """Scans that ran since the last call."""
        ran, self.ran = self.ran, []
        return ran
