"""A simulated brain MRSI scan with known truth, the yardstick of fits and of processing steps.

Every voxel's FID is the model of the fit (:mod:`mrsi_engine.kernels.lcm`, one lineshape group),

    fid(t) = exp(i*phase) * sum_m a_m x_m(t) * exp(2*pi*i*shift*t - lorentzian*t)

with real amplitudes ``a_m`` (basis units, here mmol/l), ``shift`` in Hz in the sign convention of
:mod:`mrsi_engine.conventions` and ``lorentzian`` in 1/s; then come the nuisances asked for, and
white complex Gaussian noise last.

Concentrations are round numbers within the ranges of Pouwels & Frahm, Magn Reson Med 1998;39:53
(NAA, Cr, Cho, Ins, Glu, Gln by tissue), de Graaf, In Vivo NMR Spectroscopy, 3rd ed. 2019, ch. 2
(the rest) and, for the lesion, the pattern of a high-grade glioma (Howe et al., Magn Reson Med
2003;49:223: high choline and lactate, low NAA and creatine). Relaxation is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mrsi_engine.choices import Nuisance
from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus
from mrsi_engine.spectra.basis import Basis

Map = NDArray[np.float64]

# The phantom is a brain seen by its protons.
_PROTON = nucleus("1H")
_WATER_AT, _NAA_AT = _PROTON.water_for("phantom").ppm, _PROTON.landmark("NAA").ppm

TISSUES = ("gm", "wm", "csf")

# mmol/l in GM, WM, CSF and lesion
_CONCENTRATIONS = {
    "NAA": (9.0, 7.5, 0.0, 1.5),
    "NAAG": (1.0, 2.0, 0.0, 0.3),
    "Cr": (4.5, 3.3, 0.0, 2.0),
    "PCr": (3.5, 2.5, 0.0, 1.5),
    "GPC": (0.8, 1.1, 0.0, 2.0),
    "PCh": (0.4, 0.6, 0.0, 1.8),
    "Glu": (10.0, 6.5, 0.0, 4.0),
    "Gln": (3.5, 2.0, 0.4, 4.0),
    "Ins": (5.5, 4.5, 0.1, 5.0),
    "sIns": (0.35, 0.25, 0.0, 0.3),
    "Lac": (0.6, 0.4, 1.5, 8.0),
    "GABA": (1.3, 0.8, 0.0, 0.4),
    "GSH": (1.4, 1.0, 0.0, 1.5),
    "Tau": (1.4, 0.9, 0.0, 1.2),
    "Asp": (2.5, 1.5, 0.0, 1.0),
    "Asc": (1.2, 0.7, 0.2, 0.5),
    "Ala": (0.4, 0.3, 0.0, 1.2),
    "Glc": (1.0, 1.0, 2.5, 0.5),
    "Gly": (0.7, 0.5, 0.0, 2.0),
    "PE": (1.5, 1.0, 0.0, 2.0),
    "Ser": (0.4, 0.4, 0.0, 0.4),
}

# Macromolecules: MM09 (three protons), and the others by the ratios LCModel expects (manual, 11.8)
_MACROMOLECULE = (8.0, 6.0, 0.0, 5.0)
_RATIO_TO_MM09 = {"MM12": 0.3, "MM14": 0.75, "MM17": 0.375, "MM20": 1.5}

_WATER_CONTENT = {"gm": 0.78, "wm": 0.65, "csf": 0.97}
_PURE_WATER = 2 * 55_510.0

# Offset (ppm), damping beyond the voxel's (1/s), share: a water line that is not Lorentzian
_RESIDUAL_WATER = ((0.0, 6.0, 0.6), (0.08, 15.0, 0.25), (-0.06, 30.0, 0.15))
_LIPID = ((0.9, 50.0, 0.25), (1.3, 45.0, 0.6), (2.0, 60.0, 0.15))

# Radii of the layers in units of the field of view's half, and the head's shape in x, y and z
_HEAD, _SKULL, _BRAIN = 0.95, 0.88, 0.80
_SEMI_AXES = (0.84, 1.0, 1.35)

_VOXELS_AT_ONCE = 2048
_TIMES_AT_ONCE = 64


@dataclass(frozen=True)
class PhantomSettings:
    """What to simulate. The same settings give the same numbers.

    Parameters
    ----------
    shape
        Voxels in x, y and z; at least (6, 6, 1).
    seed
        Of every random draw. A part (noise, B0, water...) has its own stream, so changing one
        setting leaves the others' draws alone.
    snr
        Height of the NAA peak in the real spectrum over the SD of the noise there, for the mean
        brain voxel: NAA's column alone, with the brain's mean NAA amplitude and mean damping, at
        phase and shift 0. ``inf`` for no noise.
    nuisance
        ``"none"``, ``"water"`` (residual), ``"lipid"`` (scalp rim) or ``"all"``.
    b0_hz
        SD of the smooth B0 map over the brain, Hz; its mean is 0.
    damping
        Median Lorentzian damping beyond the basis' own, 1/s; varies smoothly with a log-SD of 0.25.
    phase_deg
        SD of the smooth zero-order phase map over the brain, degrees.
    residual_water, lipid
        Median height of the residual water, and height of the pure scalp's lipids, over the NAA
        peak (magnitude spectra).

    Raises
    ------
    InputError
        If a value is out of range.
    """

    shape: tuple[int, int, int] = (24, 24, 8)
    seed: int = 1
    snr: float = 40.0
    nuisance: Nuisance = "none"
    b0_hz: float = 5.0
    damping: float = 12.0
    phase_deg: float = 10.0
    residual_water: float = 10.0
    lipid: float = 20.0

    def __post_init__(self) -> None:
        checks = (
            ("shape", _is_shape(self.shape), "three whole numbers, at least 6 6 1"),
            ("seed", self.seed >= 0, "at least 0"),
            ("snr", self.snr > 0, "above 0"),
            ("nuisance", self.nuisance in get_args(Nuisance), f"one of {get_args(Nuisance)}"),
            *((n, _not_negative(getattr(self, n)), "finite and at least 0") for n in _NOT_NEGATIVE),
            ("damping", self.damping > 0, "above 0"),
        )
        for name, holds, wanted in checks:
            if not holds:
                raise InputError(f"phantom {name}: expected {wanted}, found {getattr(self, name)}")


#: Share of scalp from which a voxel is drawn into the scalp mask.
_SCALP_SHARE = 0.3

_NOT_NEGATIVE = ("b0_hz", "damping", "phase_deg", "residual_water", "lipid")


@dataclass(frozen=True, eq=False)
class Phantom:
    """A simulated scan and its truth. Maps are ``(x, y, z)``, FIDs ``(x, y, z, time)`` complex64.

    Parameters
    ----------
    settings, basis
        What it was made from; the basis on the scan's axis.
    fids
        The scan; outside the brain noise and nuisances only.
    water
        Unsuppressed water reference with the same shift, damping, phase and noise level; two
        protons a molecule in the units of a basis that counts protons.
    mask
        The brain.
    scalp
        Voxels outside the brain of which the scalp is a good part.
    tissue
        Fractions ``gm``, ``wm`` and ``csf``, summing to 1 in the mask and 0 outside.
    lesion
        Share of lesion tissue in the voxel, 0 to 1.
    truth
        Amplitude of every basis column and of the sums (``NAANAAG``...), 0 outside the brain; and
        ``shift`` (Hz), ``lorentzian`` (1/s), ``phase`` (rad).
    noise_sd
        SD of the noise per real channel and FID sample; a factor sqrt(points) more in spectra.
    """

    settings: PhantomSettings
    basis: Basis
    fids: NDArray[np.complex64]
    water: NDArray[np.complex64]
    mask: NDArray[np.bool_]
    scalp: NDArray[np.bool_]
    tissue: dict[str, Map]
    lesion: Map
    truth: dict[str, Map]
    noise_sd: float

    @property
    def acquisition(self) -> Acquisition:
        """Axis of the FIDs."""
        return self.basis.acquisition


def make_phantom(
    settings: PhantomSettings, basis: Basis, acquisition: Acquisition | None = None
) -> Phantom:
    """Simulate a head: scalp, skull, CSF, grey and white matter and a tumour-like lesion.

    Parameters
    ----------
    settings
        Size, seed, noise and nuisances.
    basis
        Must hold NAA, which the SNR refers to. A metabolite without a concentration in the
        table, and a lipid column, has amplitude 0.
    acquisition
        Axis of the scan; the basis' own if not given.

    Raises
    ------
    InputError
        If the basis has no NAA or does not fit the acquisition.
    """
    if "NAA" not in basis.names:
        raise InputError(f"{basis.source}: a phantom needs NAA for its SNR; add it to the basis")
    fitted = basis if acquisition is None else basis.matched_to(acquisition)
    head = _head(settings)
    truth = _truth(settings, fitted, head)
    naa = _naa_height(fitted, truth, head.mask)
    noise_sd = naa / settings.snr / math.sqrt(fitted.acquisition.points)
    scene = _Scene(settings, fitted.acquisition, head, truth, naa)
    return Phantom(
        settings,
        fitted,
        _scan(scene, fitted, noise_sd),
        _water_reference(scene, noise_sd),
        head.mask,
        (head.scalp > _SCALP_SHARE) & ~head.mask,
        head.tissue,
        head.lesion,
        _with_combinations(truth),
        noise_sd,
    )


@dataclass(frozen=True, eq=False)
class _Head:
    """Anatomy: ``brain`` and ``scalp`` are fractions of the voxel."""

    brain: Map
    scalp: Map
    mask: NDArray[np.bool_]
    tissue: dict[str, Map]
    lesion: Map


@dataclass(frozen=True, eq=False)
class _Scene:
    """All that a FID is made from; ``naa`` is the height of the NAA peak."""

    settings: PhantomSettings
    acquisition: Acquisition
    head: _Head
    truth: dict[str, Map]
    naa: float

    def carrier(self, voxels: slice) -> NDArray[np.complex128]:
        """What shift and damping do to a line at 0 Hz, ``(voxel, time)``."""
        shift, damping = (self.truth[n].ravel()[voxels, None] for n in ("shift", "lorentzian"))
        return np.exp((2j * np.pi * shift - damping) * self.acquisition.time)


def _head(settings: PhantomSettings) -> _Head:
    rng = _stream(settings, "anatomy")
    x, y, z = _coordinates(settings.shape)
    soft = float(np.clip(1 / min(settings.shape[:2]), 0.01, 0.05))
    radius = _radius(x, y, z, (0, 0, 0), _SEMI_AXES)
    brain = _inside(radius, _BRAIN, soft)
    scalp = _inside(radius, _HEAD, soft) - _inside(radius, _SKULL, soft)
    mask = brain > 0.5
    folds = 0.05 * _smooth_field(rng, settings.shape, mask, 0.06)
    tissue = _tissue(x, y, z, radius / _BRAIN + folds * (radius > 0.4), soft)
    total = sum(tissue.values())
    fractions = {name: np.where(mask, share / total, 0) for name, share in tissue.items()}
    lesion = np.where(mask, _lesion(rng, x, y, z, soft), 0)
    return _Head(brain, scalp, mask, fractions, lesion)


def _tissue(x: Map, y: Map, z: Map, depth: Map, soft: float) -> dict[str, Map]:
    """Weights of the tissues; ``depth`` is 0 in the middle of the brain, 1 at its surface."""
    white = _inside(depth, 0.72, soft)
    grey = _inside(depth, 0.97, soft) - white
    fluid = 1 - white - grey
    for side in (-1, 1):
        nucleus = _ellipsoid(x, y, z, (0.24 * side, 0.05, -0.1), (0.11, 0.18, 0.3), soft)
        grey, white, fluid = _replaced(nucleus, grey, white, fluid)
        ventricle = _ellipsoid(x, y, z, (0.08 * side, 0.0, 0.1), (0.05, 0.22, 0.4), soft)
        fluid, white, grey = _replaced(ventricle, fluid, white, grey)
    return {"gm": np.maximum(grey, 0), "wm": np.maximum(white, 0), "csf": np.maximum(fluid, 1e-9)}


def _replaced(share: Map, inner: Map, *others: Map) -> tuple[Map, ...]:
    """One tissue fills a share of the voxel, the others keep the rest."""
    return (inner * (1 - share) + share, *(other * (1 - share) for other in others))


def _lesion(rng: np.random.Generator, x: Map, y: Map, z: Map, soft: float) -> Map:
    side = rng.choice([-1, 1])
    centre = (side * rng.uniform(0.28, 0.38), rng.uniform(-0.3, 0.35), rng.uniform(-0.2, 0.2))
    return _ellipsoid(x, y, z, centre, (0.17, 0.2, 0.35), soft)


def _truth(settings: PhantomSettings, basis: Basis, head: _Head) -> dict[str, Map]:
    rng = _stream(settings, "concentrations")
    truth = {name: _amplitude(name, head, rng, settings.shape) for name in basis.names}
    fields = {
        name: _smooth_field(_stream(settings, name), settings.shape, head.mask, 0.2)
        for name in ("shift", "lorentzian", "phase")
    }
    truth["shift"] = settings.b0_hz * fields["shift"]
    truth["lorentzian"] = settings.damping * np.exp(0.25 * fields["lorentzian"])
    truth["phase"] = np.deg2rad(settings.phase_deg) * fields["phase"]
    return truth


def _amplitude(
    name: str, head: _Head, rng: np.random.Generator, shape: tuple[int, int, int]
) -> Map:
    """mmol/l by tissue, with 8 % smooth variation of its own so that maps are not all alike."""
    variation = np.exp(0.08 * _smooth_field(rng, shape, head.mask, 0.12))
    *by_tissue, in_lesion = _concentration(name)
    healthy = sum(c * head.tissue[t] for c, t in zip(by_tissue, TISSUES, strict=True))
    mixed = (1 - head.lesion) * healthy + head.lesion * in_lesion
    return np.where(head.mask, mixed * variation * head.brain, 0.0)


def _concentration(name: str) -> tuple[float, ...]:
    if _PROTON.is_macromolecule(name) and not _PROTON.is_lipid(name):
        return tuple(_RATIO_TO_MM09.get(name, 1.0) * c for c in _MACROMOLECULE)
    return _CONCENTRATIONS.get(name, (0.0, 0.0, 0.0, 0.0))


def _with_combinations(truth: dict[str, Map]) -> dict[str, Map]:
    sums = _PROTON.sums_of(truth)
    return truth | {c.label: np.sum([truth[m] for m in c.members], axis=0) for c in sums}


def _naa_height(basis: Basis, truth: dict[str, Map], mask: NDArray[np.bool_]) -> float:
    """The signal that ``snr`` refers to: see :class:`PhantomSettings`."""
    axis = basis.acquisition
    fid = truth["NAA"][mask].mean() * basis["NAA"]
    spectrum = axis.spectrum(fid * np.exp(-truth["lorentzian"][mask].mean() * axis.time)).real
    near = np.abs(axis.ppm - _NAA_AT) < _PROTON.lines.search
    return float(spectrum[near].max())


def _scan(scene: _Scene, basis: Basis, noise_sd: float) -> NDArray[np.complex64]:
    wanted = scene.settings.nuisance
    water = _residual_water(scene) if wanted in ("water", "all") else None
    amplitudes = np.stack([scene.truth[n].ravel() for n in basis.names], axis=1)
    phase = scene.truth["phase"].ravel()
    fids = np.empty((phase.size, basis.acquisition.points), np.complex64)
    for voxels in _chunks(phase.size):
        carrier = scene.carrier(voxels)
        signal = np.exp(1j * phase[voxels, None]) * (amplitudes[voxels] @ basis.fids) * carrier
        if water is not None:
            signal += water.fids(voxels, carrier)
        fids[voxels] = signal + noise_sd * _white(scene.settings, "noise", voxels, signal.shape)
    volume = fids.reshape(*scene.settings.shape, -1)
    if wanted in ("lipid", "all"):
        _add_lipid(scene, volume)
    return volume


def _water_reference(scene: _Scene, noise_sd: float) -> NDArray[np.complex64]:
    content = sum(_WATER_CONTENT[t] * scene.head.tissue[t] for t in TISSUES)
    amplitude = _PURE_WATER * np.ravel(content * scene.head.brain)
    phased = amplitude * np.exp(1j * scene.truth["phase"].ravel())
    line = _line(scene.acquisition, _WATER_AT, 0.0)
    fids = np.empty((phased.size, scene.acquisition.points), np.complex64)
    for voxels in _chunks(phased.size):
        signal = phased[voxels, None] * scene.carrier(voxels) * line
        noise = _white(scene.settings, "reference noise", voxels, signal.shape)
        fids[voxels] = signal + noise_sd * noise
    return fids.reshape(*scene.settings.shape, -1)


@dataclass(frozen=True, eq=False)
class _Nuisance:
    """Lines ``(component, time)`` with complex weights ``(voxel, component)``."""

    weights: NDArray[np.complex128]
    lines: NDArray[np.complex128]

    def fids(self, voxels: slice, carrier: NDArray[np.complex128]) -> NDArray[np.complex128]:
        return (self.weights[voxels] @ self.lines) * carrier


def _residual_water(scene: _Scene) -> _Nuisance:
    """What suppression leaves: strength and phase vary over the head, each component by itself."""
    settings, head = scene.settings, scene.head
    parts = [(_WATER_AT + o, d, share) for o, d, share in _RESIDUAL_WATER]
    rng = _stream(settings, "water")
    common = np.exp(0.4 * _smooth_field(rng, settings.shape, head.mask, 0.15))
    turn = np.pi * _smooth_field(rng, settings.shape, head.mask, 0.25)
    own = [0.3 * _smooth_field(rng, settings.shape, head.mask, 0.15) for _ in parts]
    where = np.maximum(head.brain, head.scalp) * common
    maps = np.stack([where * np.exp(1j * (turn + o)) for o in own])
    lines = _lines(scene, parts, settings.residual_water)
    return _Nuisance(maps.reshape(len(parts), -1).T, lines)


def _add_lipid(scene: _Scene, fids: NDArray[np.complex64]) -> None:
    """Subcutaneous fat, added to ``(x, y, z, time)``, spread by the point-spread function.

    What leaks into the brain keeps the shift and damping of the scalp it comes from.
    """
    settings, head, t = scene.settings, scene.head, scene.acquisition.time
    rng = _stream(settings, "lipid")
    turn = 0.5 * np.pi * _smooth_field(rng, settings.shape, head.mask, 0.2)
    fat = _lines(scene, _LIPID, settings.lipid).sum(0)
    source = (head.scalp * np.exp(1j * turn))[..., None]
    rate = (2j * np.pi * scene.truth["shift"] - scene.truth["lorentzian"])[..., None]
    for first in range(0, len(t), _TIMES_AT_ONCE):
        at = slice(first, first + _TIMES_AT_ONCE)
        fids[..., at] += _spread(source * np.exp(rate * t[at]) * fat[at])


def _spread(source: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """The point-spread function: a tenth reaches far, as the side lobes of phase encoding do."""
    near, far = (gaussian_filter(source, (s, s, 0.3, 0)) for s in (0.7, 2.5))
    return np.asarray(0.9 * near + 0.1 * far)


def _lines(
    scene: _Scene, parts: Sequence[tuple[float, float, float]], level: float
) -> NDArray[np.complex128]:
    """Lines ``(line, time)`` at (ppm, damping, share), their sum ``level`` NAA peaks high."""
    axis = scene.acquisition
    lines = np.stack([share * _line(axis, ppm, damping) for ppm, damping, share in parts])
    typical = lines.sum(0) * np.exp(-scene.settings.damping * axis.time)
    return np.asarray(lines * level * scene.naa / np.abs(axis.spectrum(typical)).max())


def _line(axis: Acquisition, ppm: float, damping: float) -> NDArray[np.complex128]:
    return np.asarray(np.exp((2j * np.pi * axis.frequency_of(ppm) - damping) * axis.time))


def _white(
    settings: PhantomSettings, part: str, voxels: slice, shape: tuple[int, ...]
) -> NDArray[np.complex128]:
    """Complex noise of SD 1 a channel. Each chunk has its stream, so chunks need no order."""
    rng = _stream(settings, part, voxels.start)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def _stream(settings: PhantomSettings, part: str, index: int = 0) -> np.random.Generator:
    return np.random.default_rng([settings.seed, index, *part.encode()])


def _chunks(voxels: int) -> Iterator[slice]:
    for start in range(0, voxels, _VOXELS_AT_ONCE):
        yield slice(start, min(start + _VOXELS_AT_ONCE, voxels))


def _smooth_field(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    mask: NDArray[np.bool_],
    width: float,
) -> Map:
    """A smooth random map of mean 0 and SD 1 over the mask; ``width`` is a share of the size."""
    field = gaussian_filter(rng.standard_normal(shape), [width * n for n in shape], mode="nearest")
    inside = field[mask]
    return np.asarray((field - inside.mean()) / inside.std())


def _coordinates(shape: tuple[int, int, int]) -> tuple[Map, ...]:
    """Voxel centres, -1 to 1 over the field of view."""
    axes = [(np.arange(n) - (n - 1) / 2) / (n / 2) for n in shape]
    return tuple(np.meshgrid(*axes, indexing="ij"))


def _radius(x: Map, y: Map, z: Map, centre: tuple[float, ...], semi_axes: tuple[float, ...]) -> Map:
    """Distance from the centre of an ellipsoid, 1 on its surface."""
    offsets = zip((x, y, z), centre, semi_axes, strict=True)
    return np.sqrt(np.sum([((p - c) / a) ** 2 for p, c, a in offsets], axis=0))


def _inside(radius: Map, edge: float, soft: float) -> Map:
    """Share of the voxel within the edge: a smooth step, as a point-spread function makes it."""
    return 1 / (1 + np.exp(np.clip((radius - edge) / soft, -60, 60)))


def _ellipsoid(
    x: Map, y: Map, z: Map, centre: tuple[float, ...], semi_axes: tuple[float, ...], soft: float
) -> Map:
    """Share of the voxel within an ellipsoid of semi-axes around 0.15."""
    return _inside(_radius(x, y, z, centre, semi_axes), 1, soft / 0.15)


def _is_shape(shape: tuple[int, ...]) -> bool:
    whole = len(shape) == 3 and all(isinstance(n, int) for n in shape)
    return whole and min(shape[:2]) >= 6 and shape[2] >= 1


def _not_negative(value: float) -> bool:
    return math.isfinite(value) and value >= 0
