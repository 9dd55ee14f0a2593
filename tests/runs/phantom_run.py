"""What the tests of whole runs share: the phantom as inputs, and its maps."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.one_scan import FinishedRun, Inputs

BASIS = BasisChoice("press-3t-te30")

KEPT = ("corrected", "fit", "baseline")


def inputs_of(phantom: Path) -> Inputs:
    return Inputs.of(
        phantom / "scan.nii.gz",
        mask=phantom / "mask.nii.gz",
        water=phantom / "water.nii.gz",
        tissue={name: phantom / f"{name}.nii.gz" for name in ("gm", "wm", "csf")},
    )


def truth_of(phantom: Path) -> dict[str, np.ndarray]:
    files = (phantom / "truth").glob("*.nii.gz")
    return {f.name.removesuffix(".nii.gz"): nib.load(f).get_fdata() for f in files}


def volume(outcome: FinishedRun, entities: str) -> np.ndarray:
    path = outcome.folder / "maps" / f"scan_space-orig_{entities}_mrsi.nii.gz"
    return np.asarray(nib.load(path).dataobj)
