"""A cohort on an object store, whose workers die and whose scans fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mrsi_engine.cohort.ledger import State
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.run import run_cohort
from mrsi_engine.cohort.status import read_status
from mrsi_engine.cohort.table import write_table
from mrsi_engine.engine.clusters import local_cluster
from mrsi_engine.io.places import filesystem, key, place
from mrsi_engine.runs.one_scan import Options
from tests.cohort.small_cohort import jobs_of, scripted, scripted_pipeline

OPTIONS = CohortOptions(scan=Options(workers=0, block_size=6), reports="none", retries=0)


def results_below(out: Path) -> dict[str, bytes]:
    """Maps, and chunks of results, of every scan."""
    if isinstance(out, Path):
        files = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
        found = {name: path.read_bytes() for name, path in files.items()}
    else:
        store, start = filesystem(out), len(key(out)) + 1
        found = {name[start:]: store.cat_file(name) for name in store.find(key(out))}
    assert not [name for name in found if "partial" in name]
    return {
        name: data
        for name, data in found.items()
        if name.endswith(".nii.gz") or ("result.zarr/" in name and "zarr.json" not in name)
    }


def test_a_cohort_on_an_object_store_loses_nothing(s3: str, tmp_path: Path) -> None:
    pipeline = scripted_pipeline(tmp_path / "log", {6: ["kill", ""], 106: ["fail", ""]}, passes=1)
    rows = []
    for job in jobs_of(tmp_path, pipeline, 2):
        scan = place(f"{s3}/cohort/in/{Path(job.row.scan).name}")
        scan.write_bytes(Path(job.row.scan).read_bytes())
        rows.append(replace(job.row, scan=str(scan)))
    table = place(f"{s3}/cohort/table.tsv")
    write_table(rows, table)
    out = f"{s3}/cohort/out"
    with local_cluster(2) as workers:
        first = run_cohort(table, out, pipeline=pipeline, options=OPTIONS, client=workers)
    assert list(first.failures) == ["sub-01/sub-01"]
    assert first.exit_code == 1
    assert scripted.runs(tmp_path / "log")[6] > 1, "it killed a worker and was done by another"
    again = run_cohort(table, out, pipeline=pipeline, options=OPTIONS)
    assert again.exit_code == 0
    assert read_status(place(out)).counts[State.DONE] == 2
    assert (place(out) / "group_mrsi.tsv").read_text().count("\n") == 3
    run_cohort(rows, tmp_path / "out", pipeline=pipeline, options=OPTIONS)
    found = results_below(place(out))
    assert len(found) > 30
    assert found == results_below(tmp_path / "out")
