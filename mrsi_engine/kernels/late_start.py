"""FIDs that begin late, without what a turn of the spectrum alone gets wrong.

Sampled from a delay on, a FID lacks its first points; its spectrum is turned by a first-order phase
and lies on a broad hump. Both follow from the FID between its samples: a spline of high order, on
the FID brought to near 0 Hz, knows it to 1e-6.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline, make_interp_spline


def started_late(
    fids: NDArray[np.complex128], time: NDArray[np.float64], pivot: float, delay: float
) -> NDArray[np.complex128]:
    """FIDs ``(column, time)`` sampled ``delay`` s later.

    Turned so that the phase at ``pivot`` Hz is as before. Past the end the last sample stands.
    """
    turn = _turn(time, pivot)
    return np.asarray(_slow(fids, time, pivot)(np.minimum(time + delay, time[-1])) * turn)


def late_derivative(
    fids: NDArray[np.complex128], time: NDArray[np.float64], pivot: float
) -> NDArray[np.complex128]:
    """Derivative of :func:`started_late` by the delay at 0, ``(column, time)`` per s."""
    return np.asarray(_slow(fids, time, pivot).derivative()(time) * _turn(time, pivot))


def _slow(
    fids: NDArray[np.complex128], time: NDArray[np.float64], pivot: float
) -> BSpline[np.complex128]:
    return make_interp_spline(time, fids * _turn(time, pivot).conj(), k=7, axis=1)


def _turn(time: NDArray[np.float64], pivot: float) -> NDArray[np.complex128]:
    return np.asarray(np.exp(2j * np.pi * pivot * time))
