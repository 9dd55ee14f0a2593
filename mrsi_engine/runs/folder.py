"""The output folder of a run: what lies where, and whether it may be written to."""

from __future__ import annotations

from pathlib import Path

from mrsi_engine.errors import InputError
from mrsi_engine.io.places import check_reachable, is_remote
from mrsi_engine.io.result_store import RESULT_STORE
from mrsi_engine.io.scan_store import SCAN_STORE
from mrsi_engine.report.summary import SUMMARY_FILE


def scan_folder(folder: Path) -> Path:
    """Where a run keeps its scan store."""
    return folder / "scan.zarr"


def result_folder(folder: Path) -> Path:
    """Where a run keeps its result store."""
    return folder / "result.zarr"


#: Name of a run's report in its folder.
REPORT = "report.html"

#: Files and folders that a run writes into its folder.
_STORES, _EXPORTS = ("scan.zarr", "result.zarr", "maps", "signals"), ("voxels.parquet", REPORT)
_WRITTEN = (*_STORES, *_EXPORTS, SUMMARY_FILE)


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than a run, or links that lead out of it.

    Raises
    ------
    InputError
        If it does, or is on an object store that cannot be used.
    """
    check_reachable(folder)
    if folder.exists() and not (folder.is_dir() and _is_ours(folder)):
        check_empty(folder, "files that are not of a run of this engine")
    check_links(folder)


def check_links(folder: Path) -> None:
    """Refuse a folder where a link would have a run write somewhere else.

    Raises
    ------
    InputError
        If there is one.
    """
    if is_remote(folder):
        return
    inside = folder.resolve()
    for path in (folder / name for name in _WRITTEN):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise InputError(
                f"{path}: is a link to {path.resolve()}, outside the output folder, where nothing "
                "is written; remove the link, or give the folder it leads to with --out"
            )


def check_empty(folder: Path, found: str) -> None:
    """Refuse a folder that holds anything; ``found`` says what, in the message.

    Raises
    ------
    InputError
        If it does, or it is a file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; --out needs a folder")
    if any(folder.iterdir()):
        raise InputError(f"{folder}: holds {found}; give an empty or new folder with --out")


def _is_ours(folder: Path) -> bool:
    """Whether a run, a killed import or a simulation began in this folder."""
    scan = scan_folder(folder)
    stored = SCAN_STORE.holds(scan) or RESULT_STORE.holds(result_folder(folder))
    return stored or bool(killed_imports(scan)) or (folder / "scan" / "truth").is_dir()


def killed_imports(target: Path) -> list[Path]:
    """What imports into this store left that did not live to clean up."""
    return list(target.parent.glob(f".{target.name}.*.partial"))


def remove_exports(folder: Path) -> None:
    """Delete what an earlier run exported: maps of its own metabolites would stay otherwise."""
    for kept in ("maps", "signals"):
        for file in (folder / kept).glob("*_mrsi.*"):
            file.unlink()
    for name in (*_EXPORTS, SUMMARY_FILE):
        (folder / name).unlink(missing_ok=True)
