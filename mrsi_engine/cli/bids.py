"""The command of a BIDS App: a dataset in, maps and the group level out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mrsi_engine.cli import output
from mrsi_engine.cli.cohort import cohort_progress, command_line, end_with
from mrsi_engine.cli.cohort_options import SCANS, Scans
from mrsi_engine.cli.options import WHERE, Where
from mrsi_engine.cli.places import LocalPlace, Place

if TYPE_CHECKING:
    from mrsi_engine.bids.app import DatasetChoice
    from mrsi_engine.bids.discover import Discovery
    from mrsi_engine.cohort.run import CohortOutcome

_Labels = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]


def bids_command(
    bids_dir: LocalPlace,
    out_dir: Place,
    level: Literal["participant", "group"],
    /,
    *,
    participant_label: _Labels = (),
    session_label: _Labels = (),
    bids_filter_file: LocalPlace | None = None,
    bids_rules: LocalPlace | None = None,
    derivatives: Annotated[tuple[LocalPlace, ...], Parameter(consume_multiple=True)] | None = None,
    bids_index_dir: LocalPlace | None = None,
    layout: Literal["mrsi", "mrsiprep"] = "mrsi",
    scans: Scans = SCANS,
    where: Where = WHERE,
) -> None:
    """Run the MRS(I) scans of a BIDS dataset, or make the group level of what is there.

    Finds *_mrsi and *_svs with their water reference, mask and tissue maps, checks all of them,
    and runs them as one cohort; a scan that fails stops no other. The same command again does only
    what is missing.

    Parameters
    ----------
    bids_dir
        The BIDS dataset.
    out_dir
        Folder of results, e.g. BIDS_DIR/derivatives/mrsi_engine.
    level
        participant runs scans, group makes tables and page of all that were run.
    participant_label
        Only these subjects, with or without sub-.
    session_label
        Only these sessions, with or without ses-.
    bids_filter_file
        JSON of entities by kind of file (mrsi, svs, water, mask, tissue...), as in other BIDS Apps.
    bids_rules
        TOML that says which files are scans, masks, tissue maps and water; see docs/bids.md.
    derivatives
        Folders of derivatives to look for masks and tissue maps in (default: all in
        BIDS_DIR/derivatives).
    bids_index_dir
        Where the index of the dataset is kept (default: OUT_DIR/logs).
    layout
        mrsiprep writes the maps once more, in OUT_DIR/mrsi-orig, as MRSIPrep reads them.
    """
    from mrsi_engine.bids.app import DatasetChoice, run_group
    from mrsi_engine.pipeline.pipeline import Pipeline

    choice = DatasetChoice(
        bids_dir,
        out_dir,
        participant_label,
        session_label,
        bids_filter_file,
        bids_rules,
        derivatives,
        bids_index_dir,
        layout,
    )
    if level == "group":
        choice = replace(choice, subjects=(), sessions=())
    found = choice.find(Pipeline.load(scans.pipeline), keep_index=not scans.dry_run)
    output.say_notes(found.notes)
    if level == "group":
        output.say(f"group level: {run_group(choice, found)}")
        return
    end_with(_run(choice, found, scans, where))


def _run(choice: DatasetChoice, found: Discovery, scans: Scans, where: Where) -> CohortOutcome:
    from mrsi_engine.bids.app import check_layout, run_participants
    from mrsi_engine.cohort.run import run_cohort

    basis, options = scans.choice(), scans.options(where)
    output.say_notes(check_layout(choice, found))

    def run() -> CohortOutcome:
        with cohort_progress(where.log, scans.metrics) as sinks:
            return run_cohort(
                found.rows,
                choice.out,
                basis=basis,
                pipeline=scans.pipeline,
                options=options,
                group=False,
                command=command_line(),
                sinks=sinks,
                tell=output.say if options.dry_run else output.note,
            )

    return run() if options.dry_run else run_participants(choice, found, run)
