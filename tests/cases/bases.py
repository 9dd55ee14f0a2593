"""Bases of the phantom in the shapes that other programs and hands give them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrsi_engine.runs.bases import with_default_macromolecules
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.simulation import simulate_basis

#: What Vespa calls the phantom's metabolites.
VESPA = {
    "NAA": "n-acetylaspartate", "NAAG": "n-acetylaspartylglutamate", "Cr": "creatine",
    "PCr": "phosphocreatine", "GPC": "glycerophosphocholine", "PCh": "phosphorylcholine",
    "Ins": "myo-inositol", "sIns": "scyllo-inositol", "Glu": "glutamate", "Gln": "glutamine",
    "GSH": "glutathione", "GABA": "gaba", "Tau": "taurine", "Lac": "lactate", "Ala": "alanine",
    "Asp": "aspartate", "Glc": "glucose", "Gly": "glycine", "PE": "phosphorylethanolamine",
    "Asc": "ascorbate", "MM": "mm",
}  # fmt: skip


def phantom_basis(points: int = 2048, echo_time: float = 0.030) -> Basis:
    """PRESS on the phantom's frequency and dwell time, with macromolecules."""
    return with_default_macromolecules(
        simulate_basis(
            "press",
            echo_time=echo_time,
            spectrometer_frequency=127.732435554,
            points=points,
            dwell_time=0.4e-3,
        )
    )


def write_lcmodel(
    path: Path,
    basis: Basis,
    *,
    badelt: str = "4.e-4",
    echo_time: str = "30.",
    frequency: str = "127.732435554",
    twice: tuple[str, ...] = (),
    lower: bool = False,
) -> Path:
    """LCModel's namelists and spectra; ``lower`` as its own files for GE stand."""
    case: Callable[[str], str] = str.lower if lower else str
    lines = [
        case(" $SEQPAR"),
        case(f" FWHMBA=0.01, HZPPPM={frequency}, ECHOT={echo_time}, SEQ=") + "'PRESS'",
        case(" $END"),
        case(" $BASIS1"),
        case(f" IDBASI='x', FMTBAS='(6E13.5)', BADELT={badelt}, NDATAB={basis.acquisition.points}"),
        case(" $END"),
    ]
    for name in (*basis.names, *twice):
        spectrum = np.fft.fft(basis[name])
        values = np.column_stack([spectrum.real, spectrum.imag]).ravel()
        lines += [case(" $NMUSED"), case(" FILRAW=") + "'x'", case(" $END"), case(" $BASIS")]
        lines.append(f" ID='{name}', METABO='{name}', CONC=1., TRAMP=1., VOLUME=1., ISHIFT=0")
        lines.append(case(" $END"))
        lines += [
            "".join(f"{value:13.5E}" for value in values[start : start + 6])
            for start in range(0, len(values), 6)
        ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_json(
    folder: Path,
    basis: Basis,
    *,
    names: Mapping[str, str] | None = None,
    meta: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """FSL-MRS files by hand, with other names or fields."""
    folder.mkdir()
    axis = basis.acquisition
    for name, fid in zip(basis.names, basis.fids, strict=True):
        given = (names or {}).get(name, name)
        entry = {
            "basis_re": fid.real.tolist(),
            "basis_im": fid.imag.tolist(),
            "basis_dwell": axis.dwell_time,
            "basis_centre": axis.spectrometer_frequency,
            "basis_width": None,
            "basis_name": given,
            **fields,
        }
        content: dict[str, Any] = {"basis": entry}
        if meta is not None:
            content["meta"] = dict(meta)
        (folder / f"{given}.json").write_text(json.dumps(content))
    return folder
