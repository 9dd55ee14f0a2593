"""A result dataset as the engine writes it: smooth brain-like maps of known numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition, Status
from mrsi_engine.io.result_schema import result_coordinates
from mrsi_engine.nuclei import nucleus
from mrsi_engine.quantities import Declaration, Quantity, Role, amplitude, lineshape, quality

PROTON = nucleus("1H")
ACQUISITION = Acquisition(512, 5e-4, 123.25, echo_time=0.03, repetition_time=1.5)
AFFINE = np.array([[-8.0, 0, 0, 96], [0, -8.0, 0, 96], [0, 0, 10.0, -30], [0, 0, 0, 1]])

#: Mean amplitude of each column; positions (ppm) of the lines a spectrum is drawn with.
LEVELS = {
    "NAA": 12.0, "NAAG": 1.5, "Cr": 5.0, "PCr": 3.5, "GPC": 1.1, "PCh": 0.6, "Glu": 9.0,
    "Gln": 2.5, "Ins": 6.0, "GSH": 1.2, "GABA": 1.0, "Lac": 0.5, "Tau": 1.2, "MM09": 8.0,
}  # fmt: skip
LINES = {2.01: 12.0, 3.03: 8.5, 3.21: 3.0, 3.55: 4.0, 2.35: 5.0, 3.92: 5.0}

MEASURES = (
    quality("snr", "1", "Height of the NAA peak over the SD of the noise", "SNR", fill=0.0),
    quality("fwhm", "ppm", "Full width at half maximum of the NAA peak", "FWHM"),
    quality("fwhm_hz", "Hz", "Full width at half maximum of the NAA peak", "FWHM"),
    quality("fit_quality", "1", "SD of the residual over the SD of the noise", "Fit quality"),
    quality("noise_sd", "as data", "SD of the noise of each real channel", "Noise SD"),
    quality("iterations", "1", "Iterations of the least-squares fit", "Iterations"),
)
_LINESHAPE = (
    lineshape(
        "shift",
        "Hz",
        "Frequency shift of all metabolites",
        "B0 shift",
        adds_to="b0shift",
        signed=True,
        desc="fitshift",
    ),
    lineshape("lorentzian", "1/s", "Damping of all metabolites", "Lorentzian damping"),
    lineshape(
        "phase",
        "rad",
        "Zero-order phase",
        "Zero-order phase",
        adds_to="phase",
        signed=True,
        desc="fitphase",
    ),
)


def brain_result(
    shape: tuple[int, int, int] = (24, 24, 8), *, seed: int = 1, signals: bool = False
) -> xr.Dataset:
    """A scan of an ellipsoidal brain; voxel 0 has no fit, voxel 1 was never processed.

    The lesion (high tCho, low tNAA) lies on the patient's left, anterior of the centre.
    """
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    place = 2 * (index + 0.5) / np.array(shape) - 1
    inside = ((place / np.array([0.8, 0.92, 1.15])) ** 2).sum(-1) < 1
    index, place = index[inside], place[inside]
    estimate, sd = _parameters(place, rng)
    quality = _quality(place, rng)
    status = np.full(len(index), Status.LEAST_SQUARES, np.uint8)
    status[:2] = Status.NO_FIT, Status.NOT_PROCESSED
    for values in (estimate, sd, quality):
        values[:2] = np.nan
    result = xr.Dataset(
        {
            "estimate": (("voxel", "parameter"), estimate.astype(np.float32)),
            "sd": (("voxel", "parameter"), sd.astype(np.float32)),
            "quality": (("voxel", "measure"), quality.astype(np.float32)),
            "status": ("voxel", status),
        },
        coords=result_coordinates(index.astype(np.int32), declared()),
        attrs=_attrs(shape),
    )
    return _with_signals(result, rng) if signals else result


def _parameters(
    place: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    radius = np.linalg.norm(place, axis=-1)
    lesion = np.exp(-(((place - [0.35, -0.3, 0.1]) / 0.22) ** 2).sum(-1))
    edge = 1 - 0.35 * radius**2
    columns: dict[str, NDArray[np.float64]] = {}
    noise: dict[str, NDArray[np.float64]] = {}
    for name, level in LEVELS.items():
        change = {"NAA": -0.7, "GPC": 1.8, "PCh": 1.8, "Lac": 6.0}.get(name, 0.0)
        noise[name] = 0.25 * (1 + 0.6 * radius) * np.ones(len(place))
        smooth = level * edge * (1 + change * lesion) * (1 + 0.12 * np.sin(5 * place[:, 1]))
        columns[name] = np.maximum(smooth + noise[name] * rng.standard_normal(len(place)), 0)
    for combination in PROTON.sums:
        columns[combination.label] = sum(columns[m] for m in combination.members)
        noise[combination.label] = 0.9 * noise[combination.members[0]]
    columns["shift"] = 6 * place[:, 1] - 4 * place[:, 2]
    columns["lorentzian"] = 8 + 4 * radius
    columns["phase"] = 0.2 * place[:, 0]
    for quantity in _LINESHAPE:
        noise[quantity.name] = 0.05 * np.ones(len(place))
    return np.stack(list(columns.values()), -1), np.stack([noise[n] for n in columns], -1)


def amplitudes() -> list[Quantity]:
    """What the columns are, and their sums."""
    sums = {c.label: Role.COMBINATION for c in PROTON.sums}
    return [
        amplitude(
            name,
            f"Amplitude of {PROTON.title_of(name)}",
            role=sums.get(
                name, Role.MACROMOLECULE if PROTON.is_macromolecule(name) else Role.METABOLITE
            ),
            title=PROTON.title_of(name),
            units="a.u.",
        )
        for name in (*LEVELS, *sums)
    ]


def _role(name: str) -> Role:
    return Role.MACROMOLECULE if PROTON.is_macromolecule(name) else Role.METABOLITE


def declared(*more: Quantity) -> Declaration:
    """Everything that the result holds, and measures beside."""
    return Declaration((*amplitudes(), *_LINESHAPE), (*MEASURES, *more))


def with_measure(result: xr.Dataset, quantity: Quantity, values: Any) -> xr.Dataset:
    """The result with one measure more, ``values (voxel,)`` or one number for all."""
    more = _column(result, Declaration(measures=(quantity,)), {"quality": values}, "measure")
    known = result.drop_dims("parameter")
    both = xr.concat([known, more], "measure", data_vars="minimal", combine_attrs="override")
    return both.merge(result.drop_dims("measure"), combine_attrs="override", compat="override")


def with_parameter(
    result: xr.Dataset, quantity: Quantity, estimate: Any, sd: Any, *, first: bool = False
) -> xr.Dataset:
    """The result with one parameter more, of a stage before or after all others."""
    more = _column(result, Declaration((quantity,)), {"estimate": estimate, "sd": sd}, "parameter")
    known = result.drop_dims("measure")
    parts = [more, known] if first else [known, more]
    both = xr.concat(parts, "parameter", data_vars="minimal", combine_attrs="override")
    whole = both.merge(result.drop_dims("parameter"), combine_attrs="override", compat="override")
    return whole.assign_attrs(result.attrs)


def _column(
    result: xr.Dataset, declaration: Declaration, values: dict[str, Any], dimension: str
) -> xr.Dataset:
    places = np.stack([result[axis].values for axis in "xyz"], -1)
    coordinates = result_coordinates(places, declaration)
    kept = {n: (d, v) for n, (d, v) in coordinates.items() if d in ("voxel", dimension)}
    voxels = result.sizes["voxel"]
    columns = {
        name: (("voxel", dimension), np.full((voxels, 1), np.nan, np.float32)) for name in values
    }
    for name, numbers in values.items():
        columns[name][1][:, 0] = numbers
    return xr.Dataset(columns, kept)


def renamed_parameter(result: xr.Dataset, name: str, quantity: Quantity) -> xr.Dataset:
    """The result in which a parameter is another quantity."""
    columns = result_coordinates(np.zeros((1, 3), np.int32), Declaration((quantity,)))
    at = result["parameter"].values.tolist().index(name)
    new = {n: result[n].values.copy() for n, (d, _) in columns.items() if d == "parameter"}
    for coordinate, values in new.items():
        values[at] = columns[coordinate][1][0]
    return result.assign_coords({n: ("parameter", values) for n, values in new.items()})


def _quality(place: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    radius = np.linalg.norm(place, axis=-1)
    fwhm = 0.035 + 0.04 * radius**2 + 0.003 * rng.standard_normal(len(place))
    columns = [
        38 * (1 - 0.5 * radius) + rng.standard_normal(len(place)),
        fwhm,
        fwhm * ACQUISITION.spectrometer_frequency,
        1.02 + 0.25 * radius**3 + 0.03 * rng.standard_normal(len(place)),
        np.full(len(place), 0.3),
        rng.integers(4, 12, len(place)).astype(float),
    ]
    return np.stack(columns, -1)


def _attrs(shape: tuple[int, int, int]) -> dict[str, Any]:
    a = ACQUISITION
    return {
        "shape": list(shape),
        "affine": AFFINE.tolist(),
        "stem": "sub-01_ses-1",
        "source": "/data/sub-01_ses-1.nii.gz",
        "checksum": "ab" * 32,
        "engine_version": "0.1.0",
        "schema_version": 1,
        "pipeline": {
            "name": "brain-1h-3t",
            "description": "Least squares with macromolecules",
            "block_size": 2048,
            "stages": [
                {"stage": "water_removal", "components": 8},
                {"stage": "quantify", "window_ppm": [0.5, 4.2], "nonnegative": True},
            ],
        },
        "processing_methods": {"water_removal": "Nuisance peak removal"},
        "basis": {
            "source": "press-3t-te30",
            "fingerprint": "cd" * 32,
            "names": list(LEVELS),
            "sequence": "press",
            "echo_time": 0.03,
        },
        "acquisition": {
            "points": a.points,
            "dwell_time": a.dwell_time,
            "spectrometer_frequency": a.spectrometer_frequency,
            "reference_ppm": a.reference_ppm,
            "nucleus": a.nucleus,
            "echo_time": a.echo_time,
            "repetition_time": a.repetition_time,
        },
        "header": {
            "SpectrometerFrequency": [a.spectrometer_frequency],
            "ResonantNucleus": ["1H"],
            "ProcessingApplied": [
                {"Program": "scanner", "Version": "1", "Method": "RF coil combination"}
            ],
        },
        "mask_origin": "signal energy",
        "run_fingerprint": "ef" * 32,
    }


def _with_signals(result: xr.Dataset, rng: np.random.Generator) -> xr.Dataset:
    time = ACQUISITION.time
    scale = result["estimate"].sel(parameter="NAA").values[:, None] / 12.0
    hertz = ACQUISITION.frequency_of(list(LINES))
    peaks = np.exp((2j * np.pi * hertz[:, None] - 12.0) * time)
    metabolites = scale * (np.array(list(LINES.values()))[None] @ peaks)
    baseline = 40 * np.exp((2j * np.pi * ACQUISITION.frequency_of(1.3) - 250) * time)[None] * scale
    phase = result["estimate"].sel(parameter="phase").values[:, None]
    phase = phase + 2 * np.pi * result["estimate"].sel(parameter="shift").values[:, None] * time
    noise = rng.standard_normal((2, *metabolites.shape))
    fit = np.exp(1j * phase) * (metabolites + baseline)
    stored = {
        "corrected": fit + noise[0] + 1j * noise[1],
        "fit": fit,
        "baseline": np.exp(1j * phase) * baseline,
    }
    return result.assign(
        {n: (("voxel", "time"), v.astype(np.complex64)) for n, v in stored.items()}
    )
