"""Creatine's CH2 apart from its CH3, as a column of a basis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.spectra.basis import Basis

#: LCModel's name of the column.
CREATINE_CH2 = "-CrCH2"

_ZERO_FILLING = 16


def with_creatine_ch2(basis: Basis) -> Basis:
    """The basis with what creatine's CH2 lacks, ``-CrCH2``, appended.

    Water suppression, filters and relaxation weaken the CH2 at 3.9 ppm, and within the fit window
    it would pull the whole of creatine down. LCModel simulates a negative singlet against it
    (Provencher, LCModel manual, section 11.7); this is minus the basis' own between 3.6 and 4.2
    ppm, the mean of Cr and PCr where there are both. An amplitude equal to creatine's takes all of
    it away.

    Raises
    ------
    InputError
        If the basis has neither Cr nor PCr, has the column already, or is not of protons.
    """
    band = basis.nucleus.creatine_ch2
    if band is None:
        raise InputError(
            f'{basis.source}: creatine_ch2 = "free" is for protons, the basis is of '
            f"{basis.acquisition.nucleus}; leave it out"
        )
    creatine = [name for name in ("Cr", "PCr") if name in basis.names]
    if not creatine or CREATINE_CH2 in basis.names:
        raise InputError(
            f'{basis.source}: creatine_ch2 = "free" needs Cr or PCr and no {CREATINE_CH2}; the '
            f"basis has {list(basis.names)}"
        )
    mean = np.mean([basis[name] for name in creatine], axis=0)
    return basis.extended([CREATINE_CH2], -_between(mean, basis.acquisition, band)[None])


def _between(
    fid: NDArray[np.complex128], acquisition: Acquisition, ppm: tuple[float, float]
) -> NDArray[np.complex128]:
    """What of a FID ``(time,)`` lies between two chemical shifts."""
    points = _ZERO_FILLING * len(fid)
    frequencies = np.fft.fftfreq(points, acquisition.dwell_time)
    low, high = sorted(acquisition.frequency_of(ppm))
    kept = (frequencies >= low) & (frequencies <= high)
    return np.fft.ifft(np.fft.fft(fid, points) * kept)[: len(fid)]
