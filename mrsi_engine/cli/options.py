"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from mrsi_engine.choices import AUTO, MIN_USABLE, Fill
from mrsi_engine.cli.places import LocalPlace, Place
from mrsi_engine.companions import Companion, CompanionFiles, companions
from mrsi_engine.errors import InputError

if TYPE_CHECKING:
    from mrsi_engine.runs.one_scan import Inputs, Options


def _options() -> dict[str, tuple[Any, Any, str]]:
    """Options of files: type, default and help by name, those of companions by their table."""
    found: dict[str, tuple[Any, Any, str]] = {}
    for row in companions():
        found[row.name] = (Place | None, None, row.help)
        if row.classes:
            found[f"{row.name}_classes"] = (
                Annotated[tuple[str, ...], Parameter(consume_multiple=True)],
                (),
                f"Names of the {row.name} file's last dimension, in order.",
            )
        found |= {name: (Place | None, None, text) for name, text in row.classes.items()}
    found["points"] = (int | None, None, "Use only so many points of every FID.")
    found["keep_personal"] = (
        Annotated[bool, Parameter(negative="")],
        False,
        "Keep what the header says of the person and the machine; left out by default.",
    )
    return found


_OPTIONS = _options()


def _files_of(files: Any, row: Companion) -> CompanionFiles | None:
    """The files given of a companion: one, or one a class."""
    whole: Path | None = getattr(files, row.name)
    by_class = {name: getattr(files, name) for name in row.classes}
    given = {name: path for name, path in by_class.items() if path is not None}
    if given and whole is not None:
        options = [f"--{name}" for name in row.classes]
        raise InputError(
            f"give {row.name} fractions once: --{row.name}, or {', '.join(options[:-1])} and "
            f"{options[-1]}"
        )
    return whole if whole is not None else given or None


if TYPE_CHECKING:
    _FilesFields = object
else:
    _FilesFields = make_dataclass(
        "_FilesFields",
        [(name, kind, default) for name, (kind, default, _) in _OPTIONS.items()],
        frozen=True,
    )


@Parameter(name="*")
@dataclass(frozen=True)
class Files(_FilesFields):
    """What belongs to a scan beside its signals."""

    def of(self, scan: Path) -> Inputs:
        """All files of one scan."""
        from mrsi_engine.runs.one_scan import Inputs

        found: dict[str, Any] = {row.name: _files_of(self, row) for row in companions()}
        others = ("tissue_classes", "points", "keep_personal")
        return Inputs.of(scan, **found, **{name: getattr(self, name) for name in others})


Files.__doc__ = "\n".join(
    ["What belongs to a scan beside its signals.", "", "Parameters", "----------"]
    + [f"{name}\n    {text}" for name, (_, _, text) in _OPTIONS.items()]
)


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where and how to compute.

    Parameters
    ----------
    cluster
        Where workers run: local, slurm, pbs, lsf, sge, kubernetes, gateway, cuda, ssh, the address
        of a running Dask scheduler, or a TOML file; see mrsi cluster list.
    workers
        Workers, on this machine by default one a core or a GPU; 0 runs without Dask. Of a batch
        system the number of jobs, instead of what its profile says.
    scheduler
        Short for --cluster with an address, e.g. tcp://node1:8786.
    tls_ca
        Of a scheduler at tls://: certificate of the authority that it is signed by (PEM).
    tls_cert
        Certificate of this client (PEM).
    tls_key
        Its key (PEM), which only you may read.
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

    cluster: str | None = None
    workers: int | None = None
    scheduler: str | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    threads_per_worker: int = 1
    block_size: int | None = None
    device: str = AUTO
    log: LocalPlace | None = None
    overwrite: Annotated[bool, Parameter(negative="")] = False

    def options(
        self, keep: tuple[str, ...] = (), fill: Fill = "nan", min_usable: float = MIN_USABLE
    ) -> Options:
        """As a run takes them.

        Raises
        ------
        InputError
            If two places to run are given, or only some of the certificates.
        """
        from mrsi_engine.engine.clusters import TLSFiles
        from mrsi_engine.runs.one_scan import Options

        return Options(
            cluster=self._cluster,
            workers=self.workers,
            threads_per_worker=self.threads_per_worker,
            tls=TLSFiles.of(self.tls_ca, self.tls_cert, self.tls_key),
            block_size=self.block_size,
            device=self.device,
            keep=keep,
            fill=fill,
            overwrite=self.overwrite,
            min_usable=min_usable,
        )

    @property
    def _cluster(self) -> str:
        from mrsi_engine.engine.clusters import LOCAL, is_address

        if self.scheduler is None:
            return self.cluster or LOCAL
        if self.cluster is not None or self.workers is not None:
            raise InputError("--scheduler, --cluster and --workers say where to run; give one")
        if not is_address(self.scheduler):
            raise InputError(
                f"scheduler is {self.scheduler!r}, expected an address such as tcp://node1:8786"
            )
        return self.scheduler


FILES, WHERE = Files(), Where()
