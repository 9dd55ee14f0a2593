"""The page of a group: one HTML file that needs nothing else."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrsi_engine.io.files import write_atomically
from mrsi_engine.quantities import AMPLITUDES, Quantity, Role
from mrsi_engine.report.columns import COVERAGE, CRLB, MEDIAN
from mrsi_engine.report.group_figures import strips
from mrsi_engine.report.group_statistics import (
    FALSE_DISCOVERIES,
    FEWEST_IN_BATCH,
    FEWEST_USUAL,
    MAX_DEVIATIONS,
    BatchTest,
    Measured,
    batch_tests,
    measured_columns,
    numbers,
    outliers,
)
from mrsi_engine.report.group_table import GroupTable
from mrsi_engine.report.html import template
from mrsi_engine.report.methods import Methods, cited
from mrsi_engine.report.png import BACKGROUND
from mrsi_engine.report.tables import number, percentage

#: Longest lists on the page; the table beside it has all.
_MOST_FAILURES, _MOST_OUTLIERS, _MOST_REASONS, _MOST_TESTS = 200, 100, 20, 40

#: Coverage (%) from which a scan counts as one in which an amplitude is known.
_COVERED = 50.0

#: Roles of quantities in the table of coverage, by its headings.
_KINDS = {
    "Ratios": (Role.RATIO,),
    "Concentrations": (Role.CONCENTRATION,),
    "Amplitudes": AMPLITUDES,
}

#: What an error begins with: the file it is about.
_FILE = re.compile(r"^\S+\.\w+: ")


@dataclass(frozen=True)
class Outlier:
    """A scan unlike the others of its protocol, and by which measures."""

    scan: str
    link: str
    protocol: str
    measures: tuple[tuple[str, float, str], ...]


@dataclass(frozen=True)
class CoverageRow:
    """How well an amplitude or ratio is known over the scans."""

    title: str
    scans: int
    median: float
    lower: float
    upper: float
    crlb: float
    coverage: float
    covered: float


def write_group_page(table: GroupTable, methods: Methods, out: Path, *, title: str) -> Path:
    """Write the page of a group; replaced if it is there.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    columns = measured_columns(table) if len(table.done) else []
    drawn = strips(table, columns)
    tests = [_lettered(t, drawn.letters) for t in batch_tests(table, columns)] if columns else []
    content = {
        "title": title,
        "headlines": list(_headlines(table)),
        "strips": drawn,
        "done": len(table.done),
        "quality": [c for c in columns if c.kind == "quality"],
        "amounts": [c for c in columns if c.kind == "amount"],
        "rule": (MAX_DEVIATIONS, FEWEST_USUAL),
        **_outlying(table, columns),
        **_failed(table),
        "tests": [t for t in tests if t.p < FALSE_DISCOVERIES][:_MOST_TESTS],
        "alike": [t for t in tests if t.p >= FALSE_DISCOVERIES],
        "tested": len(tests),
        "differ": sum(t.p < FALSE_DISCOVERIES for t in tests),
        "test_rule": (FEWEST_IN_BATCH, FALSE_DISCOVERIES),
        "coverage": coverage_table(table),
        "covered": _COVERED,
        "limits": sorted({float(v) for v in table.done["crlb_limit"].dropna()}),
        "methods": methods,
        "references": [cited(key) for key in methods.references],
        "left_out": table.left_out,
        "background": BACKGROUND,
        "engine_version": version("mrsi-engine"),
    }
    return write_atomically(out, template("group.html.j2").render(content).encode())


def _headlines(table: GroupTable) -> Iterator[tuple[str, str, str]]:
    done, frame = table.done, table.frame
    subjects = frame["subject"].nunique()
    detail = f"of {number(subjects)} subjects" if subjects else "without labels of subjects"
    yield number(len(frame)), "scans", detail
    share = percentage(100 * len(done) / max(len(frame), 1))
    yield number(len(done)), "with results", f"{share} of all"
    usable = numbers(done, "usable_share")
    yield percentage(_median(usable)), "usable voxels", "median over scans"
    voxels = float(np.nansum(numbers(done, "usable")))
    yield number(int(voxels)), "usable voxels in all", "in the voxel dataset, with the others"
    seconds = float(np.nansum(numbers(frame, "task_seconds")))
    yield _duration(seconds), "time of tasks", "summed over workers"


def _duration(seconds: float) -> str:
    """A time for people."""
    units = (("h", 3600.0), ("min", 60.0), ("s", 1.0))
    unit, length = next((u for u in units if seconds >= 2 * u[1]), units[-1])
    return f"{number(seconds / length, 2)} {unit}"


def _outlying(table: GroupTable, columns: Sequence[Measured]) -> dict[str, Any]:
    """Scans unlike the others, those by the most measures first."""
    done = table.done
    protocols = done["protocol"].fillna("").to_numpy(dtype=str)
    marked: dict[int, list[tuple[str, float, str]]] = {}
    for column in columns:
        values = numbers(done, column.column)
        unit = "" if column.unit == "1" else column.unit
        for place in np.flatnonzero(outliers(values, protocols)):
            marked.setdefault(int(place), []).append((column.title, float(values[place]), unit))
    order = sorted(marked, key=lambda place: (-len(marked[place]), place))
    found = [
        Outlier(
            str(done["scan"].iloc[place]),
            _link(done, place),
            protocols[place] or "unknown",
            tuple(marked[place]),
        )
        for place in order[:_MOST_OUTLIERS]
    ]
    return {"outliers": found, "outlying": len(marked)}


def _link(frame: pd.DataFrame, place: int) -> str:
    report = frame["report"].iloc[place]
    return report if isinstance(report, str) else f"{frame['scan'].iloc[place]}/"


def _lettered(test: BatchTest, letters: Sequence[tuple[str, str, int]]) -> BatchTest:
    """Protocols by the letters of their strips: in words they fill a line each."""
    if test.factor != "protocol":
        return test
    known = {words: letter for letter, words, _ in letters}
    named = (replace(batch, name=known.get(batch.name, batch.name)) for batch in test.batches)
    return replace(test, batches=tuple(named))


def _failed(table: GroupTable) -> dict[str, Any]:
    """Scans without results, and how often each reason occurs."""
    left = table.frame[table.frame["voxels"].isna()]
    errors = [error if isinstance(error, str) else "" for error in left["error"]]
    states = [state if isinstance(state, str) else "not tried" for state in left["state"]]
    pairs = zip(errors, states, strict=True)
    reasons = Counter(_FILE.sub("", error) or state for error, state in pairs)
    listed = [
        (scan, table.crashes.get(scan, ""), state, error)
        for scan, state, error in zip(left["scan"], states, errors, strict=True)
    ]
    return {
        "failures": listed[:_MOST_FAILURES],
        "failed": len(listed),
        "reasons": reasons.most_common(_MOST_REASONS) if len(reasons) < len(listed) else [],
    }


def coverage_table(table: GroupTable) -> list[tuple[str, list[CoverageRow]]]:
    """Ratios, concentrations and amplitudes as far as any scan has them, the best known first."""
    found = []
    for kind, roles in _KINDS.items():
        quantities = [q for q in table.quantities if q.role in roles]
        rows = [row for q in quantities if (row := _coverage(table.done, q)) is not None]
        if rows:
            found.append((kind, sorted(rows, key=lambda row: -row.coverage)))
    return found


def _coverage(done: pd.DataFrame, quantity: Quantity) -> CoverageRow | None:
    coverage = numbers(done, f"{quantity.name}_{COVERAGE.suffix}")
    known = np.isfinite(coverage)
    if not known.any():
        return None
    medians = numbers(done, f"{quantity.name}_{MEDIAN.suffix}")
    finite = medians[np.isfinite(medians)]
    lower, middle, upper = np.percentile(finite, [25, 50, 75]) if finite.size else [math.nan] * 3
    # Amplitudes of different scanners have units of their own.
    shown = quantity.role not in AMPLITUDES
    return CoverageRow(
        title=quantity.label,
        scans=int(known.sum()),
        median=float(middle) if shown else math.nan,
        lower=float(lower) if shown else math.nan,
        upper=float(upper) if shown else math.nan,
        crlb=_median(numbers(done, f"{quantity.name}_{CRLB.suffix}")),
        coverage=_median(coverage),
        covered=100.0 * float(np.mean(coverage[known] >= _COVERED)),
    )


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan
