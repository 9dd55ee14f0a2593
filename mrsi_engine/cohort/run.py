"""A cohort from its table to the group level: what ``mrsi cohort`` does, as one function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distributed import Client

from mrsi_engine.choices import DEFAULT_PIPELINE
from mrsi_engine.cohort.events import CohortSink
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice


@dataclass(frozen=True)
class CohortOutcome:
    """What a run of a cohort came to.

    ``counts`` are scans by state (:class:`~mrsi_engine.cohort.ledger.State`), of the whole cohort;
    ``failures`` the error in one line of each that failed or was refused, by its folder.
    """

    out: Path
    counts: Mapping[str, int]
    failures: Mapping[str, str] = field(default_factory=dict)
    unusable: tuple[str, ...] = ()


def run_cohort(
    table: str | Path | Sequence[ScanRow],
    out: str | Path,
    *,
    basis: BasisChoice | str | None = None,
    pipeline: Pipeline | str | Path = DEFAULT_PIPELINE,
    options: CohortOptions | None = None,
    client: Client | None = None,
    sinks: Sequence[CohortSink] = (),
) -> CohortOutcome:
    """Run every scan of a cohort that is not done yet, then make the group level."""
    raise NotImplementedError
