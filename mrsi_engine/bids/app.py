"""A BIDS App: the scans of a dataset run as a cohort, then what they say together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mrsi_engine.bids.discover import Discovery, Wanted, discover
from mrsi_engine.bids.index import index_datasets
from mrsi_engine.bids.mrsiprep import check_sessions, write_layout
from mrsi_engine.bids.rules import default_rules, read_filters, read_rules
from mrsi_engine.cohort.dataset import check_output, describe_output, read_description
from mrsi_engine.cohort.group import write_group
from mrsi_engine.cohort.ledger import FINISHED, LedgerReader
from mrsi_engine.cohort.run import LOGS, CohortOutcome
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.pipeline.pipeline import Pipeline

#: How results lie in the output folder: as this engine has them, or for MRSIPrep beside that.
Layout = Literal["mrsi", "mrsiprep"]

#: What the index of a dataset is called in the folder of logs.
INDEX = "bids_index.parquet"


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

    def find(self, pipeline: Pipeline, *, keep_index: bool = True) -> Discovery:
        """The scans; the index is read where it is kept, and written there unless told not to.

        Raises
        ------
        InputError
            If the folders, rules or labels are wrong, or results of another dataset are there.
        """
        check_output(self.out, self.dataset)
        rules = default_rules().with_changes(pipeline.bids, f"pipeline {pipeline.name}")
        if self.rules_file is not None:
            rules = rules.with_changes(read_rules(self.rules_file), str(self.rules_file))
        folder = self.out / LOGS if self.index_folder is None else self.index_folder
        index = index_datasets(self.dataset, self.derivatives, folder / INDEX, keep=keep_index)
        filters = read_filters(self.filter_file) if self.filter_file is not None else {}
        return discover(index, rules, Wanted(self.subjects, self.sessions, filters))


def check_layout(choice: DatasetChoice, found: Discovery) -> list[str]:
    """What is to be said of the scans in the layout that was chosen.

    Raises
    ------
    InputError
        If it has no place for some of them.
    """
    return check_sessions(found.rows) if choice.layout == "mrsiprep" else []


def run_participants(
    choice: DatasetChoice, found: Discovery, run: Callable[[], CohortOutcome]
) -> CohortOutcome:
    """Run the scans that were found, and lay them out; the folder says what it is even on failure.

    Parameters
    ----------
    run
        Runs the rows of what was found as a cohort in the output folder.

    Raises
    ------
    InputError
        If the layout has no place for some scans; whatever ``run`` raises.
    """
    check_layout(choice, found)
    describe_output(choice.out, choice.dataset)
    try:
        outcome = run()
        if choice.layout == "mrsiprep":
            states = LedgerReader(choice.out).read().scans
            done = {name for name, record in states.items() if record.state in FINISHED}
            write_layout(choice.out, found.rows, done, choice.dataset)
    finally:
        # A full disk was told already, by what failed.
        with suppress(RunError):
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
    title = str(read_description(choice.dataset).get("Name", ""))
    return write_group(choice.out, found.rows, states, title=title)
