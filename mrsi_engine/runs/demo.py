"""A simulated scan with known truth, and the engine run on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mrsi_engine.choices import DEFAULT_PIPELINE
from mrsi_engine.engine.events import Sink
from mrsi_engine.io.importing import Progress
from mrsi_engine.io.phantom_files import write_phantom
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.report.truth import TruthRow, result_truth_table
from mrsi_engine.runs.bases import BasisChoice, load_basis
from mrsi_engine.runs.folder import check_empty, check_folder
from mrsi_engine.runs.one_scan import FinishedRun, Inputs, Options, process
from mrsi_engine.spectra.phantom import Phantom, PhantomSettings, make_phantom
from mrsi_engine.spectra.simulation import parse_basis_name

_PHANTOM_BASIS = "press-3t-te30"

_PHANTOM_POINTS, _PHANTOM_DWELL = 1024, 0.4e-3


def simulate_scan(
    folder: Path, settings: PhantomSettings, basis: BasisChoice | None = None
) -> Phantom:
    """Simulate a scan with known truth and write it to ``folder`` as NIfTI-MRS.

    Parameters
    ----------
    basis
        What the spectra are made of; PRESS, TE 30 ms at 3 T by default.

    Raises
    ------
    InputError
        If a setting or the basis is wrong, or the folder holds files that are no simulated scan,
        some of which could have the same names.
    """
    if folder.exists() and not (folder / "truth").is_dir():
        check_empty(folder, "files that are not of a simulated scan")
    named = parse_basis_name(_PHANTOM_BASIS)
    assert named is not None
    axis = replace(named, points=_PHANTOM_POINTS, dwell_time=_PHANTOM_DWELL).acquisition
    if basis is not None:
        # The phantom then has the echo time of its basis.
        axis = replace(axis, echo_time=None)
    phantom = make_phantom(settings, load_basis(basis or BasisChoice(_PHANTOM_BASIS), axis), axis)
    write_phantom(phantom, folder)
    return phantom


def demo(
    folder: Path,
    settings: PhantomSettings,
    options: Options,
    *,
    sinks: Sequence[Sink] = (),
    progress: Progress | None = None,
) -> tuple[FinishedRun, list[TruthRow]]:
    """Simulate a brain, run the default pipeline on it, and compare with the truth.

    The simulated files go to ``scan`` in the folder; else see :func:`process`.
    """
    options.check()
    check_folder(folder)
    phantom = simulate_scan(folder / "scan", settings)
    inputs = Inputs.of(
        folder / "scan" / "scan.nii.gz",
        mask=folder / "scan" / "mask.nii.gz",
        water=folder / "scan" / "water.nii.gz",
        tissue={name: folder / "scan" / f"{name}.nii.gz" for name in phantom.tissue},
        scalp=folder / "scan" / "scalp.nii.gz" if settings.nuisance in ("lipid", "all") else None,
    )
    outcome = process(
        inputs,
        BasisChoice(_PHANTOM_BASIS),
        Pipeline.load(DEFAULT_PIPELINE),
        folder,
        options,
        sinks=sinks,
        progress=progress,
        truth=phantom.truth,
    )
    return outcome, result_truth_table(outcome.result, phantom.truth)
