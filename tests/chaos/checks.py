"""What has to hold of a cohort after a storm."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mrsi_engine.cohort.ledger import FINISHED, LedgerReader
from mrsi_engine.io.result_store import ResultStore
from tests.chaos.made_cohort import MadeCohort, fingerprints


def wrong_after(out: Path, cohort: MadeCohort, calm: dict[str, dict[str, bytes]]) -> list[str]:
    """Everything that is not as it is after a run in which nothing went wrong, in words.

    Parameters
    ----------
    calm
        Maps of that run.
    """
    return [
        *_lost(out, cohort),
        *_different(fingerprints(out, cohort.good), calm),
        *_inconsistent(out, cohort),
        *_left_behind(out),
    ]


def _lost(out: Path, cohort: MadeCohort) -> list[str]:
    stores = {name: out / name / "result.zarr" for name in cohort.good}
    return [
        f"{name}: blocks {store.missing()} are not done"
        for name, path in stores.items()
        if (store := ResultStore.open(path)).missing()
    ]


def _different(found: dict[str, dict[str, bytes]], calm: dict[str, dict[str, bytes]]) -> list[str]:
    wrong = []
    for name, maps in calm.items():
        if sorted(found[name]) != sorted(maps):
            wrong.append(f"{name}: other maps than in calm: {set(found[name]) ^ set(maps)}")
        wrong += [f"{name}/{m}: other numbers" for m in maps if found[name].get(m) != maps[m]]
    return wrong


def _inconsistent(out: Path, cohort: MadeCohort) -> list[str]:
    """Where the ledger and the disk do not say the same, or a scan was finished twice."""
    story = LedgerReader(out).read()
    known = set(cohort.good) | set(cohort.broken)
    wrong = [f"the ledger knows of {set(story.scans) ^ known}"] if set(story.scans) != known else []
    finished = {record.scan for record in story.of(*FINISHED)}
    if finished != set(cohort.good):
        wrong.append(f"finished by the ledger: {sorted(finished ^ set(cohort.good))} differ")
    twice = [name for name, count in _endings(out).items() if count > 1]
    return wrong + [f"{name}: finished twice" for name in twice]


def _endings(out: Path) -> Counter[str]:
    """How often the ledger says of each scan that it was finished."""
    lines = [line for path in (out / "ledger").glob("*.jsonl") for line in path.open()]
    ended = [word for state in FINISHED for word in lines if f'"state": "{state}"' in word]
    return Counter(line.split('"scan": "')[1].split('"')[0] for line in ended)


def _left_behind(out: Path) -> list[str]:
    return [f"left behind: {path}" for path in out.rglob("*.partial*")]
