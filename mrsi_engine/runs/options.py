"""How a scan is run."""

from __future__ import annotations

from dataclasses import dataclass

from mrsi_engine.choices import MIN_USABLE, Fill
from mrsi_engine.engine.devices import AUTO, check_device, gpu_workers
from mrsi_engine.errors import InputError


@dataclass(frozen=True)
class Options:
    """How to run: where, in what blocks, and what to keep.

    ``min_usable`` is the share of usable voxels from which a run is accepted.
    """

    workers: int | None = None
    scheduler: str | None = None
    threads_per_worker: int = 1
    block_size: int | None = None
    device: str = AUTO
    keep: tuple[str, ...] = ()
    fill: Fill = "nan"
    overwrite: bool = False
    min_usable: float = MIN_USABLE

    def check(self) -> Options:
        """These options, once they are known to say a possible way to run.

        Raises
        ------
        InputError
            If a number is out of range, two places to run are given, there is no such device, or
            more workers than GPUs, or what hands those out is not installed.
        """
        for name, least in (("workers", 0), ("threads_per_worker", 1), ("block_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} is {value}, expected at least {least}")
        if not 0 <= self.min_usable <= 1:
            raise InputError(f"min_usable is {self.min_usable:g}, expected a share from 0 to 1")
        if self.workers is not None and self.scheduler is not None:
            raise InputError("workers and scheduler both say where to run; give one of them")
        check_device(self.device, here=self.scheduler is None)
        if self.scheduler is None:
            gpu_workers(self.device, self.workers)
        return self
