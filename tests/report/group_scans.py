"""Scans of a cohort that was never scanned: summaries about that of one result, from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mrsi_engine.report.group_table import GroupScan
from mrsi_engine.report.summary import ScanSummary, read_summary, write_summary
from tests.report.synthetic import brain_result

PROTOCOLS = ("1H 3 T press TE 30 ms TR 1500 ms", "1H 7 T fid TE 1.3 ms TR 450 ms")

#: How much columns vary between scans, SD of their logarithm.
SPREAD = 0.1


@cache
def one_summary() -> ScanSummary:
    """The summary of one simulated result with grey and white matter."""
    result = brain_result((8, 8, 4))
    with TemporaryDirectory() as folder:
        write_summary(Path(folder), result)
        return read_summary(Path(folder))


def cohort(
    scans: int,
    *,
    seed: int = 1,
    failing: float = 0.0,
    metadata: Mapping[str, str] | None = None,
) -> Iterator[GroupScan]:
    """Scans of two protocols and two scanners, which differ by chance alone."""
    rng = np.random.default_rng(seed)
    base = one_summary()
    for i in range(scans):
        row = {name: _varied(value, rng) for name, value in base.row.items()}
        row["protocol"] = PROTOCOLS[int(rng.random() < 0.4)]
        row["manufacturer"] = ("Siemens", "Philips")[int(rng.random() < 0.5)]
        row["usable_share"] = float(100 - 20 * rng.random())
        subject, session = f"{i // 2:03d}", f"{i % 2 + 1}"
        stem = f"sub-{subject}_ses-{session}"
        failed = rng.random() < failing
        yield GroupScan(
            scan=f"sub-{subject}/ses-{session}/{stem}",
            stem=stem,
            subject=subject,
            session=session,
            state="failed" if failed else "done",
            error=f"/data/of/jane/{stem}_mrsi.nii.gz: EchoTime is 30, expected seconds"
            if failed
            else "",
            attempts=1,
            seconds=20.0,
            metadata={"site": "AB"[i % 2]} if metadata is None else metadata,
            summary=None if failed else ScanSummary(row, base.quantities, base.tissues),
            report=f"sub-{subject}/ses-{session}/{stem}/report.html" if i % 2 else "",
        )


def _varied(value: object, rng: np.random.Generator) -> object:
    return (
        value * float(np.exp(SPREAD * rng.standard_normal())) if isinstance(value, float) else value
    )
