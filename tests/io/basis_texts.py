"""Bases as other programs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mrsi_engine.spectra.basis import Basis


def lcmodel_text(
    basis: Basis,
    *,
    names: dict[str, str] | None = None,
    shift: int = 0,
    scale: float = 1.0,
    drop_last: bool = False,
    end_on_data_line: bool = False,
    halve: bool = True,
) -> str:
    """The basis as LCModel files stand: unshifted spectra after Fortran namelists."""
    axis = basis.acquisition
    text = (
        f" $SEQPAR\n FWHMBA = 0.03,\n HZPPPM = {axis.spectrometer_frequency},\n ECHOT = 30.,\n"
        f" SEQ = 'PRESS' $END\n $BASIS1\n IDBASI = 'test',\n FMTBAS = '(2E15.7)',\n"
        f" BADELT = {axis.dwell_time},\n NDATAB = {axis.points}\n $END\n"
    )
    for name, fid in zip(basis.names, basis.fids, strict=True):
        first = np.array([0.5 if halve else 1.0] + [1.0] * (axis.points - 1))
        spectrum = np.roll(np.fft.fft(fid * first), shift) * scale
        if drop_last:
            spectrum = spectrum[:-1]
        label = (names or {}).get(name, name)
        text += (
            f" $NMUSED\n FILERAW = '{name}',\n PPMAPP = 0.5 -0.5 $END\n"
            f" $BASIS\n ID = '{label}',\n METABO = '{label}',\n CONC = {scale},\n TRAMP = 1.,\n"
            f" VOLUME = 1.,\n ISHIFT = {shift} $END\n"
        )
        text += "\n".join(f"{v.real:15.7E}{v.imag:15.7E}" for v in spectrum)
        text += " $END\n" if end_on_data_line else "\n"
    return text


def jmrui_text(basis: Basis, name: str | None = None) -> str:
    """One metabolite, or all in one file, as jMRUI writes text: conjugated, ms and Hz."""
    fids = basis.fids if name is None else basis[name][None]
    axis = basis.acquisition
    listed = ";".join(basis.names) if name is None else "whatever.txt"
    text = (
        f"jMRUI Data Textfile\n\nFilename: x.txt\n\nPointsInDataset: {axis.points}\n"
        f"DatasetsInFile: {len(fids)}\nSamplingInterval: {axis.dwell_time * 1e3}\n"
        "ZeroOrderPhase: 0E0\nBeginTime: 0E0\n"
        f"TransmitterFrequency: {axis.spectrometer_frequency * 1e6}\nMagneticField: 3E0\n"
        f"TypeOfNucleus: 0E0\nNameOfPatient: \nSignalNames: {listed}\n\n\nSignal and FFT\n"
        "sig(real)\tsig(imag)\tfft(real)\tfft(imag)\n"
    )
    for number, fid in enumerate(fids, 1):
        text += f"Signal {number} out of {len(fids)} in file\n"
        spectrum = np.fft.fft(fid.conj())
        text += "".join(
            f"{x.real:.8E}\t{-x.imag:.8E}\t{s.real:.4E}\t{s.imag:.4E}\n"
            for x, s in zip(fid, spectrum, strict=True)
        )
    return text


def osprey_struct(basis: Basis, **changes: Any) -> dict[str, Any]:
    """Osprey's struct of a basis: forward transforms on an ascending axis, conjugated FIDs."""
    axis = basis.acquisition
    fids = basis.fids.conj().T
    frequencies = np.fft.fftshift(np.fft.fftfreq(axis.points, axis.dwell_time))
    struct = {
        "fids": fids,
        "specs": np.fft.fftshift(np.fft.fft(fids, axis=0), axes=0),
        "ppm": axis.reference_ppm + frequencies / axis.spectrometer_frequency,
        "name": np.array(basis.names, dtype=object),
        "dwelltime": axis.dwell_time,
        "Bo": axis.spectrometer_frequency / 42.577,
        "te": 30.0,
        "seq": np.array(["PRESS"], dtype=object),
        "centerFreq": axis.reference_ppm,
    }
    return {**struct, **changes}


def saved(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
