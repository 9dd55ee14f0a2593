"""Options of commands that run many scans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mrsi_engine.choices import (
    DEFAULT_PIPELINE,
    MIN_USABLE,
    Fill,
    Reports,
    Rerun,
    TimingMismatch,
)
from mrsi_engine.cli.options import Where
from mrsi_engine.errors import InputError

if TYPE_CHECKING:
    from mrsi_engine.cohort.options import CohortOptions
    from mrsi_engine.runs.bases import BasisChoice


@Parameter(name="*")
@dataclass(frozen=True)
class Scans:
    """How the scans of a cohort are run.

    Parameters
    ----------
    basis
        Of scans that have none of their own: LCModel .basis, FSL-MRS JSON folder, jMRUI text,
        Osprey .mat, or a simulated one, e.g. press-3t-te30; needed by pipelines that quantify.
    pipeline
        Of scans that have none of their own: name of a ready-made one or a TOML file.
    keep
        Signals to store and write as NIfTI-MRS: corrected, fit, baseline.
    fill
        What maps hold where there is no fit: NaN, or what MRSIPrep reads.
    points
        Use only so many points of every FID.
    keep_personal
        Keep what headers say of the person and the machine; left out by default.
    basis_reference
        Chemical shift (ppm) at 0 Hz of the basis, where its file does not say.
    basis_conjugate
        Turn the frequency axis of the basis round.
    basis_te_mismatch
        Whether a basis of another echo time or sequence than a scan's may be used.
    min_usable
        Share of usable voxels below which a scan is of no use.
    rerun
        Which scans of an earlier run are done again: failed, missing (never ended), unfinished
        (both), or all, finished ones from scratch.
    retries
        How often a scan that failed is tried again; one whose input is wrong never.
    reports
        Whose report is made: of all scans, of flagged ones, of none.
    stop_on_first_failure
        End with the first scan that fails.
    dry_run
        Check every header, companion and basis, say what would run, how long and how large, and
        stop there; exits with 0 if all scans can run, 1 if some are refused, 2 if none can.
    metrics
        File for Prometheus (.prom) that gets figures of the run every few seconds.
    """

    basis: str | None = None
    pipeline: str = DEFAULT_PIPELINE
    keep: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    fill: Fill = "nan"
    points: int | None = None
    keep_personal: Annotated[bool, Parameter(negative="")] = False
    basis_reference: float | None = None
    basis_conjugate: Annotated[bool, Parameter(negative="")] = False
    basis_te_mismatch: TimingMismatch = "refuse"
    min_usable: float = MIN_USABLE
    rerun: Rerun = "unfinished"
    retries: int = 1
    reports: Reports = "all"
    stop_on_first_failure: Annotated[bool, Parameter(negative="")] = False
    dry_run: Annotated[bool, Parameter(negative="")] = False
    metrics: Path | None = None

    def choice(self) -> BasisChoice | None:
        """The basis of scans that have none of their own.

        Raises
        ------
        InputError
            If it is said how to read one, and none is given.
        """
        from mrsi_engine.runs.bases import BasisChoice

        reading = self.basis_reference, self.basis_conjugate, self.basis_te_mismatch
        if self.basis is not None:
            return BasisChoice(self.basis, *reading)
        if reading != (None, False, "refuse"):
            raise InputError(
                "--basis-reference, --basis-conjugate and --basis-te-mismatch say how to read "
                "--basis; give it"
            )
        return None

    def options(self, where: Where) -> CohortOptions:
        """As a cohort takes them."""
        from mrsi_engine.cohort.options import CohortOptions

        return CohortOptions(
            where.options(self.keep, self.fill, self.min_usable),
            points=self.points,
            keep_personal=self.keep_personal,
            rerun=self.rerun,
            retries=self.retries,
            reports=self.reports,
            stop_on_first_failure=self.stop_on_first_failure,
            dry_run=self.dry_run,
        )


SCANS = Scans()
