"""A dataset of phantoms and what a run of it left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mrsi_engine.bids.app import DatasetChoice, run_participants
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.run import CohortOutcome, run_cohort
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.one_scan import Options
from tests.bids.datasets import phantom_dataset


@dataclass(frozen=True)
class FinishedDataset:
    """A dataset, its folder of results, and what came of the run."""

    choice: DatasetChoice
    outcome: CohortOutcome

    @property
    def out(self) -> Path:
        return self.choice.out


def run_dataset(choice: DatasetChoice, **options: object) -> CohortOutcome:
    """Run a dataset in this process without reports."""
    found = choice.find(Pipeline.load("brain-1h-3t"))
    settings = CohortOptions(Options(workers=0), reports="none", retries=0, **options)  # type: ignore[arg-type]

    def run() -> CohortOutcome:
        return run_cohort(
            found.rows, choice.out, basis="press-3t-te30", options=settings, group=False
        )

    return run_participants(choice, found, run)


@pytest.fixture(scope="session")
def finished(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedDataset:
    """Two subjects, run into a derivative of the dataset, and laid out for MRSIPrep."""
    root = phantom_dataset(tmp_path_factory.mktemp("bids") / "study", phantom)
    out = root / "derivatives" / "mrsi_engine"
    choice = DatasetChoice(root, out, layout="mrsiprep")
    return FinishedDataset(choice, run_dataset(choice))
