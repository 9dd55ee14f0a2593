"""Most memory of a process that does a whole scan: PHANTOM OUT. Prints bytes."""

import sys
from pathlib import Path

from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.steps import Finished, begin_scan
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice

if __name__ == "__main__":
    phantom, out = map(Path, sys.argv[1:])
    row = ScanRow(str(phantom / "scan.nii.gz"), files={"mask": str(phantom / "mask.nii.gz")})
    basis, pipeline = BasisChoice("press-3t-te30"), Pipeline.load("brain-1h-3t")
    done = begin_scan(ScanJob.of(row, out, pipeline, basis))
    assert isinstance(done, Finished), done
    status = Path("/proc/self/status").read_text()
    print(1024 * int(status.split("VmHWM:")[1].split()[0]))
