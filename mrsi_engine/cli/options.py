"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mrsi_engine.choices import AUTO, MIN_USABLE, Fill
from mrsi_engine.errors import InputError

if TYPE_CHECKING:
    from mrsi_engine.runs.one_scan import Inputs, Options


@Parameter(name="*")
@dataclass(frozen=True)
class Files:
    """What belongs to a scan beside its signals.

    Parameters
    ----------
    mask
        NIfTI volume, not zero where to quantify; without one it is made from signal energy.
    water
        Unsuppressed water reference, NIfTI-MRS. One on another grid is resampled.
    tissue
        4-D NIfTI of tissue fractions; name its classes with --tissue-classes.
    tissue_classes
        Names of the tissue file's last dimension, in order.
    gm
        Fraction map of grey matter; with --wm and --csf instead of --tissue.
    wm
        Fraction map of white matter.
    csf
        Fraction map of cerebrospinal fluid.
    scalp
        Mask of the scalp: its voxels outside --mask show stages what lipids look like.
    points
        Use only so many points of every FID.
    keep_personal
        Keep what the header says of the person and the machine; left out by default.
    """

    mask: Path | None = None
    water: Path | None = None
    tissue: Path | None = None
    tissue_classes: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    gm: Path | None = None
    wm: Path | None = None
    csf: Path | None = None
    scalp: Path | None = None
    points: int | None = None
    keep_personal: Annotated[bool, Parameter(negative="")] = False

    def of(self, scan: Path) -> Inputs:
        """All files of one scan."""
        from mrsi_engine.runs.one_scan import Inputs

        fractions = {"gm": self.gm, "wm": self.wm, "csf": self.csf}
        separate = {name: path for name, path in fractions.items() if path is not None}
        if separate and self.tissue is not None:
            raise InputError("give tissue fractions once: --tissue, or --gm, --wm and --csf")
        tissue = self.tissue if self.tissue is not None else separate or None
        return Inputs(
            scan,
            mask=self.mask,
            water=self.water,
            tissue=tissue,
            tissue_classes=self.tissue_classes,
            scalp=self.scalp,
            points=self.points,
            keep_personal=self.keep_personal,
        )


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where and how to compute.

    Parameters
    ----------
    workers
        Worker processes on this machine (default: one a core, or a GPU); 0 runs without Dask.
    scheduler
        Address of a running Dask scheduler, e.g. tcp://node1:8786, instead of --workers.
    threads_per_worker
        Blocks a worker does at once.
    block_size
        Voxels a task; results do not depend on it.
    device
        auto (every worker takes a GPU if it has one), cpu or cuda.
    log
        File that gets every event of the run as a line of JSON.
    overwrite
        Replace what another run left in the output folder.
    """

    workers: int | None = None
    scheduler: str | None = None
    threads_per_worker: int = 1
    block_size: int | None = None
    device: str = AUTO
    log: Path | None = None
    overwrite: Annotated[bool, Parameter(negative="")] = False

    def options(
        self, keep: tuple[str, ...] = (), fill: Fill = "nan", min_usable: float = MIN_USABLE
    ) -> Options:
        """As a run takes them."""
        from mrsi_engine.runs.one_scan import Options

        return Options(
            workers=self.workers,
            scheduler=self.scheduler,
            threads_per_worker=self.threads_per_worker,
            block_size=self.block_size,
            device=self.device,
            keep=keep,
            fill=fill,
            overwrite=self.overwrite,
            min_usable=min_usable,
        )


FILES, WHERE = Files(), Where()
