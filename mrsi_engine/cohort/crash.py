"""What is left of scans that failed: ``failed.tsv``, and a folder each to find out why."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mrsi_engine.cohort.ledger import Record
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.table import write_table
from mrsi_engine.io.files import make_folder, remove_leftover, write_atomically
from mrsi_engine.io.places import is_remote
from mrsi_engine.runs.bases import BasisChoice

#: Folder of crashes, and the table of scans that failed, in that of a cohort.
CRASH, FAILED = "crash", "failed.tsv"

_COLUMNS = ("scan", "state", "step", "attempt", "worker", "time", "error", "crash")

#: Packages whose versions a report of a defect needs.
_PACKAGES = ("mrsi-engine", "torch", "numpy", "scipy", "zarr", "dask", "distributed", "nibabel")


@dataclass(frozen=True)
class Crashes:
    """Folders of scans that failed.

    Parameters
    ----------
    out
        Folder of the cohort.
    flags
        Options of the command line that run a scan as it was run, see :func:`flags_of`.
    """

    out: Path
    flags: tuple[str, ...] = ()

    def write(self, row: ScanRow, error: str, traceback: str, log: Sequence[str]) -> None:
        """Write the folder of a scan that failed: error, log, versions, how to repeat it alone.

        Raises
        ------
        RunError
            If a file cannot be written.
        """
        folder = make_folder(self.out / CRASH / crash_name(row.folder))
        write_atomically(folder / "error.txt", f"{error}\n\n{traceback}".strip().encode() + b"\n")
        write_atomically(folder / "log.jsonl", "".join(f"{line}\n" for line in log).encode())
        told = "".join(f"{name}\t{found}\n" for name, found in versions().items())
        write_atomically(folder / "versions.tsv", told.encode())
        write_table([row], folder / "scan.tsv")
        write_atomically(folder / "repeat.sh", self._script(row).encode())

    def remove(self, row: ScanRow) -> None:
        """Delete the folder of a scan that did not fail this time, if there is one."""
        folder = self.out / CRASH / crash_name(row.folder)
        if folder.is_dir():
            remove_leftover(folder)
            if not is_remote(folder) and not any(folder.parent.iterdir()):
                folder.parent.rmdir()

    def _script(self, row: ScanRow) -> str:
        given = ("scan.tsv", "--out", "again", *self.flags, "--workers", "0", "--debug")
        return (
            "#!/bin/sh\n"
            f"# {row.folder} alone, in one process, into the folder `again` beside this file.\n"
            'cd "$(dirname "$0")" || exit\n'
            f"exec mrsi cohort {shlex.join(given)}\n"
        )


def crash_name(scan: str) -> str:
    """Name of the crash folder of a scan."""
    return scan.replace("/", "_")


def write_failed(out: Path, records: Iterable[Record]) -> Path:
    """Write ``failed.tsv``: a line a scan that failed or was refused, only the head if none did.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    lines = ["\t".join(_COLUMNS)]
    for record in records:
        crash = f"{CRASH}/{crash_name(record.scan)}"
        cells = (*(getattr(record, name) for name in _COLUMNS[:-1]), crash)
        lines.append("\t".join(" ".join(str(cell or "n/a").split()) for cell in cells))
    return write_atomically(out / FAILED, "".join(f"{line}\n" for line in lines).encode())


def flags_of(basis: BasisChoice | None, pipeline: str, options: CohortOptions) -> tuple[str, ...]:
    """Options of ``mrsi cohort`` that say what is not as it is by default."""
    given: dict[str, object] = {"--pipeline": _whole(pipeline)}
    if basis is not None:
        given["--basis"] = _whole(basis.source)
        given |= {
            "--basis-reference": basis.reference_ppm,
            "--basis-conjugate": basis.conjugate,
            "--basis-te-mismatch": _unless(basis.te_mismatch, "refuse"),
        }
    scan, usual = options.scan, CohortOptions().scan
    names = ("keep", "fill", "block_size", "device", "min_usable")
    given |= {
        f"--{n.replace('_', '-')}": _unless(getattr(scan, n), getattr(usual, n)) for n in names
    }
    given |= {"--points": options.points, "--keep-personal": options.keep_personal}
    return tuple(word for name, value in given.items() for word in _words(name, value))


def versions() -> Mapping[str, str]:
    """Versions of what a run is made of, by name."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _words(name: str, value: object) -> tuple[str, ...]:
    if value is None or value is False or value == ():
        return ()
    if value is True:
        return (name,)
    return (name, *map(str, value)) if isinstance(value, tuple) else (name, str(value))


def _unless(value: object, usual: object) -> object:
    return None if value == usual else value


def _whole(source: str) -> str:
    """A file by its whole path, as the script runs elsewhere; names stay names."""
    path = Path(source)
    return str(path.absolute()) if path.exists() else source
