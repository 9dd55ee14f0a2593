"""Which cluster a run is to go on, what it needs of it, and what is open then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distributed import Client

from mrsi_engine.choices import AUTO
from mrsi_engine.engine.clusters.certificates import TLSFiles, security_of
from mrsi_engine.engine.clusters.libraries import check_keys, check_needs
from mrsi_engine.engine.clusters.profiles import Profile, is_address, load_profile
from mrsi_engine.engine.devices import check_device, gpu_workers
from mrsi_engine.errors import InputError

#: The profile that is meant where none is named.
LOCAL = "local"

#: Told lines for the user: what a cluster is doing while nothing else can be seen.
Tell = Callable[[str], None]


@dataclass(frozen=True)
class ClusterChoice:
    """Where to run.

    Parameters
    ----------
    cluster
        Name of a profile (``mrsi cluster list``), path of a TOML file, or address of a scheduler
        that is there already.
    workers
        Workers, or jobs of one worker; by default what the profile says, and on this machine one a
        core or GPU.
    threads_per_worker
        Blocks that a worker of this machine does at once.
    tls
        Certificates for the address of a scheduler.
    """

    cluster: str = LOCAL
    workers: int | None = None
    threads_per_worker: int = 1
    tls: TLSFiles | None = None

    @property
    def here(self) -> bool:
        """Whether this machine computes."""
        return not is_address(self.cluster) and load_profile(self.cluster).here

    @property
    def profile(self) -> Profile:
        """The profile that is named, or one made of the address."""
        return load_profile(self.cluster, self.tls)

    def check(self, device: str = AUTO) -> ClusterChoice:
        """This choice, once it is known to be one that can be opened.

        Raises
        ------
        InputError
            If there is no such profile, its file says what its library does not know, the library
            is not installed, an address asks for certificates and there are none, or this machine
            is to compute and lacks what is asked for.
        """
        for name, least in (("workers", 0), ("threads_per_worker", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, expected at least {least}")
        profile = self.profile
        if self.workers is not None and profile.address is not None:
            raise InputError(
                f"workers is {self.workers}, but those of {profile.address} are there already; "
                "give one of --workers and the address"
            )
        check_device(device, here=profile.here)
        if profile.here:
            gpu_workers(device, self.workers)
        if profile.address is not None:
            security_of(profile.address, profile.tls)
        else:
            check_keys(profile)
            check_needs(profile)
        return self


@dataclass(frozen=True)
class Need:
    """What a run needs of its workers.

    Parameters
    ----------
    folder
        Every worker must see it and write there.
    bytes
        Most memory of a worker process that does one task, itself included; 0 if not known.
    device
        What workers compute on: ``auto``, ``cpu`` or ``cuda``.
    processes
        Whether workers of this machine are processes, rather than threads of this one.
    """

    folder: Path
    bytes: int = 0
    device: str = AUTO
    processes: bool = True


@dataclass(frozen=True, eq=False)
class OpenCluster:
    """A cluster that is open.

    Parameters
    ----------
    client
        Its client.
    refill
        To be called every few seconds from the thread of the driver: starts workers in place of
        those that are gone for good, and says every half minute what the cluster is doing.
    block_ended
        To be called with every block, or part of a pass, that ended.
    without_workers
        How long it may be without any worker (s): jobs may queue for days.
    """

    client: Client
    refill: Callable[[], None]
    block_ended: Callable[[], None]
    without_workers: float
