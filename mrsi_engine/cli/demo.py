"""Commands for simulated scans: demo and simulate."""

from __future__ import annotations

from pathlib import Path

from mrsi_engine.choices import Nuisance
from mrsi_engine.cli import output
from mrsi_engine.cli.options import WHERE, Where
from mrsi_engine.cli.places import Place


def demo_command(
    *,
    out: Place = Path("demo-out"),
    shape: tuple[int, int, int] = (24, 24, 8),
    seed: int = 1,
    snr: float = 40.0,
    nuisance: Nuisance = "water",
    where: Where = WHERE,
) -> None:
    """Simulate a brain MRSI scan, fit it, write maps and report, and compare with the truth.

    Parameters
    ----------
    out
        Output folder.
    shape
        Voxels in x, y and z.
    seed
        Of every random draw.
    snr
        Height of the NAA peak over the SD of the noise.
    nuisance
        What disturbs the spectra.
    """
    from mrsi_engine.runs.demo import demo
    from mrsi_engine.spectra.phantom import PhantomSettings

    settings = PhantomSettings(shape=shape, seed=seed, snr=snr, nuisance=nuisance)
    with output.run_progress(where.log) as (sinks, progress):
        outcome, rows = demo(out, settings, where.options(), sinks=sinks, progress=progress)
    output.out_console.print(output.truth_table(rows))
    output.announce(outcome)


def simulate_command(
    *,
    out: Place,
    shape: tuple[int, int, int] = (24, 24, 8),
    seed: int = 1,
    snr: float = 40.0,
    nuisance: Nuisance = "none",
    b0_hz: float = 5.0,
    basis: str | None = None,
) -> None:
    """Simulate a brain MRSI scan with known truth and write it as NIfTI-MRS.

    Parameters
    ----------
    out
        Folder for scan, mask, water, tissue fractions and truth maps.
    shape
        Voxels in x, y and z.
    seed
        Of every random draw.
    snr
        Height of the NAA peak over the SD of the noise, for the mean brain voxel.
    nuisance
        What disturbs the spectra.
    b0_hz
        SD of the smooth B0 map, Hz.
    basis
        File, folder or name of the basis; press-3t-te30 by default.
    """
    from mrsi_engine.runs.bases import BasisChoice
    from mrsi_engine.runs.demo import simulate_scan
    from mrsi_engine.spectra.phantom import PhantomSettings

    settings = PhantomSettings(shape=shape, seed=seed, snr=snr, nuisance=nuisance, b0_hz=b0_hz)
    phantom = simulate_scan(out, settings, BasisChoice(basis) if basis else None)
    output.say(f"{out}: {int(phantom.mask.sum())} brain voxels of {phantom.mask.size}")
