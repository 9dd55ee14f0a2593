"""Opens the cluster that a run is to go on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import dask
from distributed import Client, SpecCluster
from distributed.system import MEMORY_LIMIT

from mrsi_engine.engine.clusters.arguments import JOB_LOGS, arguments_for, shares_a_folder
from mrsi_engine.engine.clusters.certificates import made_for, settings_of
from mrsi_engine.engine.clusters.choice import ClusterChoice, Need, OpenCluster, Tell
from mrsi_engine.engine.clusters.existing import connected
from mrsi_engine.engine.clusters.handshake import (
    Report,
    ask_workers,
    refuse_unfit,
    wait_for_workers,
)
from mrsi_engine.engine.clusters.heart import Heart
from mrsi_engine.engine.clusters.libraries import check_keys, cluster_class
from mrsi_engine.engine.clusters.local import default_workers, gpu_cluster, local_cluster
from mrsi_engine.engine.clusters.pool import Pool, Served
from mrsi_engine.engine.clusters.profiles import Profile
from mrsi_engine.engine.clusters.settings import QUEUED_SETTINGS
from mrsi_engine.engine.devices import gpu_workers, gpus_here
from mrsi_engine.errors import InputError, MRSIError, RunError
from mrsi_engine.io.places import is_remote

#: How long a run goes on without any worker on this machine, and waits for the first one (s).
_WITHOUT_WORKERS, _START = 600.0, 120.0


#: Workers of a trial.
_TRIED = 2


@dataclass(frozen=True)
class Trial:
    """How a cluster did: seconds until it was open, until each worker came, and what they say."""

    opened: float
    came: Mapping[str, float]
    reports: Sequence[Report]


def silent(line: str) -> None:
    """Tells nobody."""


@contextmanager
def open_cluster(choice: ClusterChoice, need: Need, tell: Tell = silent) -> Iterator[OpenCluster]:
    """The cluster of a choice, once it is known to be able to do what is needed.

    Parameters
    ----------
    choice
        Which cluster.
    need
        What a run needs of it.
    tell
        Told what the cluster is doing while it starts.

    Raises
    ------
    InputError
        If the choice cannot be opened, or its workers cannot do the run; the message says why.
    RunError
        If the cluster does not start, or nobody answers at its address.
    """
    profile = choice.profile
    with _client(profile, choice, need) as client, _pool(client, profile, need) as pool:
        heart = Heart(client, pool.state, tell, need.bytes, here=profile.here)
        if client.scheduler is not None and client.scheduler.address.startswith("inproc"):
            # Threads of this process see what it sees.
            yield OpenCluster(client, heart.beat, heart.block_ended, _WITHOUT_WORKERS)
            return
        wait_for_workers(client, heart, pool, patience=_START if profile.here else inf)
        refuse_unfit(ask_workers(client, need), tell)

        def refill() -> None:
            pool.refill()
            heart.beat()

        waits = _WITHOUT_WORKERS if profile.here else inf
        yield OpenCluster(client, refill, heart.block_ended, waits)


def try_cluster(
    choice: ClusterChoice, need: Need, tell: Tell = silent, patience: float = inf
) -> Trial:
    """Open a cluster, see how long its workers take to come, ask them, and close it.

    Parameters
    ----------
    choice
        Which; two workers unless it says otherwise, or all that are there already.
    need, tell
        As for :func:`open_cluster`.
    patience
        How long to wait for them (s).

    Raises
    ------
    InputError, RunError
        As for :func:`open_cluster`, but for workers that cannot do the run: these are reported.
    """
    profile, started = choice.profile, time.monotonic()
    count = 1 if profile.address else choice.workers or _TRIED
    choice = replace(choice, workers=count)
    with _client(profile, choice, need) as client, _pool(client, profile, need) as pool:
        opened = time.monotonic() - started
        heart = Heart(client, pool.state, tell)
        came: dict[str, float] = {}

        def note(workers: Collection[str]) -> None:
            for worker in workers:
                came.setdefault(worker, time.monotonic() - started)

        wait_for_workers(client, heart, pool, count, patience, note)
        return Trial(opened, came, ask_workers(client, need))


@contextmanager
def _client(profile: Profile, choice: ClusterChoice, need: Need) -> Iterator[Client]:
    if profile.address is not None:
        with connected(profile.address, tls=profile.tls) as client:
            yield client
        return
    check_keys(profile)
    opened = _opened_here if profile.here else _opened_elsewhere
    with opened(profile, choice, need) as client:
        yield client


@contextmanager
def _pool(client: Client, profile: Profile, need: Need) -> Iterator[Pool | Served]:
    """Who keeps a cluster at its size."""
    if not isinstance(client.cluster, SpecCluster):
        yield Served()
        return
    logs = profile.arguments.get("log_directory", _on_disk(need.folder) / JOB_LOGS)
    pool = Pool(client.cluster, Path(logs))
    with pool.kept():
        yield pool


@contextmanager
def _opened_here(profile: Profile, choice: ClusterChoice, need: Need) -> Iterator[Client]:
    arguments = {"processes": need.processes, **profile.arguments}
    given = arguments.pop("n_workers", None)
    threads = max(choice.threads_per_worker, arguments.pop("threads_per_worker", 1))
    workers = choice.workers or given
    gpus = gpu_workers(need.device, workers)
    if profile.kind == "dask_cuda.LocalCUDACluster":
        gpus = workers or gpus_here("cuda")
        if not gpus:
            raise InputError(f"{profile.name}: torch sees no GPU on this machine")
    if gpus:
        del arguments["processes"]
        cluster = gpu_cluster(gpus, threads, secure=profile.secure, **arguments)
    else:
        # Without a GPU a worker has a core; one GPU is kept busy by one worker.
        workers = workers or (1 if gpus_here(need.device) else _that_fit(need))
        if arguments["processes"]:
            arguments.setdefault("memory_limit", MEMORY_LIMIT // workers)
        cluster = local_cluster(workers, threads, secure=profile.secure, **arguments)
    with ExitStack() as stack:
        with _explained(profile):
            client = stack.enter_context(cluster)
        yield client


def _that_fit(need: Need) -> int:
    """Workers of this machine: one a core, as far as its memory goes."""
    most = MEMORY_LIMIT // need.bytes if need.bytes and need.processes else default_workers()
    return max(1, min(default_workers(), most))


@contextmanager
def _opened_elsewhere(profile: Profile, choice: ClusterChoice, need: Need) -> Iterator[Client]:
    make, kind = cluster_class(profile), profile.kind or ""
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(QUEUED_SETTINGS))
        shared = security = None
        if shares_a_folder(kind):
            shared = Path(stack.enter_context(_private_folder(need.folder)))
            security = made_for(shared) if profile.secure else None
        if security is not None:
            stack.enter_context(dask.config.set(settings_of(security)))
        with _explained(profile):
            cluster = make(**arguments_for(kind)(profile.arguments, shared, security))
        stack.enter_context(cluster)
        _scale(cluster, profile, choice.workers)
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def _explained(profile: Profile) -> Iterator[None]:
    """What goes wrong while a cluster starts, as errors that name its profile."""
    try:
        yield
    except MRSIError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{profile.name}: {profile.kind} refuses its keys: {error}") from error
    except Exception as error:
        raise RunError(f"{profile.name}: {profile.kind} does not start: {error}") from error


def _scale(cluster: Any, profile: Profile, workers: int | None) -> None:
    """Ask for workers: so many, or as many as the profile says."""
    if workers is not None:
        cluster.scale(workers)
    elif profile.adapt is not None:
        cluster.adapt(**profile.adapt.model_dump(exclude_none=True))
    elif "n_workers" not in profile.arguments:
        cluster.scale(1)


def _on_disk(folder: Path) -> Path:
    """A folder, or the user's own if it is on an object store."""
    return Path.home() if is_remote(folder) else folder


@contextmanager
def _private_folder(folder: Path) -> Iterator[str]:
    """A folder for certificates where the workers see it and other users do not."""
    inside = _on_disk(folder)
    inside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".cluster-", dir=inside, ignore_cleanup_errors=True
    ) as made:
        yield made
