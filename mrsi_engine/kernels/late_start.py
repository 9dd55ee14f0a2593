"""FIDs that begin late, without what a turn of the spectrum alone gets wrong.

Sampled from a delay on, a FID lacks its first points; its spectrum is turned by a first-order phase
and lies on a broad hump. Both follow from the FID between its samples: a spline of high order, on
the FID brought to near 0 Hz, knows it to 1e-6. At the first samples, where a spline has neighbours
on one side only, the FID is first continued backwards by linear prediction (Kumaresan & Tufts 1982;
without it the error is 1e-4 there, and 1e-2 at 7 T).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline, make_interp_spline

#: Order of the spline, samples predicted before the first, coefficients and equations of the
#: prediction.
_DEGREE, _PREDICTED, _ORDER, _EQUATIONS = 7, 8, 32, 128

#: Shares of the largest singular value below which one is noise: a simulated FID has next to none,
#: a measured or filtered one makes the prediction grow beyond all measure until it is left out.
_NOISE, _MOST_GROWTH = (1e-10, 1e-7, 1e-5, 1e-4, 1e-3), 2.0


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


def at_times(
    fids: NDArray[np.complex128],
    time: NDArray[np.float64],
    pivot: float,
    wanted: NDArray[np.float64],
) -> NDArray[np.complex128]:
    """FIDs ``(column, time)`` at other times, s, between or at their own.

    ``pivot`` is a frequency (Hz) in the middle of the signal. Past the end the last sample stands.
    """
    slow = _slow(fids, time, pivot)(np.minimum(wanted, time[-1]))
    return np.asarray(slow * _turn(wanted, pivot))


def _slow(
    fids: NDArray[np.complex128], time: NDArray[np.float64], pivot: float
) -> BSpline[np.complex128]:
    slow = fids * _turn(time, pivot).conj()
    if len(time) < _ORDER + _EQUATIONS:
        return make_interp_spline(time, slow, k=_DEGREE, axis=1)
    early = time[0] - (time[1] - time[0]) * np.arange(_PREDICTED, 0, -1)
    before = np.stack([_predicted(fid) for fid in slow])
    samples = np.concatenate([before, slow], axis=1)
    return make_interp_spline(np.concatenate([early, time]), samples, k=_DEGREE, axis=1)


def _predicted(fid: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """What came before a FID ``(time,)`` that is a sum of few damped lines."""
    windows = np.lib.stride_tricks.sliding_window_view(fid[: _ORDER + _EQUATIONS], _ORDER + 1)
    limit = _MOST_GROWTH * np.abs(fid[:_ORDER]).max()
    for noise in _NOISE:
        coefficients = np.linalg.lstsq(windows[:, 1:], windows[:, 0], rcond=noise)[0]
        known = fid[:_ORDER]
        for _ in range(_PREDICTED):
            known = np.concatenate([[coefficients @ known[:_ORDER]], known])
        if np.abs(known[:_PREDICTED]).max() <= limit:
            return known[:_PREDICTED]
    return np.full(_PREDICTED, fid[0])


def _turn(time: NDArray[np.float64], pivot: float) -> NDArray[np.complex128]:
    return np.asarray(np.exp(2j * np.pi * pivot * time))
