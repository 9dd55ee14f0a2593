"""Fit a scan from Python: simulate one, import it, quantify it lazily, and look at tNAA.

Run it with ``.venv/bin/python examples/from_python.py [folder]``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import mrsi_engine as me
from mrsi_engine.io.importing import import_scan
from mrsi_engine.spectra.phantom import PhantomSettings
from mrsi_engine.workflow import simulate_scan


def main(folder: Path) -> None:
    """Everything in ``folder``."""
    simulate_scan(folder / "phantom", PhantomSettings(shape=(8, 8, 1), nuisance="water"))
    import_scan(
        folder / "phantom" / "scan.nii.gz",
        folder / "scan.zarr",
        mask=folder / "phantom" / "mask.nii.gz",
        overwrite=True,
    )
    scan = me.open_scan(folder / "scan.zarr")
    result = me.quantify(scan, me.load_basis("press-3t-te30", scan)).compute()
    tnaa = result.sel(parameter="NAANAAG")
    print(f"{scan.sizes['voxel']} voxels, median tNAA {float(tnaa['estimate'].median()):.2f}")
    print(f"median Cramér-Rao bound {float(tnaa['sd'].median()):.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
