"""How a scan is run."""

from __future__ import annotations

from dataclasses import dataclass

from mrsi_engine.choices import MIN_USABLE, Fill
from mrsi_engine.engine.clusters import LOCAL, ClusterChoice, TLSFiles
from mrsi_engine.engine.devices import AUTO
from mrsi_engine.errors import InputError


@dataclass(frozen=True)
class Options:
    """How to run: where, in what blocks, and what to keep.

    ``cluster``, ``workers``, ``threads_per_worker`` and ``tls`` are those of
    :class:`~mrsi_engine.engine.clusters.ClusterChoice`.
    ``min_usable`` is the share of usable voxels from which a run is accepted.
    """

    cluster: str = LOCAL
    workers: int | None = None
    threads_per_worker: int = 1
    tls: TLSFiles | None = None
    block_size: int | None = None
    device: str = AUTO
    keep: tuple[str, ...] = ()
    fill: Fill = "nan"
    overwrite: bool = False
    min_usable: float = MIN_USABLE

    @property
    def where(self) -> ClusterChoice:
        """The cluster that is chosen."""
        return ClusterChoice(self.cluster, self.workers, self.threads_per_worker, self.tls)

    def check(self) -> Options:
        """These options, once they are known to say a possible way to run.

        Raises
        ------
        InputError
            If a number is out of range, there is no such cluster or device, more workers than
            GPUs are asked for, or a library that is needed is not installed.
        """
        if self.block_size is not None and self.block_size < 1:
            raise InputError(f"block_size is {self.block_size}, expected at least 1")
        if not 0 <= self.min_usable <= 1:
            raise InputError(f"min_usable is {self.min_usable:g}, expected a share from 0 to 1")
        self.where.check(self.device)
        return self
