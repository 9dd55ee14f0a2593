"""How a cohort is run: which of its scans, how often one is tried, what each leaves."""

from __future__ import annotations

from dataclasses import dataclass, field

from mrsi_engine.choices import Reports, Rerun
from mrsi_engine.errors import InputError
from mrsi_engine.runs.one_scan import Options


@dataclass(frozen=True)
class CohortOptions:
    """How a cohort is run.

    Parameters
    ----------
    scan
        How each scan is run, and where all of them: ``cluster``, ``workers``,
        ``threads_per_worker`` and ``tls`` count for the cohort. With ``overwrite`` a scan whose
        files or settings are not those of its results is done again instead of being refused.
    points, keep_personal
        Of the import of every scan, see :func:`~mrsi_engine.io.importing.import_scan`.
    rerun
        Which scans of an earlier run are done again: those that ``failed``, those that are
        ``missing`` (never ended), ``unfinished`` (both), or ``all``, finished ones from scratch.
    retries
        How often a scan that failed is tried again in the same run; one whose input is wrong never.
    reports
        Whose report is made: of all scans, of those the verdict or a failure flags, of none.
    stop_on_first_failure
        End the run with the first scan that fails for good.
    dry_run
        Look at every header and companion, say what would run, and stop there.
    """

    scan: Options = field(default_factory=Options)
    points: int | None = None
    keep_personal: bool = False
    rerun: Rerun = "unfinished"
    retries: int = 1
    reports: Reports = "all"
    stop_on_first_failure: bool = False
    dry_run: bool = False

    def check(self) -> CohortOptions:
        """These options, once they are known to say a possible way to run.

        Raises
        ------
        InputError
            If one of them is out of its range.
        """
        if self.retries < 0:
            raise InputError(f"retries is {self.retries}, expected at least 0")
        self.scan.check()
        return self
