"""Which voxels' spectra a report shows, and the spectra themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.io.maps import fitted_voxels
from mrsi_engine.report.tables import measure

#: Range (ppm) shown where the pipeline does not name its own.
DEFAULT_WINDOW = (0.4, 4.2)

_CAPTIONS = {
    "snr": "SNR {:.0f}",
    "fwhm": "FWHM {:.3f} ppm",
    "fit_quality": "fit quality {:.2f}",
}

#: Zero-filling of the spectra drawn: smoother lines, no new information.
ZERO_FILLING = 4


@dataclass(frozen=True, eq=False)
class SpectrumExample:
    """One voxel's spectrum and its fit.

    ``ppm``, ``data``, ``fit`` and ``baseline`` are ``(n,)``, real or complex (the real part is
    drawn); ``fit`` is the complete model, ``baseline`` included. ``voxel`` is its index in the
    volume, ``window`` the range of ppm drawn.
    """

    title: str
    voxel: tuple[int, int, int]
    ppm: NDArray[np.floating]
    data: NDArray[np.inexact]
    fit: NDArray[np.inexact]
    baseline: NDArray[np.inexact] | None = None
    window: tuple[float, float] = DEFAULT_WINDOW
    caption: str = ""


def choose_examples(result: xr.Dataset) -> dict[str, int]:
    """Best, median and worst fitted voxel, by SNR over fit quality, as voxel indices.

    Empty where nothing was fitted; one voxel may stand for several.
    """
    snr = measure(result, "snr")
    score = snr / np.maximum(measure(result, "fit_quality"), 1e-6)
    candidates = np.flatnonzero(fitted_voxels(result) & np.isfinite(score))
    if not candidates.size:
        return {}
    ranked = candidates[np.argsort(score[candidates], kind="stable")]
    return {
        "best": int(ranked[-1]),
        "median": int(ranked[len(ranked) // 2]),
        "worst": int(ranked[0]),
    }


def stored_examples(
    result: xr.Dataset, window: tuple[float, float] = DEFAULT_WINDOW
) -> list[SpectrumExample]:
    """Examples of a result that kept its signals, else none: phased and aligned by the fit."""
    if "corrected" not in result or "fit" not in result:
        return []
    chosen = choose_examples(result)
    return [_stored(result, name, voxel, window) for name, voxel in chosen.items()]


def voxel_caption(result: xr.Dataset, voxel: int) -> str:
    """What the quality measures say of one voxel."""
    values = {name: float(measure(result, name)[voxel]) for name in _CAPTIONS}
    known = [n for n, value in values.items() if np.isfinite(value)]
    return ", ".join(_CAPTIONS[n].format(values[n]) for n in known)


def _stored(
    result: xr.Dataset, name: str, voxel: int, window: tuple[float, float]
) -> SpectrumExample:
    acquisition = Acquisition(**result.attrs["acquisition"])
    undo = _phase_and_shift(result, voxel, acquisition)
    padded = acquisition.with_points(ZERO_FILLING * acquisition.points)
    stored = [n for n in ("corrected", "fit", "baseline") if n in result]
    spectra = {n: _spectrum(padded, result[n][voxel].values * undo) for n in stored}
    x, y, z = (int(result[axis][voxel]) for axis in "xyz")
    return SpectrumExample(
        title=f"{name.capitalize()} voxel",
        voxel=(x, y, z),
        ppm=padded.ppm,
        data=spectra["corrected"],
        fit=spectra["fit"],
        baseline=spectra.get("baseline"),
        window=window,
        caption=voxel_caption(result, voxel),
    )


def _spectrum(padded: Acquisition, fid: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
    return padded.spectrum(np.pad(fid, (0, padded.points - fid.size)))


def _phase_and_shift(
    result: xr.Dataset, voxel: int, acquisition: Acquisition
) -> NDArray[np.complexfloating]:
    phase, shift = (_lineshape(result, name, voxel) for name in ("phase", "shift"))
    return np.asarray(np.exp(-1j * (phase + 2 * np.pi * shift * acquisition.time)))


def _lineshape(result: xr.Dataset, name: str, voxel: int) -> float:
    if name not in result["parameter"].values:
        return 0.0
    return float(result["estimate"].sel(parameter=name)[voxel])
