"""What a cohort would do, before anything runs: which scans, by which protocol, how long.

Headers of scans and companions are read once, in parallel; a basis is loaded once for each
protocol. No signal is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from mrsi_engine.cohort.costs import BASED_ON, cpu_seconds, disk_bytes
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.companions import MASK, companions
from mrsi_engine.errors import MRSIError
from mrsi_engine.io.bounds import readable
from mrsi_engine.io.nifti_mrs import NIfTIMRSHeader
from mrsi_engine.io.places import place
from mrsi_engine.io.volumes import read_mask
from mrsi_engine.nuclei import nucleus
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice, basis_for
from mrsi_engine.runs.folder import check_folder
from mrsi_engine.runs.one_scan import Inputs, Protocol, read_protocol, suited_basis
from mrsi_engine.spectra.basis import Basis

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Files read at once: on a network each waits for its server.
THREADS = 16

_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))

#: Refused scans that are named.
MOST_TOLD = 20


@dataclass(frozen=True)
class ProtocolClass:
    """What scans share that are measured and processed alike.

    ``field`` is in T, times in s, ``dimensions`` are those of FIDs between voxel and time.
    """

    nucleus: str
    field: float
    echo_time: float | None
    repetition_time: float | None
    sequence: str | None
    points: int
    dwell_time: float
    dimensions: tuple[tuple[str, int], ...]
    basis: str | None
    pipeline: str

    @property
    def text(self) -> str:
        """In a line, as the preflight's table shows it."""
        echo = "no TE" if self.echo_time is None else f"TE {1e3 * self.echo_time:g} ms"
        more = [f"{length} {name}s" for name, length in self.dimensions]
        parts = [
            f"{self.nucleus} at {self.field:.3g} T",
            self.sequence or "sequence not stated",
            echo,
            f"{self.points} points of {1e3 * self.dwell_time:.4g} ms",
            *more,
            f"basis {self.basis}" if self.basis else "no basis",
            f"pipeline {self.pipeline}",
        ]
        return ", ".join(parts)


@dataclass(frozen=True, eq=False)
class CheckedScan:
    """A scan that can run, and all that the check found: nothing has to be read twice.

    ``basis`` is the same object for all scans of one protocol. ``voxels`` (of the mask, or of the
    volume where none is given), CPU ``seconds`` and ``size`` on disk, bytes, are estimates.
    ``notes`` say what its header leaves open.
    """

    row: ScanRow
    inputs: Inputs
    pipeline: Pipeline
    basis: Basis | None
    protocol: ProtocolClass
    voxels: int
    seconds: float
    size: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Preflight:
    """What a cohort would do; ``refused`` has the error of each scan that cannot, by its folder."""

    scans: tuple[CheckedScan, ...]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """CPU s that all scans will take: an estimate."""
        return sum(scan.seconds for scan in self.scans)

    @property
    def size(self) -> int:
        """Bytes that all results will take on disk: an estimate."""
        return sum(scan.size for scan in self.scans)

    @property
    def protocols(self) -> dict[ProtocolClass, list[CheckedScan]]:
        """The scans of each protocol, that of most scans first."""
        found: dict[ProtocolClass, list[CheckedScan]] = {}
        for scan in self.scans:
            found.setdefault(scan.protocol, []).append(scan)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    @property
    def exit_code(self) -> int:
        """Of a dry run: 0 where all scans can run, 1 where some cannot, 2 where none can."""
        return 2 if not self.scans else 1 if self.refused else 0

    def lines(self, workers: int | None = None) -> Iterator[str]:
        """The table that users see: what runs by protocol, what it costs, what is refused and why.

        ``workers`` are those that share the work, where that is known.
        """
        yield f"{len(self.scans)} of {len(self.scans) + len(self.refused)} scans can run"
        for protocol, scans in self.protocols.items():
            voxels = sum(scan.voxels for scan in scans)
            yield f"  {len(scans):5}  {protocol.text}"
            given = [name for scan in scans for name in scan.inputs.files]
            counts = [f"{given.count(row.name)} {row.name}" for row in companions()]
            yield f"         {voxels} voxels; with {', '.join(counts)}"
        if self.scans:
            yield f"  about {self._time(workers)} and {readable(self.size)} ({BASED_ON})"
        if self.refused:
            yield f"{len(self.refused)} refused"
        for folder, error in list(self.refused.items())[:MOST_TOLD]:
            yield f"  {folder}: {error.splitlines()[0]}"
        if len(self.refused) > MOST_TOLD:
            yield f"  and {len(self.refused) - MOST_TOLD} more"

    def _time(self, workers: int | None) -> str:
        alone = f"{_duration(self.seconds)} of one core"
        if not workers:
            return alone
        return f"{_duration(self.seconds / workers)} on {workers} workers ({alone})"


def preflight(
    rows: Sequence[ScanRow],
    out: Path,
    *,
    basis: BasisChoice | None,
    pipeline: Pipeline,
    options: CohortOptions,
) -> Preflight:
    """Check every scan of a cohort; one that cannot run does not hinder the others.

    Parameters
    ----------
    rows
        The scans.
    out
        Folder of the cohort.
    basis, pipeline
        Of scans that have none of their own.
    """
    wrong = {row.folder: row.refused for row in rows if row.refused}
    checks = _Checks(out, basis, pipeline, options)
    waiting = [row for row in rows if row.folder not in wrong]
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(pool.map(_without_error(checks.read), waiting))
    found = []
    for row, one in zip(waiting, read, strict=True):
        checked = one if isinstance(one, str) else _without_error(checks.suit)(row, *one)
        if isinstance(checked, str):
            wrong[row.folder] = checked
        else:
            found.append(checked)
    return Preflight(tuple(found), wrong)


class _Checks:
    """The checks of a scan, with what scans share loaded once."""

    def __init__(
        self, out: Path, basis: BasisChoice | None, pipeline: Pipeline, options: CohortOptions
    ) -> None:
        self._out, self._basis, self._options = out, basis, options
        self._pipelines = _Once[Pipeline]()
        self._bases = _Once[Basis | None]()
        self._shares: dict[Hashable, float] = {}
        self._pipelines(None, lambda: pipeline)

    def read(self, row: ScanRow) -> tuple[Inputs, NIfTIMRSHeader, Protocol]:
        """What the headers of a scan and its companions say; called in threads."""
        check_folder(self._out / row.folder, within=self._out)
        inputs = row.inputs(self._options.points, self._options.keep_personal)
        return inputs, *read_protocol(inputs)

    def suit(
        self, row: ScanRow, inputs: Inputs, header: NIfTIMRSHeader, protocol: Protocol
    ) -> CheckedScan:
        """The scan with pipeline and basis, once these fit it."""
        pipeline = self._pipelines(row.pipeline, lambda: Pipeline.load(row.pipeline or ""))
        choice = basis_for(row.basis, self._basis)
        key = (row.pipeline, choice, repr(protocol))
        keep = self._options.scan.keep
        basis = self._bases(key, lambda: suited_basis(choice, pipeline, protocol, keep))
        voxels = self._voxels(inputs, header, key)
        signals = len(protocol.layout.timing)
        return CheckedScan(
            row,
            inputs,
            pipeline,
            basis,
            protocol_class(protocol, choice, pipeline),
            voxels,
            cpu_seconds(header, pipeline, voxels),
            disk_bytes(header, signals, voxels),
            header.notes,
        )

    def _voxels(self, inputs: Inputs, header: NIfTIMRSHeader, key: Hashable) -> int:
        """Voxels to process: as many of all as in the mask of the first scan of the protocol."""
        everything = math.prod(header.grid.shape)
        mask = inputs.files.get(MASK.name)
        if mask is None or isinstance(mask, Mapping):
            return everything
        here = (key, header.grid.shape)
        if here not in self._shares:
            self._shares[here] = float(read_mask(place(mask), header.grid)[0].mean())
        return max(1, round(self._shares[here] * everything))


def protocol_class(
    protocol: Protocol, choice: BasisChoice | None, pipeline: Pipeline
) -> ProtocolClass:
    """What a scan shares with others that are measured and processed alike."""
    axis = protocol.acquisition
    return ProtocolClass(
        axis.nucleus,
        nucleus(axis.nucleus).field(axis.spectrometer_frequency),
        axis.echo_time,
        axis.repetition_time,
        protocol.sequence,
        axis.points,
        axis.dwell_time,
        protocol.layout.dimensions,
        None if choice is None else choice.source,
        pipeline.name,
    )


def _duration(seconds: float) -> str:
    """Seconds in a unit that suits them, three digits."""
    unit, size = next((u, s) for u, s in _UNITS if seconds >= s or s == 1)
    return f"{seconds / size:.3g} {unit}"


class _Once(Generic[_T]):
    """Makes a thing once for each key; what cannot be made fails again without being tried."""

    def __init__(self) -> None:
        self._made: dict[Hashable, _T | MRSIError] = {}

    def __call__(self, key: Hashable, make: Callable[[], _T]) -> _T:
        if key not in self._made:
            try:
                self._made[key] = make()
            except MRSIError as error:
                self._made[key] = error
        found = self._made[key]
        if isinstance(found, MRSIError):
            raise found
        return found


def _without_error(check: Callable[_P, _T]) -> Callable[_P, _T | str]:
    """A check that says what is wrong instead of raising it, whatever it is."""

    def checked(*arguments: _P.args, **named: _P.kwargs) -> _T | str:
        try:
            return check(*arguments, **named)
        except MRSIError as error:
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    return checked
