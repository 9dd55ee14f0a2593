"""A BIDS App: the scans of a dataset run as a cohort, then what they say together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mrsi_engine.bids.dataset import check_output, describe_output
from mrsi_engine.bids.discover import Discovery, Wanted, discover
from mrsi_engine.bids.index import index_datasets
from mrsi_engine.bids.mrsiprep import check_sessions, write_layout
from mrsi_engine.bids.rules import default_rules, read_filters, read_rules
from mrsi_engine.cohort.group import write_group
from mrsi_engine.cohort.ledger import LedgerReader
from mrsi_engine.cohort.run import CohortOutcome
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.pipeline import Pipeline

#: How results lie in the output folder: as this engine has them, or for MRSIPrep beside that.
Layout = Literal["mrsi", "mrsiprep"]

#: Where the index of a dataset is kept in the output folder.
INDEX = "logs/bids_index.parquet"

#: Runs the scans of a dataset: what :func:`mrsi_engine.cohort.run.run_cohort` does, its settings
#: filled in.
RunRows = Callable[[Sequence[Any]], CohortOutcome]


@dataclass(frozen=True)
class DatasetChoice:
    """Which dataset, which part of it, and how its files are found.

    Parameters
    ----------
    dataset, out
        The BIDS dataset, and the folder of results.
    subjects, sessions
        Labels, with or without their prefix; none for all.
    filter_file
        JSON of entities by kind of file, as other BIDS Apps take it.
    rules_file
        TOML of rules that replace those of the pipeline and of the package.
    derivatives
        Folders of derivatives; all in ``derivatives`` of the dataset by default.
    index_folder
        Where the index is kept; ``logs`` of ``out`` by default.
    layout
        How results lie in ``out``.
    """

    dataset: Path
    out: Path
    subjects: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filter_file: Path | None = None
    rules_file: Path | None = None
    derivatives: tuple[Path, ...] | None = None
    index_folder: Path | None = None
    layout: Layout = "mrsi"

    def find(self, pipeline: Pipeline, *, everything: bool = False) -> Discovery:
        """The scans; ``everything`` finds those of all subjects and sessions.

        Raises
        ------
        InputError
            If the folders, rules or labels are wrong, or results of another dataset are there.
        """
        check_output(self.out, self.dataset)
        rules = default_rules().with_changes(pipeline.bids, f"pipeline {pipeline.name}")
        if self.rules_file is not None:
            rules = rules.with_changes(read_rules(self.rules_file), str(self.rules_file))
        cache = (
            self.out / INDEX if self.index_folder is None else self.index_folder / Path(INDEX).name
        )
        index = index_datasets(self.dataset, self.derivatives, cache)
        filters = read_filters(self.filter_file) if self.filter_file is not None else {}
        labels = ((), ()) if everything else (self.subjects, self.sessions)
        return discover(index, rules, Wanted(*labels, filters))


def run_participants(choice: DatasetChoice, found: Discovery, run: RunRows) -> CohortOutcome:
    """Run the scans that were found, and lay them out; the folder says what it is even on failure.

    Parameters
    ----------
    run
        Gets the rows of the scans.
    """
    if choice.layout == "mrsiprep":
        check_sessions(found.rows)
    describe_output(choice.out, choice.dataset)
    try:
        outcome = run(found.rows)
        if choice.layout == "mrsiprep":
            write_layout(choice.out, found.rows, choice.dataset)
    finally:
        describe_output(choice.out, choice.dataset)
    return outcome


def run_group(choice: DatasetChoice, found: Discovery) -> Path:
    """Make the group level of what is there; returns its page.

    Raises
    ------
    InputError
        If no scan was run yet.
    """
    states = LedgerReader(choice.out).read().scans
    if not states:
        raise InputError(
            f"{choice.out}: no scan was run here; run the level participant first, with the same "
            "dataset and output folder"
        )
    describe_output(choice.out, choice.dataset)
    return write_group(choice.out, found.rows, states)
