"""Are the error bars true? ``python tests/benchmarks/bench_calibration.py [--out DIR] [--quick]``.

Simulated brain spectra whose amplitudes, linewidths, shifts, phases, baselines and noise are drawn
anew for every voxel; the fit is that of the default pipeline unless named otherwise. Prints tables,
and writes ``calibration.json`` and figures to ``--out``.

* ``calibration``: z = (estimate - truth)/SD by metabolite and SNR, where the relative Cramér-Rao
  bound is below 20 %: its SD is to be 0.95 to 1.05, and 95 % intervals are to hold 94 to 96 % of
  the truths.
* ``model_error``: the same where the model is wrong: by how much the error bars are too small, and
  what an inflation by the residual makes of them.
* ``scores``: slope a, intercept q, R2 and RMSE of estimates against truth from 0 to twice the
  normal concentration, for every estimator (Rizzo et al., Magn Reson Med 2023;89:1707).
* ``thesis``: R2 and mean absolute percentage error on the simulation of the physics-informed
  networks, with its damped noise and with stationary noise. Only where its basis is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from mrsi_engine.fit.priors import AmplitudePrior, PriorTable  # noqa: E402
from mrsi_engine.nuclei import nucleus  # noqa: E402
from mrsi_engine.pipeline.pipeline import Pipeline  # noqa: E402
from mrsi_engine.pipeline.stage import Block  # noqa: E402
from mrsi_engine.spectra.basis import Basis  # noqa: E402
from mrsi_engine.stages import Quantify  # noqa: E402
from tests.scenes import (  # noqa: E402
    GREY_MATTER,
    SEED_SIMULATION,
    press_basis,
    run_stage,
    thesis_basis,
)

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

SNRS = (5.0, 10.0, 20.0, 40.0, 70.0, 100.0)
WIDTHS_HZ = (3.0, 6.0, 9.0, 12.0)
BASELINES = (0.0, 0.1, 0.3)

#: Relative bound, as a share of the truth, under which an error bar is judged.
JUDGED = 0.20

#: What is shown one by one; every metabolite is in the JSON.
SHOWN = ("NAANAAG", "CrPCr", "GPCPCh", "GluGln", "NAA", "Cr", "Glu", "Ins", "GSH", "Tau", "MM")

#: The metabolites of the thesis' mean R2.
SELECTED = ("Cr", "GPC", "Ins", "NAA", "PCh", "Tau")


@dataclass(frozen=True)
class Scene:
    """Spectra to be fitted: what is the same in all of them.

    ``snr`` is the height of the NAA peak over the SD of the noise in the real spectrum, ``width``
    (Hz) the Lorentzian width beyond the basis, ``baseline`` its size against NAA's peak, ``spread``
    the half-width of the uniform amplitudes around normal, as a share of it.
    """

    snr: float
    width: float
    baseline: float
    voxels: int
    seed: int
    spread: float = 0.5


@dataclass(frozen=True, eq=False)
class Spectra:
    """Noisy FIDs ``(voxel, time)`` and the amplitudes ``(voxel,)`` they were made with."""

    fids: NDArray[np.complex128]
    truth: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Errors:
    """z-scores of one quantity in many voxels, and which are judged."""

    z: list[NDArray[np.float64]] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """SD, mean and coverage of the judged z-scores."""
        z = np.concatenate(self.z)
        z = z[np.isfinite(z)]
        if len(z) < 100:
            return {"judged": len(z)}
        inside = np.abs(z) < 1.959964
        return {
            "judged": len(z),
            "sd": float(z.std()),
            "mean": float(z.mean()),
            "coverage": float(inside.mean()),
        }


def fit_settings() -> Quantify:
    """The fit of the default pipeline."""
    stages = Pipeline.load("brain-1h-3t").stages
    return next(stage for stage in stages if isinstance(stage, Quantify))


def spectra(basis: Basis, scene: Scene) -> Spectra:
    """Draw amplitudes, shift, phase, baseline and noise for every voxel of a scene."""
    rng = np.random.default_rng(scene.seed)
    share = rng.uniform(1 - scene.spread, 1 + scene.spread, (scene.voxels, len(basis.names)))
    normal = np.array([GREY_MATTER[name] for name in basis.names])
    amplitudes = share * normal
    time = basis.acquisition.time
    shift, phase = rng.uniform(-8, 8, scene.voxels), rng.uniform(-np.pi, np.pi, scene.voxels)
    damping = np.pi * scene.width * rng.uniform(0.9, 1.1, scene.voxels)
    turn = np.exp((2j * np.pi * shift - damping)[:, None] * time + 1j * phase[:, None])
    clean = (amplitudes @ basis.fids) * turn
    reference = normal[basis.names.index("NAA")] * basis["NAA"]
    height = _height(basis, reference * np.exp(-np.pi * scene.width * time))
    clean += (
        scene.baseline * height * _baselines(basis, rng, scene.voxels) * np.exp(1j * phase)[:, None]
    )
    # The SD of a real channel of the spectrum is sqrt(points) that of the FID.
    sd = height / scene.snr / np.sqrt(len(time))
    noise = rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape)
    return Spectra(
        clean + sd * noise, _with_sums(dict(zip(basis.names, amplitudes.T, strict=True)))
    )


def _height(basis: Basis, fid: NDArray[np.complex128]) -> float:
    ppm = basis.acquisition.ppm
    return float(basis.acquisition.spectrum(fid).real[(ppm > 1.9) & (ppm < 2.1)].max())


def _baselines(basis: Basis, rng: np.random.Generator, voxels: int) -> NDArray[np.complex128]:
    """Sums of six broad lines (0.6 to 1.2 ppm wide) over the fitted range, of height about 1."""
    time, width = basis.acquisition.time, basis.acquisition.spectrometer_frequency
    total = np.zeros((voxels, len(time)), complex)
    for _ in range(6):
        where = basis.acquisition.frequency_of(rng.uniform(0.0, 4.5, voxels))
        damping = np.pi * width * rng.uniform(0.6, 1.2, voxels)
        line = np.exp((2j * np.pi * where - damping)[:, None] * time)
        # A line of amplitude 1 is 1/(damping * dwell time) high.
        size = rng.normal(0, 0.5, voxels) * damping * basis.acquisition.dwell_time
        total += size[:, None] * line
    return total


def _with_sums(amplitudes: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    sums = {
        c.label: np.sum([amplitudes[m] for m in c.members], axis=0)
        for c in nucleus("1H").sums
        if set(c.members) <= set(amplitudes)
    }
    return {**amplitudes, **sums}


def scenes(quick: bool) -> Iterator[Scene]:
    """Every SNR with every linewidth and baseline."""
    voxels = 100 if quick else 600
    cells = [(s, w, b) for s in SNRS for w in WIDTHS_HZ for b in BASELINES]
    yield from (Scene(*cell, voxels, seed) for seed, cell in enumerate(cells))


def calibration(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """z-scores by metabolite, and in it by SNR, baseline and over all."""
    stage, basis = fit_settings(), press_basis()
    found: dict[str, dict[str, Errors]] = {}
    for scene in scenes(quick):
        drawn = spectra(basis, scene)
        block = run_stage(stage, basis, drawn.fids)
        bins = (
            "all",
            f"SNR {scene.snr:g}",
            f"baseline {scene.baseline:g}",
            f"width {scene.width:g}",
        )
        for name, z in z_scores(block, drawn.truth).items():
            for bin_name in bins:
                found.setdefault(name, {}).setdefault(bin_name, Errors()).z.append(z)
    return {n: {b: e.figures() for b, e in bins.items()} for n, bins in found.items()}


def z_scores(block: Block, truth: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray]:
    """z-scores of every quantity with a known truth whose bound is judged in this scene.

    The median bound of the scene decides, not each voxel's own: that would pick the voxels whose
    noise happens to make their bounds small.
    """
    scores = {}
    for name, known in truth.items():
        estimate, sd = block.estimate[name].numpy(), block.sd[name].numpy()
        judged = np.isfinite(estimate) & np.isfinite(sd)
        judged &= np.nanmedian(sd / known) < JUDGED
        scores[name] = np.where(judged, (estimate - known) / sd, np.nan)
    return scores


def model_error(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """SD of z where the model is wrong, with error bars from the noise and from the residual."""
    stage, basis = fit_settings(), press_basis()
    no_gsh = tuple(n for n in ("GSH", "Asp") if n in basis.names)
    wrong: dict[str, tuple[Quantify, float]] = {
        "right model": (stage, 0.3),
        "macromolecules as lines": (_changed(stage, macromolecules={"source": "lines"}), 0.3),
        "no macromolecules": (_changed(stage, macromolecules={"source": "none"}), 0.3),
        "no baseline in the model": (_changed(stage, baseline={"kind": "none"}), 0.3),
        "stiff baseline": (
            _changed(stage, baseline={**stage.baseline.model_dump(), "stiffness": 10.0}),
            0.3,
        ),
        "strong baseline": (stage, 1.0),
        "GSH and Asp left out": (_changed(stage, leave_out=no_gsh), 0.3),
    }
    return {name: _errors_of(s, basis, b, quick) for name, (s, b) in wrong.items()}


def _errors_of(
    stage: Quantify, basis: Basis, baseline: float, quick: bool
) -> dict[str, dict[str, float]]:
    noise: dict[str, Errors] = {}
    residual: dict[str, Errors] = {}
    for seed, snr in enumerate((20.0, 40.0, 70.0)):
        drawn = spectra(basis, Scene(snr, 6.0, baseline, 200 if quick else 1000, seed))
        block = run_stage(stage, basis, drawn.fids)
        inflation = np.maximum(block.measures["fit_quality"].numpy(), 1.0)
        for name in ("NAANAAG", "CrPCr", "GPCPCh", "GluGln", "Ins"):
            z = z_scores(block, {name: drawn.truth[name]})[name]
            noise.setdefault(name, Errors()).z.append(z)
            residual.setdefault(name, Errors()).z.append(z / inflation)
    return {
        name: {
            "sd": noise[name].figures().get("sd", float("nan")),
            "mean": noise[name].figures().get("mean", float("nan")),
            "sd_inflated": residual[name].figures().get("sd", float("nan")),
        }
        for name in noise
    }


def _changed(stage: Quantify, **settings: Any) -> Quantify:
    return Quantify.model_validate({**stage.model_dump(), **settings})


def estimators() -> dict[str, Quantify]:
    """The fit of the default pipeline under every estimator."""
    stage = fit_settings()
    return {kind: _changed(stage, amplitudes=kind) for kind in ("free", "nonnegative", "map")}


def scores(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Slope, intercept (share of normal), R2 and RMSE (share of normal) by estimator."""
    basis = press_basis()
    drawn = spectra(basis, Scene(40.0, 5.0, 0.1, 300 if quick else 3000, 7, spread=1.0))
    normal = _with_sums({n: np.atleast_1d(v).astype(float) for n, v in GREY_MATTER.items()})
    return {
        kind: {
            name: _score(block.estimate[name].numpy() / normal[name], known / normal[name])
            for name, known in drawn.truth.items()
        }
        for kind, stage in estimators().items()
        for block in [run_stage(stage, basis, drawn.fids)]
    }


def _score(estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float]:
    slope, intercept = np.polyfit(truth, estimate, 1)
    error = estimate - truth
    return {
        "slope": float(slope),
        "intercept": float(intercept),
        "r2": float(1 - np.square(error).mean() / truth.var()),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "mape": float(100 * np.mean(np.abs(error) / np.maximum(truth, 1e-9))),
    }


#: Amplitudes of the thesis' simulation, (lowest, highest) by its code; all are divided by 17.
_THESIS_RANGES = {
    "Ala": (0.1, 1.5), "Asp": (1, 2), "Cr": (4.5, 10.5), "GABA": (1, 2), "GPC": (0.5, 2),
    "GSH": (1.5, 3), "Glc": (1, 2), "Gln": (3, 6), "Glu": (6, 12.5), "Gly": (0.4, 1),
    "Ins": (3.8, 8.1), "Lac": (0.2, 1), "NAA": (7.5, 17), "NAAG": (0.5, 2.5), "PCh": (0.5, 2),
    "PCr": (3, 5.5), "PE": (1, 2), "Tau": (2, 6), "sIns": (0.3, 0.6), "MM": (14, 17),
}  # fmt: skip
_THESIS_UNIT = 17.0

#: Noise of the thesis' data, by name: SD per channel, and whether it decays with the signal.
_THESIS_NOISE = {
    "as published (damped noise)": (1.0, True),
    "stationary noise, SNR 67": (0.39, False),
    "stationary noise, SNR 26": (1.0, False),
}


def thesis(quick: bool) -> dict[str, dict[str, dict[str, float]]]:
    """R2 and MAPE (%) of ``free`` and of ``map`` with the ranges as its prior, by noise."""
    if not SEED_SIMULATION.exists():
        return {}
    basis = thesis_basis(2048)
    stage = Quantify(window_ppm=(0.0, 4.5), max_shift_hz=10, amplitudes=("free", "map"),
                     priors=_thesis_priors())  # fmt: skip
    found = {}
    for noise, (sd, damped) in _THESIS_NOISE.items():
        drawn = _thesis_spectra(basis, 300 if quick else 3000, sd, damped)
        # Where noise decays with the signal, its level at the end of a FID says nothing of its
        # level at the start: the fit is told the one the data were made with.
        block = run_stage(stage, basis, drawn.fids, noise_sd=sd)
        for kind, suffix in (("free", ""), ("map", "_map")):
            found[f"{kind}, {noise}"] = {
                name: _score(block.estimate[name + suffix].numpy(), drawn.truth[name])
                for name in (*SELECTED, "PCr", "Glu")
            }
    return found


def _thesis_spectra(basis: Basis, signals: int, sd: float, damped: bool) -> Spectra:
    """The simulation of the thesis' paper 5: shift +-3 Hz, damping 0-15 1/s, phase +-9 degrees."""
    rng = np.random.default_rng(5)
    low, high = (np.array([_THESIS_RANGES[n][i] for n in basis.names]) for i in (0, 1))
    amplitudes = rng.uniform(low, high, (signals, len(low))) / _THESIS_UNIT
    time = basis.acquisition.time
    shift, damping = rng.uniform(-3, 3, signals), rng.uniform(0, 15, signals)
    phase = np.deg2rad(rng.uniform(-9, 9, signals))
    turn = np.exp((2j * np.pi * shift - damping)[:, None] * time + 1j * phase[:, None])
    shape = (signals, len(time))
    noise = sd * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    clean = amplitudes @ basis.fids
    fids = (clean + noise) * turn if damped else clean * turn + noise
    return Spectra(fids, dict(zip(basis.names, amplitudes.T, strict=True)))


def _thesis_priors() -> PriorTable:
    """Middle and SD of the uniform distributions."""
    return PriorTable(
        prior=tuple(
            AmplitudePrior(
                of=name,
                mean=(low + high) / 2 / _THESIS_UNIT,
                sd=(high - low) / np.sqrt(12) / _THESIS_UNIT,
            )
            for name, (low, high) in _THESIS_RANGES.items()
        )
    )


def show(console: Console, results: Mapping[str, Any]) -> None:
    """The tables, figures outside their bars in red."""
    if "calibration" in results:
        console.print(_calibration_table(results["calibration"]))
    if "model_error" in results:
        console.print(_model_error_table(results["model_error"]))
    for kind, rows in results.get("scores", {}).items():
        console.print(_score_table(f"{kind}: estimates against truth, 0 to 2 x normal", rows))
    if results.get("thesis"):
        console.print(_thesis_table(results["thesis"]))


def _calibration_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    bins = [f"SNR {snr:g}" for snr in SNRS] + [f"baseline {b:g}" for b in BASELINES]
    title = "SD of z and coverage (%) of the 95 % interval where the relative CRLB is below 20 %"
    table = Table("metabolite", "all", *bins, title=title)
    for name in SHOWN:
        cells = [_calibration_cell(found[name].get(b, {})) for b in ("all", *bins)]
        table.add_row(name, *cells)
    return table


def _calibration_cell(figures: Mapping[str, float]) -> str:
    if "sd" not in figures:
        return "–"
    text = f"{figures['sd']:.3f} {100 * figures['coverage']:.1f}"
    good = 0.95 <= figures["sd"] <= 1.05 and 0.94 <= figures["coverage"] <= 0.96
    return text if good else f"[red]{text}[/red]"


def _model_error_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    names = list(next(iter(found.values())))
    title = "SD of z with a wrong model: error bars from the noise / inflated by the residual"
    table = Table("model", *names, title=title)
    for model, rows in found.items():
        cells = [f"{rows[n]['sd']:.2f} / {rows[n]['sd_inflated']:.2f}" for n in names]
        table.add_row(model, *cells)
    return table


def _score_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    columns = list(next(iter(rows.values())))
    table = Table("metabolite", *columns, title=title)
    for name, figures in rows.items():
        table.add_row(name, *(f"{figures[c]:.3g}" for c in columns))
    return table


def _thesis_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    names = (*SELECTED, "PCr", "Glu")
    table = Table("fit", "mean R2 of six", *names, title="The thesis' simulation: R2 / MAPE (%)")
    table.add_row("published network (DQ-nMM)", ".753", ".88/6.0", ".67/16.3", ".71/–", ".98/–",
                  ".62/18.2", ".66/–", ".54/9.1", ".68/–")  # fmt: skip
    for fit, rows in found.items():
        mean = np.mean([rows[name]["r2"] for name in SELECTED])
        table.add_row(
            fit, f"{mean:.3f}", *(f"{rows[n]['r2']:.2f}/{rows[n]['mape']:.1f}" for n in names)
        )
    return table


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """``calibration.png``: SD of z and coverage against SNR, a line a metabolite."""
    if "calibration" not in results:
        return
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    limits = {"sd": (0.95, 1.05), "coverage": (0.94, 0.96)}
    titles = {"sd": "SD of (estimate − truth)/SD", "coverage": "share of 95 % intervals that hold"}
    for axis, key in zip(axes, limits, strict=True):
        axis.axhspan(*limits[key], color="0.92")
        for name in SHOWN:
            rows = results["calibration"][name]
            known = [
                (s, rows[f"SNR {s:g}"][key]) for s in SNRS if key in rows.get(f"SNR {s:g}", {})
            ]
            if known:
                axis.plot(*zip(*known, strict=True), marker="o", ms=3, lw=1, label=name)
        axis.set(xlabel="SNR", ylabel=titles[key], xscale="log", xticks=SNRS)
        axis.set_xticklabels([f"{s:g}" for s in SNRS])
    axes[1].legend(fontsize=8, ncols=2)
    figure.savefig(folder / "calibration.png", dpi=150)
    plt.close(figure)


PARTS: dict[str, Callable[[bool], Any]] = {
    "calibration": calibration,
    "model_error": model_error,
    "scores": scores,
    "thesis": thesis,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("calibration"), help="folder of results")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART",
                        help=", ".join(PARTS))  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer voxels")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    console, results = Console(), {}
    for name in chosen.only:
        console.print(f"{name} ...")
        results[name] = PARTS[name](chosen.quick)
    show(console, results)
    draw(results, chosen.out)
    (chosen.out / "calibration.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
