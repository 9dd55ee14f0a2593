"""Opens the cluster that a run is to go on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PosixPath, WindowsPath
from typing import Any

import dask
from distributed import Client
from distributed.security import Security

from mrsi_engine.engine.clusters.arguments import arguments_for
from mrsi_engine.engine.clusters.choice import ClusterChoice, Need, OpenCluster, Tell
from mrsi_engine.engine.clusters.existing import connected
from mrsi_engine.engine.clusters.libraries import check_keys, cluster_class
from mrsi_engine.engine.clusters.local import default_workers, gpu_cluster, local_cluster
from mrsi_engine.engine.clusters.pool import Pool
from mrsi_engine.engine.clusters.profiles import Profile
from mrsi_engine.engine.clusters.settings import QUEUED_SETTINGS
from mrsi_engine.engine.devices import gpu_workers, gpus_here
from mrsi_engine.errors import InputError, RunError


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
    with ExitStack() as stack:
        yield stack.enter_context(_opened(choice, need))


@contextmanager
def _opened(choice: ClusterChoice, need: Need) -> Iterator[OpenCluster]:
    profile = choice.profile
    if profile.address is not None:
        with connected(profile.address, tls=profile.tls) as client:
            yield OpenCluster(client, refill=_nothing, state=_no_words)
        return
    check_keys(profile)
    opened = _opened_here if profile.here else _opened_elsewhere
    with opened(profile, choice, need) as client:
        if not hasattr(client.cluster, "worker_spec"):
            # Its own service keeps it at its size.
            yield OpenCluster(client, refill=_nothing, state=_no_words)
            return
        pool = Pool(client.cluster)
        with pool.kept():
            yield OpenCluster(client, refill=pool.refill, state=pool.state)


@contextmanager
def _opened_here(profile: Profile, choice: ClusterChoice, need: Need) -> Iterator[Client]:
    arguments = dict(profile.arguments)
    workers = choice.workers or arguments.pop("n_workers", None)
    threads = max(choice.threads_per_worker, arguments.pop("threads_per_worker", 1))
    gpus = gpu_workers(need.device, workers)
    if profile.kind == "dask_cuda.LocalCUDACluster":
        gpus = workers or gpus_here("cuda")
        if not gpus:
            raise InputError(f"{profile.name}: torch sees no GPU on this machine")
    if gpus:
        with gpu_cluster(gpus, threads, secure=profile.secure, **arguments) as client:
            yield client
        return
    # Without a GPU a worker has a core; one GPU is kept busy by one worker.
    workers = workers or (1 if gpus_here(need.device) else default_workers())
    arguments.setdefault("processes", need.processes)
    with local_cluster(workers, threads, secure=profile.secure, **arguments) as client:
        yield client


@contextmanager
def _opened_elsewhere(profile: Profile, choice: ClusterChoice, need: Need) -> Iterator[Client]:
    make = cluster_class(profile)
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(QUEUED_SETTINGS))
        shared = Path(stack.enter_context(_private_folder(need.folder)))
        security = Security.temporary() if profile.secure else None
        prepared = arguments_for(profile.kind or "")(profile.arguments, shared, security)
        cluster = stack.enter_context(_started(make, prepared, profile))
        _scale(cluster, profile, choice.workers)
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def _started(make: Any, arguments: Mapping[str, Any], profile: Profile) -> Iterator[Any]:
    try:
        cluster = make(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{profile.name}: {profile.kind} refuses its keys: {error}") from error
    except Exception as error:
        raise RunError(f"{profile.name}: {profile.kind} does not start: {error}") from error
    with cluster:
        yield cluster


def _scale(cluster: Any, profile: Profile, workers: int | None) -> None:
    """Ask for workers: so many, or as many as the profile says."""
    if workers is not None:
        cluster.scale(workers)
    elif profile.adapt is not None:
        cluster.adapt(**profile.adapt.model_dump(exclude_none=True))
    elif "n_workers" not in profile.arguments:
        cluster.scale(1)


@contextmanager
def _private_folder(folder: Path) -> Iterator[str]:
    """A folder for certificates where the workers see it and other users do not."""
    on_disk = isinstance(folder, PosixPath | WindowsPath)
    inside = folder if on_disk else Path.home()
    inside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".cluster-", dir=inside, ignore_cleanup_errors=True
    ) as made:
        yield made


def _nothing() -> None:
    """Those who started the workers replace them."""


def _no_words() -> str:
    return ""
