"""How long a finished cohort takes to be known as such: scans, seconds by step, ledger rates.

    python tests/benchmarks/bench_rerun.py [SCANS]

One real scan is run; the others are copies of what it left, under other names, and the ledger says
of each that it is done.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mrsi_engine.cohort.fingerprint import Fingerprints
from mrsi_engine.cohort.group import write_group
from mrsi_engine.cohort.ledger import Ledger, LedgerReader, Record, Session, State, now
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.run import run_cohort
from mrsi_engine.cohort.status import read_status
from mrsi_engine.cohort.table import write_table
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.runs.one_scan import Options
from mrsi_engine.spectra.phantom import PhantomSettings

BASIS, PIPELINE = BasisChoice("press-3t-te30"), "minimal"
OPTIONS = CohortOptions(Options(workers=0))
_Found = TypeVar("_Found")


def main(scans: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = finished(Path(folder), scans)
        out = Path(folder) / "out"
        table = write_table(rows, Path(folder) / "cohort.tsv")
        timed("ledger read and folded", lambda: LedgerReader(out).read())
        timed("status", lambda: read_status(out).line)
        group = timed("group level", lambda: write_group(out, rows, LedgerReader(out).read().scans))
        print(group)
        for name in ("rerun, group level made", "rerun, nothing to do"):
            outcome = timed(
                name,
                lambda: run_cohort(table, out, basis=BASIS, pipeline=PIPELINE, options=OPTIONS),
            )
            assert outcome.counts == {State.DONE: scans}, outcome.counts
        for row in rows:
            os.utime(row.scan, (1e9, 1e9))
        timed(
            "rerun, all files of another date",
            lambda: run_cohort(table, out, basis=BASIS, pipeline=PIPELINE, options=OPTIONS),
        )


def finished(folder: Path, scans: int) -> list[ScanRow]:
    """Rows of a cohort that is done: one real scan, and copies."""
    simulate_scan(folder / "base", PhantomSettings(shape=(6, 6, 1), seed=1, snr=40.0))
    rows = []
    for number in range(scans):
        scan = folder / "raw" / f"sub-{number:04}_mrsi.nii.gz"
        scan.parent.mkdir(exist_ok=True)
        shutil.copy(folder / "base" / "scan.nii.gz", scan)
        mask = {"mask": str(folder / "base" / "mask.nii.gz")}
        rows.append(ScanRow(str(scan), f"{number:04}", files=mask))
    out = folder / "out"
    run_cohort(rows[:1], out, basis=BASIS, pipeline=PIPELINE, options=OPTIONS)
    for row in rows[1:]:
        shutil.copytree(out / rows[0].folder, out / row.folder)
    fingerprints = Fingerprints(BASIS, Pipeline.load(PIPELINE), OPTIONS)
    first = LedgerReader(out).read().scans[rows[0].folder]
    ledger = Ledger(out, Session(now(), "bench", os.getpid()))

    def write() -> None:
        for row in rows[1:]:
            ledger.write(Record(row.folder, State.WAITING))
            ledger.write(Record(row.folder, State.RUNNING, attempt=1))
            identity = fingerprints.of(row)
            known = {"voxels": first.voxels, "verdict": first.verdict, "usable": first.usable}
            ledger.write(Record(row.folder, State.DONE, attempt=1, identity=identity, **known))

    timed(f"{3 * (scans - 1)} records written one by one", write)
    ledger.close()
    return rows


def timed(name: str, do: Callable[[], _Found]) -> _Found:
    started, cpu = time.perf_counter(), time.process_time()
    found = do()
    wall, spent = time.perf_counter() - started, time.process_time() - cpu
    print(f"{name}: {wall:.2f} s, {spent:.2f} CPU s", flush=True)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
