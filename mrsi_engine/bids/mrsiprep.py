"""The maps of a cohort under the names and in the folders where MRSIPrep looks for them.

``mrsi-orig/sub-S/[ses-V/]sub-S[_ses-V]_space-orig[_met-M]_desc-D_mrsi.nii.gz`` is its contract, one
acquisition a session; every number is finite there. Files are hard links to those of the scans
where these are so already.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from mrsi_engine.cohort.dataset import describe_output
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.maps import export_maps
from mrsi_engine.io.nifti_mrs import stem_of
from mrsi_engine.io.result_store import open_result
from mrsi_engine.runs.folder import result_folder

#: Name of the folder, in that of derivatives where MRSIPrep looks.
FOLDER = "mrsi-orig"

_MAP = "_mrsi.nii.gz"

#: The maps it reads, by their entities; it has no use for others, some of which hold NaN.
_READ = re.compile(r"met-[A-Za-z0-9]+_desc-(signal|crlb)|desc-(snr|fwhm|brainmask)")

_README = """# Maps of metabolites as MRSIPrep reads them

Made by mrsi_engine {version}. Put this folder, or a copy of it, into `derivatives/` of the
BIDS dataset. Where there is no fit: amplitude and SNR 0, CRLB and line width 999.
"""


def check_sessions(rows: Sequence[ScanRow]) -> list[str]:
    """What is to be said of scans under MRSIPrep's names; those of single voxels have none.

    Raises
    ------
    InputError
        If a session has several scans: names have no place for which is meant.
    """
    chosen = _imaging(rows)
    counts = Counter(_prefix(row) for row in chosen)
    twice = [row.scan for row in chosen if counts[_prefix(row)] > 1]
    if twice:
        raise InputError(
            "--layout mrsiprep has one scan a session, these share theirs; choose one of each with "
            "--bids-filter-file: " + ", ".join(twice[:10])
        )
    notes = [
        f"{row.scan}: MRSIPrep reads session {row.session!r} as V{(row.session or '')[1:]} and "
        "does not find it; call sessions by names that do not begin with t"
        for row in chosen
        if (row.session or "").lower().startswith("t")
    ]
    nameless = [row.scan for row in rows if row.subject is None]
    others = len(rows) - len(chosen) - len(nameless)
    if nameless:
        notes.append(f"{len(nameless)} scans without a subject have no name in MRSIPrep's layout")
    if others:
        notes.append(f"{others} scans of single voxels have no place in MRSIPrep's layout")
    return notes


def write_layout(
    out: Path, rows: Sequence[ScanRow], done: Collection[str], dataset: Path | None = None
) -> Path:
    """Write the maps of scans as MRSIPrep reads them; returns the folder.

    What an earlier call left of a scan is replaced, or taken away where it is not done any more.

    Parameters
    ----------
    out, rows
        Folder and scans of the cohort.
    done
        Folders of the scans whose results count.
    dataset
        What results are made of.

    Raises
    ------
    InputError
        If a session has several scans.
    RunError
        If a file cannot be written.
    """
    check_sessions(rows)
    folder = out / FOLDER
    describe_output(folder, dataset, _README)
    for row in _imaging(rows):
        target = folder.joinpath(*_prefix(row).split("_"))
        for old in list(target.glob("*_mrsi.*")) if target.is_dir() else ():
            old.unlink()
        if row.folder in done:
            _write_scan(out / row.folder, target, row)
    return folder


def _write_scan(scan: Path, target: Path, row: ScanRow) -> None:
    maps = list(_finite_maps(scan / "maps"))
    if not maps:
        result = open_result(result_folder(scan))
        for path in export_maps(result, target, fill="mrsiprep", stem=_prefix(row)):
            if not _READ.fullmatch(_entities(path)):
                path.unlink()
                _sidecar(path).unlink()
        return
    target.mkdir(parents=True, exist_ok=True)
    for source in maps:
        path = target / f"{_prefix(row)}_space-orig_{_entities(source)}{_MAP}"
        _link(source, path)
        _link(_sidecar(source), _sidecar(path))


def _finite_maps(folder: Path) -> list[Path]:
    """The maps that MRSIPrep reads of a scan, if they are finite; else none."""
    maps = sorted(folder.glob(f"*{_MAP}")) if folder.is_dir() else []
    read = [path for path in maps if _READ.fullmatch(_entities(path))]
    finite = (json.loads(_sidecar(path).read_text("utf-8"))["NoFit"] != "NaN" for path in read)
    return read if all(finite) else []


def _entities(path: Path) -> str:
    """What the name of a map says beside the scan."""
    return path.name.partition("_space-orig_")[2].removesuffix(_MAP)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where there are no links."""
    try:
        target.hardlink_to(source)
    except (OSError, NotImplementedError, AttributeError):
        write_atomically(target, source.read_bytes())


def _imaging(rows: Sequence[ScanRow]) -> list[ScanRow]:
    """Scans of many voxels that have a subject."""
    return [row for row in rows if row.subject and not stem_of(row.scan).endswith("_svs")]


def _prefix(row: ScanRow) -> str:
    return f"sub-{row.subject}" + (f"_ses-{row.session}" if row.session else "")
