"""Fit a scan from Python: simulate one, run it, draw its figures, then quantify it lazily.

Run it with ``.venv/bin/python examples/from_python.py [folder]``; the figures go to ``folder``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import mrsi_engine as me
from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.runs.one_scan import Inputs, Options, process
from mrsi_engine.spectra.phantom import PhantomSettings

BASIS = "press-3t-te30"


def main(folder: Path) -> None:
    """Everything in ``folder``."""
    simulate_scan(folder / "phantom", PhantomSettings(shape=(8, 8, 1), nuisance="water"))
    inputs = Inputs.of(folder / "phantom" / "scan.nii.gz", mask=folder / "phantom" / "mask.nii.gz")

    # As `mrsi run` does it: maps, table and report in a folder. Voxels can be fitted again from it.
    pipeline = me.load_pipeline("brain-1h-3t")
    process(inputs, BasisChoice(BASIS), pipeline, folder / "run", Options(workers=0))
    result = me.open_result(folder / "run" / "result.zarr")
    me.plot.fit(result, (4, 4, 0)).figure.savefig(folder / "fit.png")
    me.plot.correlation(result, (4, 4, 0)).figure.savefig(folder / "correlation.png")
    me.plot.maps(result, ["tNAA", "snr"]).savefig(folder / "maps.png")
    me.plot.maps(result, "tNAA", quantity="crlb").savefig(folder / "crlb.png")
    me.plot.crlb_against_snr(result).figure.savefig(folder / "crlb_against_snr.png")

    # Lazily, on whatever Dask scheduler is active: nothing is written.
    scan = me.open_scan(folder / "run" / "scan.zarr")
    lazy = me.quantify(scan, me.load_basis(BASIS, scan)).compute()
    tnaa = lazy.sel(parameter="NAANAAG")
    print(f"{scan.sizes['voxel']} voxels, median tNAA {float(tnaa['estimate'].median()):.2f}")
    print(f"median Cramér-Rao bound {float(tnaa['sd'].median()):.2f}; figures in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
