"""Commands for clusters: which there are, how one is set up, and whether one is fit for a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App
from rich.table import Table

from mrsi_engine.choices import AUTO
from mrsi_engine.cli import output
from mrsi_engine.errors import InputError

if TYPE_CHECKING:
    from mrsi_engine.engine.clusters.handshake import Report
    from mrsi_engine.engine.clusters.opening import Trial

cluster_app = App(name="cluster", help="Clusters that runs can go on.")

_MIB = 1 << 20


@cluster_app.command(name="list")
def cluster_list_command() -> None:
    """Print the clusters that --cluster takes by name."""
    from mrsi_engine.engine.clusters import profile_names, summary_of

    for name in profile_names():
        output.say(f"{name}: {summary_of(name)}")
    output.say(
        "ADDRESS: a Dask scheduler that is there already, tcp://HOST:PORT or tls://HOST:PORT"
    )
    output.say("FILE.toml: one of your own; mrsi cluster show NAME prints one to begin with")


@cluster_app.command(name="show")
def cluster_show_command(name: str, /) -> None:
    """Print the profile of a cluster, to copy into a file and change.

    Parameters
    ----------
    name
        See mrsi cluster list.
    """
    from mrsi_engine.engine.clusters import profile_text

    output.say(profile_text(name).rstrip())


@cluster_app.command(name="test")
def cluster_test_command(
    cluster: str,
    /,
    *,
    folder: Path = Path(),
    workers: int | None = None,
    device: str = AUTO,
    timeout: float = 600.0,
    tls_ca: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> None:
    """Start two workers of a cluster and see whether they can do a run.

    Parameters
    ----------
    cluster
        What --cluster takes: a name, an address or a TOML file.
    folder
        Output folder of runs; workers have to see it.
    workers
        How many to start, instead of two.
    device
        What they are to compute on: auto, cpu or cuda.
    timeout
        How long to wait for them, in seconds.
    tls_ca
        Of a scheduler at tls://: certificate of the authority that it is signed by (PEM).
    tls_cert
        Certificate of this client (PEM).
    tls_key
        Its key (PEM), which only you may read.
    """
    from mrsi_engine.engine.clusters import ClusterChoice, Need, TLSFiles, least_bytes, try_cluster

    tls = TLSFiles.of(tls_ca, tls_cert, tls_key)
    choice = ClusterChoice(cluster, workers=workers, tls=tls).check(device)
    need = Need(folder.resolve(), least_bytes(), device)
    trial = try_cluster(choice, need, output.note, timeout)
    output.out_console.print(trial_table(trial))
    problems = dict.fromkeys(report.problem for report in trial.reports if report.problem)
    for problem in problems:
        output.complain(problem)
    if problems:
        sys.exit(InputError.exit_code)


def trial_table(trial: Trial) -> Table:
    """A row a worker."""
    table = Table(title=f"open after {trial.opened:.1f} s")
    table.add_column("worker", no_wrap=True)
    for heading in ("host", "came after", "folder", "versions", "memory", "device"):
        table.add_column(heading, overflow="fold")
    for report in trial.reports:
        table.add_row(report.address, *_cells(report, trial.came.get(report.address)))
    return table


def _cells(report: Report, came: float | None) -> list[str]:
    seen = report.seen
    after = "" if came is None else f"{came:.1f} s"
    memory = f"{report.memory_limit / _MIB:.0f} MiB" if report.memory_limit else "no limit"
    if isinstance(seen, Exception):
        return ["?", after, "?", report.problem, memory, "?"]
    versions = "other" if report.problem.startswith("other version") else "same"
    shared = "not shared" if seen.folder else "shared"
    return [seen.host, after, shared, versions, memory, seen.device]
