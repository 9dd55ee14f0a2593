"""Where the tasks of a cohort run: this process, a cluster that is there, or one to be opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from mrsi_engine.cohort.events import CohortEvent, ScanAdvanced
from mrsi_engine.cohort.job import WHOLE_VOXELS
from mrsi_engine.cohort.preflight import CheckedScan
from mrsi_engine.engine.clusters import (
    Need,
    Tell,
    bytes_needed,
    bytes_of_scan,
    dashboard_link,
    open_cluster,
    ssh_line,
)
from mrsi_engine.engine.patience import Patience
from mrsi_engine.engine.plan import default_block_size
from mrsi_engine.engine.voxels import ScanLayout
from mrsi_engine.runs.one_scan import Options

#: CPU time (s) from which workers of this machine are processes: these take some seconds to start,
#: but share no lock, and one that crashes takes no driver with it.
_PROCESSES_FROM = 30.0


@dataclass(frozen=True, eq=False)
class Where:
    """Where tasks run.

    Parameters
    ----------
    client
        Of the cluster; ``None`` is this process.
    patience, refill
        As :func:`~mrsi_engine.cohort.life.live` takes them.
    heard
        A sink, to be told of what ended.
    """

    client: Client | None = None
    patience: Patience | None = None
    refill: Callable[[], None] | None = None
    heard: Callable[[CohortEvent], None] = lambda event: None


@contextmanager
def open_where(
    options: Options,
    scans: Sequence[CheckedScan],
    out: Path,
    client: Client | None,
    tell: Tell,
) -> Iterator[Where]:
    """Open the place that the options name, or take the cluster of a client that is there.

    Raises
    ------
    InputError
        If it cannot be opened, or its workers cannot run the scans.
    RunError
        If it does not start.
    """
    if client is not None or options.workers == 0:
        yield Where(client)
        return
    with open_cluster(options.where, _need(options, scans, out), tell) as cluster:
        if (link := dashboard_link(cluster.client)) is not None:
            tell(f"dashboard: {link}")
            if (tunnel := ssh_line(link)) is not None:
                tell(f"dashboard: from your own machine first: {tunnel}")

        def heard(event: CohortEvent) -> None:
            if isinstance(event, ScanAdvanced):
                cluster.block_ended()

        patience = Patience(without_workers=cluster.without_workers)
        yield Where(cluster.client, patience, cluster.refill, heard)


def _need(options: Options, scans: Sequence[CheckedScan], out: Path) -> Need:
    """What the scans need of a cluster: the most that one of them does."""
    return Need(
        out,
        bytes=max(_bytes(scan, options) for scan in scans),
        device=options.device,
        processes=sum(scan.seconds for scan in scans) >= _PROCESSES_FROM,
    )


def _bytes(scan: CheckedScan, options: Options) -> int:
    """Most memory of a task of a scan: the whole of a small one, else a block."""
    layout = ScanLayout(tuple(scan.protocol.dimensions))
    whole = scan.voxels <= WHOLE_VOXELS
    block = options.block_size or default_block_size(scan.pipeline, scan.voxels, layout)
    needed = bytes_of_scan if whole else bytes_needed
    return needed(
        scan.protocol.points,
        scan.voxels if whole else block,
        [length for _, length in layout.dimensions],
        len(scan.basis.names) if scan.basis is not None else 0,
        options.threads_per_worker,
    )
