"""Commands for basis sets."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from mrsi_engine.choices import Sequence
from mrsi_engine.cli import output
from mrsi_engine.cli.places import Place

basis_app = App(name="basis", help="Simulate and inspect basis sets.")


@basis_app.command(name="simulate")
def basis_simulate_command(
    *,
    sequence: Sequence,
    te: float,
    out: Place,
    field: float = 3.0,
    frequency: float | None = None,
    points: int = 2048,
    dwell: float = 0.25,
    te1: float | None = None,
    tm: float | None = None,
    linewidth: float = 1.0,
    nucleus: str = "1H",
    metabolites: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    macromolecules: bool = True,
) -> None:
    """Simulate a basis set with ideal pulses and write it as a folder of JSON files.

    Parameters
    ----------
    sequence
        Pulse sequence.
    te
        Echo time, ms (for fid: from the excitation to the first sample).
    out
        Folder of the basis.
    field
        Tesla.
    frequency
        Spectrometer frequency, MHz, instead of the field.
    points
        Samples of a FID.
    dwell
        Dwell time, ms.
    te1
        First echo time of PRESS, ms; half of --te by default.
    tm
        Mixing time of STEAM, ms.
    linewidth
        Lorentzian line width, Hz.
    nucleus
        1H, 31P (with the couplings of ATP) or 2H.
    metabolites
        Names; the usual ones of the brain by default.
    macromolecules
        Add parametric macromolecules, where spectra of the nucleus have them.
    """
    from mrsi_engine.io.basis_files import write_basis
    from mrsi_engine.runs.bases import with_default_macromolecules
    from mrsi_engine.spectra.simulation import simulate_basis

    optional: dict[str, Any] = {
        "te1": None if te1 is None else te1 * 1e-3,
        "mixing_time": None if tm is None else tm * 1e-3,
        "metabolites": metabolites or None,
    }
    basis = simulate_basis(
        sequence,
        echo_time=te * 1e-3,
        field=None if frequency else field,
        spectrometer_frequency=frequency,
        points=points,
        dwell_time=dwell * 1e-3,
        linewidth=linewidth,
        nucleus=nucleus.upper(),
        **{key: value for key, value in optional.items() if value is not None},
    )
    basis = with_default_macromolecules(basis) if macromolecules else basis
    write_basis(basis, out)
    output.say(f"{out}: {', '.join(basis.names)}")


@basis_app.command(name="show")
def basis_show_command(basis: Place, /) -> None:
    """Print what a basis file or folder holds.

    Parameters
    ----------
    basis
        LCModel .basis, FSL-MRS JSON folder, jMRUI text or Osprey .mat.
    """
    from mrsi_engine.io.basis_files import read_basis

    found = read_basis(basis)
    axis = found.acquisition
    echo = "unknown" if axis.echo_time is None else f"{axis.echo_time * 1e3:g} ms"
    output.say(
        f"{basis}: {len(found.names)} columns, {axis.points} points of {axis.dwell_time * 1e3:g} "
        f"ms, {axis.spectrometer_frequency:g} MHz, sequence {found.sequence or 'unknown'}, echo "
        f"time {echo}\n{', '.join(found.names)}"
    )
    for note in found.notes:
        output.say(note)
