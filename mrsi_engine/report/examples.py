"""Which voxels' spectra a report shows, and the spectra themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.fit.details import FitDetails
from mrsi_engine.io.result_quantities import fitted_voxels, relative_crlb, values_of
from mrsi_engine.report.tables import estimate, measure, nucleus_of

_CAPTIONS = {
    "snr": "SNR {:.0f}",
    "fwhm": "FWHM {:.3f} ppm",
    "fit_quality": "fit quality {:.2f}",
}

#: Zero-filling of the spectra drawn: smoother lines, no new information.
ZERO_FILLING = 4


@dataclass(frozen=True, eq=False)
class Component:
    """One column of the basis as fitted in a voxel, and its part of the spectrum ``(n,)``.

    ``amplitude`` is in data units, ``crlb`` in percent of it.
    """

    name: str
    amplitude: float
    crlb: float
    spectrum: NDArray[np.inexact]


@dataclass(frozen=True, eq=False)
class SpectrumExample:
    """One voxel's spectrum and its fit.

    ``ppm``, ``data``, ``fit`` and ``baseline`` are ``(n,)``, real or complex (the real part is
    drawn); ``fit`` is the complete model, ``baseline`` included. ``voxel`` is its index in the
    volume, ``window`` the range of ppm drawn. ``components``, where known, add up to the fit with
    the baseline; ``correlation (component, component)`` is that of their amplitudes' errors.
    """

    title: str
    voxel: tuple[int, int, int]
    ppm: NDArray[np.floating]
    data: NDArray[np.inexact]
    fit: NDArray[np.inexact]
    baseline: NDArray[np.inexact] | None = None
    window: tuple[float, float] | None = None
    caption: str = ""
    components: tuple[Component, ...] = ()
    correlation: NDArray[np.floating] | None = None

    @property
    def shown(self) -> tuple[float, float]:
        """The range of ppm drawn; all there is where no window is given."""
        return self.window or (float(self.ppm.min()), float(self.ppm.max()))


def choose_examples(result: xr.Dataset) -> dict[str, int]:
    """Best, median and worst fitted voxel, by SNR over fit quality, as voxel indices.

    Empty where nothing was fitted; the only voxel is the median one.
    """
    snr = measure(result, "snr")
    score = snr / np.maximum(measure(result, "fit_quality"), 1e-6)
    candidates = np.flatnonzero(fitted_voxels(result) & np.isfinite(score))
    if not candidates.size:
        return {}
    ranked = candidates[np.argsort(score[candidates], kind="stable")]
    if len(ranked) == 1:
        return {"median": int(ranked[0])}
    return {
        "best": int(ranked[-1]),
        "median": int(ranked[len(ranked) // 2]),
        "worst": int(ranked[0]),
    }


def example_voxels(result: xr.Dataset) -> dict[int, str]:
    """Index and title of up to three voxels to show: best, median and worst.

    Where nothing was quantified, those a quarter, half and three quarters through the mask.
    """
    ranked = choose_examples(result)
    if ranked:
        titles = {voxel: f"{name.capitalize()} voxel" for name, voxel in reversed(ranked.items())}
        return dict(reversed(titles.items())) if len(titles) > 1 else dict.fromkeys(titles, "Voxel")
    processed = np.flatnonzero(fitted_voxels(result))
    if not processed.size:
        return {}
    spread = processed[[processed.size * quarter // 4 for quarter in (1, 2, 3)]]
    return {int(voxel): f"Example {n + 1}" for n, voxel in enumerate(dict.fromkeys(spread))}


def stored_examples(
    result: xr.Dataset, window: tuple[float, float] | None = None
) -> list[SpectrumExample]:
    """Examples of a result that kept its signals, else none: phased and aligned by the fit."""
    if "corrected" not in result or "fit" not in result:
        return []
    chosen = choose_examples(result)
    kept = [name for name in ("corrected", "fit", "baseline") if name in result]
    return [
        spectrum_example(
            result,
            voxel,
            {signal: result[signal][voxel].values for signal in kept},
            f"{name.capitalize()} voxel",
            window,
        )
        for name, voxel in chosen.items()
    ]


def spectrum_example(
    result: xr.Dataset,
    voxel: int,
    signals: Mapping[str, NDArray[np.complexfloating]],
    title: str,
    window: tuple[float, float] | None = None,
) -> SpectrumExample:
    """Spectra of one voxel, phased and aligned by its fit.

    Parameters
    ----------
    voxel
        Its index in the result.
    signals
        Its FIDs ``(time,)``: ``corrected``, ``fit`` and, if there is one, ``baseline``.
    """
    drawn = _Drawing.of(result, voxel)
    smooth = signals.get("baseline", np.zeros_like(signals["fit"]))
    baseline = drawn.baseline(smooth)
    x, y, z = (int(result[axis][voxel]) for axis in "xyz")
    return SpectrumExample(
        title=title,
        voxel=(x, y, z),
        ppm=drawn.padded.ppm,
        data=drawn.signal(signals["corrected"]),
        fit=drawn.signal(signals["fit"] - smooth) + baseline,
        baseline=baseline if smooth.any() else None,
        window=window or nucleus_of(result).windows.drawn,
        caption=voxel_caption(result, voxel),
    )


def with_components(
    example: SpectrumExample, result: xr.Dataset, voxel: int, details: FitDetails, row: int = 0
) -> SpectrumExample:
    """An example with what each metabolite adds to its fit.

    Parameters
    ----------
    voxel
        Its index in the result, which amplitudes and their errors are from.
    details, row
        The voxel fitted again, and where it stands there.
    """
    drawn = _Drawing.of(result, voxel)
    components = tuple(
        Component(
            name,
            float(estimate(result, name)[voxel]),
            float(relative_crlb(result, name)[voxel]),
            drawn.signal(fid),
        )
        for name, fid in zip(details.names, details.components[row], strict=True)
    )
    return replace(example, components=components, correlation=details.correlation[row])


def voxel_caption(result: xr.Dataset, voxel: int) -> str:
    """What the quality measures say of one voxel."""
    values = {name: float(measure(result, name)[voxel]) for name in _CAPTIONS}
    known = [n for n, value in values.items() if np.isfinite(value)]
    return ", ".join(_CAPTIONS[n].format(values[n]) for n in known)


class _Drawing:
    """Zero-filled spectra of one voxel, phased and aligned."""

    def __init__(self, acquisition: Acquisition, phase: float, shift: float) -> None:
        self._acquisition, self._phase, self._shift = acquisition, phase, shift
        self.padded = acquisition.with_points(ZERO_FILLING * acquisition.points)

    @classmethod
    def of(cls, result: xr.Dataset, voxel: int) -> _Drawing:
        """By the phase and shift that the fit found in a voxel."""
        phase, shift = (lineshape_of(result, name, voxel) for name in ("phase", "shift"))
        return cls(Acquisition(**result.attrs["acquisition"]), phase, shift)

    def signal(self, fid: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
        """Spectrum of a FID."""
        turned = fid * self._undo(self._acquisition.time)
        return self.padded.spectrum(np.pad(turned, (0, self.padded.points - fid.size)))

    def baseline(self, fid: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
        """Spectrum of a smooth curve: its FID lies around the first sample, half of it before."""
        points = self._acquisition.points
        late = np.arange(points) >= 0.5 * points
        time = self._acquisition.time - late * self._acquisition.duration
        filled = np.zeros(self.padded.points, complex)
        filled[np.arange(points) + late * (self.padded.points - points)] = fid * self._undo(time)
        return self.padded.spectrum(filled)

    def _undo(self, time: NDArray[np.float64]) -> NDArray[np.complexfloating]:
        return np.asarray(np.exp(-1j * (self._phase + 2 * np.pi * self._shift * time)))


def lineshape_of(result: xr.Dataset, name: str, voxel: int) -> float:
    """A lineshape parameter of one voxel, 0 where it was not fitted."""
    if name not in result.variables["parameter"].values:
        return 0.0
    return float(values_of(result, "estimate", name)[voxel])
