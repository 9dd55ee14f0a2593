"""What a cohort leaves names nobody, but for the records of the run that stay in the lab."""

from __future__ import annotations

import getpass
import re
import shutil
import socket
from pathlib import Path

from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.run import run_cohort
from mrsi_engine.runs.bases import BasisChoice

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"


def test_what_is_shared_says_neither_who_nor_where(phantom: Path, tmp_path: Path) -> None:
    """All but what ``docs/security.md`` says to leave out."""
    home, out = tmp_path / "Jane-Doe-1970", tmp_path / "out"
    home.mkdir()
    shutil.copy(phantom / "scan.nii.gz", home / "scan.nii.gz")
    rows = [
        ScanRow(str(home / "scan.nii.gz"), "01", "01"),
        ScanRow(str(home / "lost.nii.gz"), "02", "01"),
    ]
    outcome = run_cohort(rows, out, basis=BasisChoice("press-3t-te30"), pipeline="minimal")
    assert [*outcome.failures] == ["sub-02/ses-01/lost"]
    left_out = re.findall(r"--exclude (\S+)", SECURITY.read_text())
    assert {"ledger", "crash", "failed.tsv", "scan.zarr"} <= set(left_out)
    shared = [
        path
        for path in out.rglob("*")
        if path.is_file() and not set(path.relative_to(out).parts) & set(left_out)
    ]
    assert {"group_mrsi.tsv", "report.html", "summary.json"} <= {path.name for path in shared}
    # Short names are part of other words, or of packed samples.
    names = [n for n in (getpass.getuser(), socket.gethostname()) if len(n) > 5 and n != "runner"]
    secrets = [name.encode() for name in ("Jane-Doe", str(tmp_path), *names)]
    said = [(str(path.relative_to(out)), s) for path in shared for s in secrets
            if s in path.read_bytes()]  # fmt: skip
    assert not said
