"""A cohort of small simulated scans of two protocols, some of them broken, with its table."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.spectra.phantom import PhantomSettings

PROTOCOLS = ("press-3t-te30", "slaser-3t-te40")

#: Ways in which a scan is broken, one after the other.
BREAKS = ("truncated", "not there", "another mask")

_SMALL, _LARGE = (8, 8, 1), (20, 20, 3)
_COLUMNS = ("subject", "session", "scan", "mask", "basis", "scanner")


@dataclass(frozen=True)
class MadeCohort:
    """Where the table is, and which of its rows can and cannot be run (``sub-S/ses-V/STEM``)."""

    table: Path
    good: tuple[str, ...]
    broken: tuple[str, ...]


def make_cohort(
    folder: Path,
    scans: int,
    *,
    broken: int = 0,
    without_mask: int = 0,
    large: int = 0,
    small_shape: tuple[int, int, int] = _SMALL,
    large_shape: tuple[int, int, int] = _LARGE,
) -> MadeCohort:
    """Simulate scans and write ``cohort.tsv``.

    Parameters
    ----------
    broken, without_mask, large
        How many are broken, come without a mask, and are of many blocks rather than a handful.
    """
    rows, good, bad = [], [], []
    for number in range(scans):
        shape = large_shape if number < large else small_shape
        row = _simulated(folder, number, shape)
        name = f"sub-{row['subject']}/ses-{row['session']}/{row['subject']}-scan"
        if number >= scans - broken:
            _break(row, BREAKS[number % len(BREAKS)], folder)
            bad.append(name)
        else:
            good.append(name)
        if large <= number < large + without_mask:
            row["mask"] = "n/a"
        rows.append(row)
    table = folder / "cohort.tsv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return MadeCohort(table, tuple(good), tuple(bad))


def _simulated(folder: Path, number: int, shape: tuple[int, int, int]) -> dict[str, str]:
    """A row of the table, with paths relative to it."""
    subject, basis = f"{number // 2 + 1:04d}", PROTOCOLS[number % len(PROTOCOLS)]
    session = str(number % 2 + 1)
    made = folder / "raw" / f"{subject}-{session}"
    settings = PhantomSettings(shape=shape, seed=number, snr=30.0, nuisance="water")
    simulate_scan(made, settings, BasisChoice(basis))
    scan = made / f"{subject}-scan.nii.gz"
    (made / "scan.nii.gz").rename(scan)
    return {
        "subject": subject,
        "session": session,
        "scan": str(scan.relative_to(folder)),
        "mask": str((made / "mask.nii.gz").relative_to(folder)),
        "basis": basis,
        "scanner": f"scanner-{number % 3}",
    }


def _break(row: dict[str, str], how: str, folder: Path) -> None:
    scan = folder / row["scan"]
    if how == "truncated":
        whole = gzip.decompress(scan.read_bytes())
        scan.write_bytes(gzip.compress(whole[: len(whole) // 2], 1))
    elif how == "not there":
        scan.unlink()
    else:
        other = folder / "raw" / "other"
        if not other.exists():
            simulate_scan(other, PhantomSettings(shape=(6, 6, 1), seed=0), None)
        row["mask"] = str((other / "mask.nii.gz").relative_to(folder))


def fingerprints(out: Path, names: tuple[str, ...]) -> dict[str, dict[str, bytes]]:
    """Every map of every scan, as the bytes of its numbers."""
    return {name: dict(_maps(out / name / "maps")) for name in names}


def _maps(folder: Path) -> Iterator[tuple[str, bytes]]:
    import nibabel as nib

    for path in sorted(folder.glob("*.nii.gz")):
        yield path.name, np.asarray(nib.load(path).dataobj).tobytes()
