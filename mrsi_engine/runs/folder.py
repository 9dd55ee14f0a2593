"""The output folder of a run: what lies where, and whether it may be written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mrsi_engine.errors import InputError
from mrsi_engine.io.files import remove_whole
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

#: Files that a run writes into its folder beside stores and maps.
_EXPORTS = ("voxels.parquet", REPORT)


def check_folder(folder: Path, *, within: Path | None = None) -> None:
    """Refuse a folder that holds something else than a run, or links that lead out of it.

    ``within`` as for :func:`check_links`.

    Raises
    ------
    InputError
        If it does, or is on an object store that cannot be used.
    """
    check_reachable(folder)
    if folder.exists() and not (folder.is_dir() and _is_ours(folder)):
        check_empty(folder, "files that are not of a run of this engine")
    check_links(folder, within=within)


def check_links(folder: Path, *, within: Path | None = None, levels: int | None = None) -> None:
    """Refuse a folder where a link would have a run write somewhere else.

    The folder itself may be a link: it is what the user named. On an object store there are none.

    Parameters
    ----------
    folder
        Looked through to its last file, but not through what links lead to.
    within
        A folder above it that the user named instead (a cohort's, of that of a scan); none of the
        folders between the two may lead out of it either.
    levels
        Look only so many deep: 3 for all folders of the scans of a cohort.

    Raises
    ------
    InputError
        If there is one.
    """
    top = folder if within is None else within
    if is_remote(top):
        return
    inside = Path(os.path.realpath(top))
    for path in (*_between(top, folder), *_links_in(folder, levels)):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise InputError(
                f"{path}: is a link to {path.resolve()}, outside the output folder, where nothing "
                "is written; remove the link, or give the folder it leads to with --out"
            )


def _between(top: Path, folder: Path) -> list[Path]:
    """The folders below the one and down to the other."""
    parts = folder.relative_to(top).parts
    return [top.joinpath(*parts[: n + 1]) for n in range(len(parts))]


def _links_in(folder: Path, levels: int | None) -> Iterator[Path]:
    """Links anywhere in a folder, or so many levels deep."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_symlink():
            yield Path(entry.path)
        elif levels != 1 and entry.is_dir(follow_symlinks=False):
            yield from _links_in(Path(entry.path), None if levels is None else levels - 1)


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


def remove_run(folder: Path) -> None:
    """Delete all that a run left in its folder, stores included; what else is there stays.

    Raises
    ------
    InputError
        If a link leads out of the folder.
    """
    check_links(folder)
    remove_exports(folder)
    for store, kind in ((result_folder(folder), RESULT_STORE), (scan_folder(folder), SCAN_STORE)):
        if kind.holds(store):
            remove_whole(store)


def remove_killed_exports(folder: Path) -> None:
    """Delete the beginnings of files that an export left which was killed as it wrote them."""
    for written in (folder, folder / "maps", folder / "signals"):
        for file in written.glob(".*.partial*"):
            if file.is_file():
                file.unlink()
