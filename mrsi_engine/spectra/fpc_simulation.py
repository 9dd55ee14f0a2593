"""Transients with known shift and phase: the yardstick of frequency and phase correction.

The simulation of Shamaei et al. (Magn Reson Med 2023;89:1221; code: isi-nmr/DeepFPC, MIT): one
rat-brain spectrum at 9.4 T, varied in amplitude, shift, phase and damping, some with a water or a
lipid signal, white noise last, then divided by the largest magnitude. Where the published code
errs it is not followed: signs are those of :mod:`mrsi_engine.conventions`, the share of signals
with a nuisance is stated instead of following from repeated draws, and noise is scaled with the
signal so that its level stays known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.spectra.simulation import simulate_basis

#: The published acquisition: rat brain, 9.4 T, PRESS TE 16.5 ms, water at 4.7 ppm and 0 Hz.
RAT_BRAIN = Acquisition(1980, 0.2272e-3, 400.3224966617, reference_ppm=4.7, echo_time=16.5e-3)

#: Lipid signal, ppm.
LIPID_PPM = 4.7 - 1400 / 400.3224966617

# mmol/l in rat brain, rounded from Pfeuffer et al., J Magn Reson 1999;141:104.
_RAT_BRAIN_MMOL = {
    "NAA": 9.0,
    "Cr": 4.0,
    "PCr": 4.5,
    "Glu": 8.5,
    "Gln": 2.7,
    "Ins": 4.5,
    "Tau": 4.5,
    "GPC": 0.6,
    "PCh": 0.4,
    "Lac": 1.0,
    "Asp": 2.5,
    "GABA": 1.1,
    "GSH": 0.8,
}


@dataclass(frozen=True)
class FpcSettings:
    """What varies from transient to transient; the defaults are the published ones.

    Parameters
    ----------
    signals
        Number of transients.
    seed
        Of every random draw.
    shift_hz, phase_rad
        Uniform between plus and minus this.
    amplitude_sd
        Of a normal amplitude with mean 1.
    damping, damping_sd
        Normal, 1/s. The paper speaks of a linewidth of 2 Hz where its code has 2/s.
    water_share, lipid_share
        Share of signals that have the nuisance, drawn independently.
    noise_sd
        Per real channel, relative to the template's largest magnitude.

    Raises
    ------
    InputError
        If a value is negative, not finite or a share is above 1.
    """

    signals: int = 4000
    seed: int = 42
    shift_hz: float = 20.0
    phase_rad: float = 0.5 * math.pi
    amplitude_sd: float = 0.1
    damping: float = 2.0
    damping_sd: float = 0.1
    water_share: float = 1 - math.exp(-0.5)
    lipid_share: float = 1 - math.exp(-0.5)
    noise_sd: float = 0.05

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name}: found {value!r}, expected zero or more")
        for name in ("water_share", "lipid_share"):
            if getattr(self, name) > 1:
                raise InputError(f"{name}: found {getattr(self, name)!r}, expected 0 to 1")
        if self.signals < 1:
            raise InputError("signals: found 0, expected at least 1")


@dataclass(frozen=True, eq=False)
class FpcSimulation:
    """Transients ``fids (signal, time)`` complex64 and the truth about them.

    ``fids = amplitude * exp(i*phase + 2*pi*i*shift*t - damping*t) * template + noise``; nuisances
    are shifted and damped with the template. ``template (time,)`` complex128 has the largest
    magnitude 1; ``shift`` (Hz), ``phase`` (rad), ``damping`` (1/s), ``amplitude``, ``noise_sd``
    (per real channel) and the flags ``water`` and ``lipid`` are ``(signal,)``.
    """

    fids: NDArray[np.complex64]
    template: NDArray[np.complex128]
    acquisition: Acquisition
    shift: NDArray[np.float64]
    phase: NDArray[np.float64]
    damping: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    noise_sd: NDArray[np.float64]
    water: NDArray[np.bool_]
    lipid: NDArray[np.bool_]

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Signals without a nuisance, ``(signal,)``."""
        return ~(self.water | self.lipid)


def simulate_transients(
    settings: FpcSettings | None = None,
    template: NDArray[np.complexfloating] | None = None,
    acquisition: Acquisition = RAT_BRAIN,
) -> FpcSimulation:
    """Transients of one spectrum with known shifts and phases.

    Parameters
    ----------
    settings
        What varies; ``None`` is the published simulation.
    template
        Noise-free FID ``(time,)`` on ``acquisition`` in the sign convention of
        :mod:`mrsi_engine.conventions`; ``None`` is :func:`rat_brain_template`.
    acquisition
        Axis of the template.

    Raises
    ------
    InputError
        If the template's length is not that of the acquisition, or it is zero or not finite.
    """
    settings = settings or FpcSettings()
    template = _unit(rat_brain_template(acquisition) if template is None else template, acquisition)
    rng = np.random.default_rng(settings.seed)
    n, t = settings.signals, acquisition.time - acquisition.start_time
    amplitude = rng.normal(1, settings.amplitude_sd, n)
    shift = rng.uniform(-settings.shift_hz, settings.shift_hz, n)
    phase = rng.uniform(-settings.phase_rad, settings.phase_rad, n)
    damping = rng.normal(settings.damping, settings.damping_sd, n)
    water, lipid = rng.random(n) < settings.water_share, rng.random(n) < settings.lipid_share
    fids = amplitude[:, None] * template
    fids[water] += _water(rng, int(water.sum()), t)
    fids[lipid] += _lipid(rng, int(lipid.sum()), acquisition)
    fids *= np.exp(1j * phase)[:, None] * np.exp(np.outer(2j * np.pi * shift - damping, t))
    noise = rng.standard_normal((n, acquisition.points, 2)).view(np.complex128)[..., 0]
    fids += settings.noise_sd * noise
    size = np.abs(fids).max(1)
    return FpcSimulation(
        fids=(fids / size[:, None]).astype(np.complex64),
        template=template,
        acquisition=acquisition,
        shift=shift,
        phase=phase,
        damping=damping,
        amplitude=amplitude / size,
        noise_sd=settings.noise_sd / size,
        water=water,
        lipid=lipid,
    )


def rat_brain_template(
    acquisition: Acquisition = RAT_BRAIN, linewidth: float = 9.0
) -> NDArray[np.complex128]:
    """A noise-free rat-brain spectrum, ideal-pulse PRESS, ``(time,)``; ``linewidth`` in Hz."""
    basis = simulate_basis(
        "press",
        echo_time=acquisition.echo_time or 16.5e-3,
        spectrometer_frequency=acquisition.spectrometer_frequency,
        points=acquisition.points,
        dwell_time=acquisition.dwell_time,
        reference_ppm=acquisition.reference_ppm,
        linewidth=linewidth,
        metabolites=tuple(_RAT_BRAIN_MMOL),
    )
    return np.array([_RAT_BRAIN_MMOL[name] for name in basis.names]) @ basis.fids


def _unit(
    template: NDArray[np.complexfloating], acquisition: Acquisition
) -> NDArray[np.complex128]:
    if template.shape != (acquisition.points,):
        raise InputError(
            f"template: found shape {template.shape}, expected ({acquisition.points},) as the "
            "acquisition says"
        )
    size = float(np.abs(template).max())
    if not (math.isfinite(size) and size > 0):
        raise InputError("template: it is zero or not finite; give a noise-free FID")
    return np.asarray(template, dtype=np.complex128) / size


def _water(
    rng: np.random.Generator, signals: int, t: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """What suppression leaves, a derivative-like line at 0 Hz, ``(signal, time)``."""
    height, decay = rng.normal(1, 0.1, (2, signals))
    offset = rng.normal(0, 0.02, signals)
    rates = 2j * np.pi * offset - 100 * decay
    return -20 * height[:, None] * t * np.exp(np.outer(rates, t))


def _lipid(
    rng: np.random.Generator, signals: int, acquisition: Acquisition
) -> NDArray[np.complex128]:
    """A broad line near 1.2 ppm, 90 degrees out of phase, ``(signal, time)``."""
    height, decay = rng.normal(1, 0.1, (2, signals))
    frequency = acquisition.frequency_of(LIPID_PPM) * rng.normal(1, 0.02, signals)
    rates = 2j * np.pi * frequency - 300 * decay
    return -1j * height[:, None] * np.exp(np.outer(rates, acquisition.time))
