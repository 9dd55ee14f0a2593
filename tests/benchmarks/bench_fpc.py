"""Every method of frequency and phase correction on the thesis' simulation, in one run.

``python tests/benchmarks/bench_fpc.py`` prints our figures beside the published ones. The template
is the published rat-brain spectrum where the shared data stand beside the repository, else our own.
With ``--networks FOLDER`` the networks of the ``fpc-thesis-...`` recipes too, trained to that
folder unless they are there (some minutes each), and the shipped one on the phantom.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.io
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.kernels.alignment import Alignment, wrapped
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.creatine import CreatineReferencing, reference_to_creatine
from mrsi_engine.kernels.projection import LineRange, Projection
from mrsi_engine.kernels.reference_choice import choose_reference
from mrsi_engine.kernels.registration import Registration, Solver, correlate, register
from mrsi_engine.kernels.template import averaged_template
from mrsi_engine.networks.fpc import TEMPLATE, Corrector, FpcRecipe, train_fpc
from mrsi_engine.networks.fpc_signals import TransientSource
from mrsi_engine.networks.model import Model, is_model, load_model
from mrsi_engine.pipeline.pipeline import Pipeline, prepare_pipeline
from mrsi_engine.runs.bases import BasisChoice, load_basis
from mrsi_engine.spectra.fpc_simulation import (
    RAT_BRAIN,
    FpcSettings,
    FpcSimulation,
    simulate_transients,
)
from mrsi_engine.spectra.phantom import Nuisance, PhantomSettings, make_phantom
from mrsi_engine.stages.fpc import FrequencyPhaseCorrection

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.stages.passes import Scan, prepared_states
from tests.stages.passes import run as run_stage

PUBLISHED_TEMPLATE = (
    Path(__file__).resolve().parents[3] / "shared/data/seed_simulation/obx_23_9_FC.mat"
)

#: SD of the error over all signals: Hz, degrees (thesis, Table 1).
PUBLISHED = {
    "Corr": (10.7, 16.9),
    "CrR": (7.92, 32.34),
    "SR": (1.57, 7.44),
    "SRF": (11.46, 15.92),
    "dSR": (1.02, 5.87),
    "dSRF": (0.73, 4.89),
    "dCrR": (0.94, 6.62),
    "dCrRF": (0.95, 6.79),
    "supervised net (Tapper)": (0.71, 6.78),
    "supervised net (Ma)": (0.99, 4.29),
}

#: 0.23 s for the nuisance subspace, 0.32 s for the baseline, which leaves fewer bins.
POINTS, BASELINE_POINTS = 1024, 1400


def hertz(low: float, high: float) -> tuple[float, float]:
    """A window in ppm as (low, high) Hz."""
    first, second = RAT_BRAIN.frequency_of([high, low]).tolist()
    return first, second


NUISANCES = (
    LineRange(*hertz(4.64, 4.76), 60.0, 160.0, 4),
    LineRange(*hertz(0.95, 1.45), 150.0, 450.0, 6),
)
PICK_PPM = (2.5, 4.0)


def projection(points: int, **settings: object) -> Projection:
    """A projection on the simulation's axis."""
    return Projection.build(points, RAT_BRAIN.dwell_time, **settings)  # type: ignore[arg-type]


def baseline(points: int = BASELINE_POINTS, order: int = 2) -> Projection:
    """``robust`` with a polynomial baseline over 1.9-4.2 ppm."""
    return projection(points, window_hz=hertz(1.9, 4.2), baseline_order=order)


def nuisance_free(points: int = POINTS) -> Projection:
    """``robust`` with the water and lipid subspace projected out."""
    return projection(points, nuisances=NUISANCES)


@dataclass(frozen=True)
class Signals:
    """The simulation as tensors."""

    truth: FpcSimulation
    fids: Tensor
    noise_sd: Tensor

    @classmethod
    def make(cls, settings: FpcSettings, template: NDArray[np.complexfloating] | None) -> Signals:
        """Simulate."""
        sim = simulate_transients(settings, template)
        return cls(sim, torch.from_numpy(sim.fids), torch.from_numpy(sim.noise_sd))

    def noisy_reference(self) -> tuple[Tensor, int]:
        """The reference SR and its relatives use: one transient, chosen by k-means."""
        band = Band.between(self.fids.shape[1], RAT_BRAIN.dwell_time, *hertz(*PICK_PPM))
        number = choose_reference(self.fids, band)
        return self.fids[number], number


def published_template() -> NDArray[np.complexfloating] | None:
    """The thesis' template in our sign convention; ``None`` where the shared data are missing."""
    if not PUBLISHED_TEMPLATE.exists():
        return None
    return np.asarray(scipy.io.loadmat(PUBLISHED_TEMPLATE)["data"][:, 0]).conj()


def errors(signals: Signals, found: Alignment, frame: tuple[float, float] = (0.0, 0.0)) -> dict:
    """SD over all, clean and nuisance signals and bias, in Hz and degrees.

    ``frame`` (Hz, rad) is where the reference itself stands.
    """
    truth = signals.truth
    hz = found.shift.cpu().numpy() + frame[0] - truth.shift
    phase = found.phase.cpu() + frame[1] - torch.from_numpy(truth.phase)
    centre = torch.exp(1j * phase).mean().angle()
    degrees = np.degrees((wrapped(phase - centre) + centre).numpy())
    known = np.isfinite(hz)
    groups = {"all": known, "clean": known & truth.clean, "nuisance": known & ~truth.clean}
    sd = {name: (float(hz[g].std()), float(degrees[g].std())) for name, g in groups.items()}
    return {
        "sd": sd,
        "bias": (float(hz[known].mean()), float(degrees[known].mean())),
        "bias_nuisance": (
            float(hz[groups["nuisance"]].mean()),
            float(degrees[groups["nuisance"]].mean()),
        ),
        "lost": int((~known).sum()),
        "crlb": (
            float(found.shift_sd.nanmean()),
            float(np.degrees(float(found.phase_sd.nanmean()))),
        ),
    }


def timed(run: Callable[[], Alignment], signals: int, repeats: int = 3) -> tuple[Alignment, float]:
    """The result and the median CPU time of a run on one thread, ms per signal."""
    spent = []
    for _ in range(repeats):
        begin = time.process_time()
        found = run()
        spent.append(time.process_time() - begin)
    return found, 1e3 * statistics.median(spent) / signals


def frame_of(
    template: Tensor, truth: NDArray[np.complex128], seen: Projection
) -> tuple[float, float]:
    """Where a template made from data stands against the true one: Hz, rad."""
    noise = torch.full((1,), 1e-3, dtype=torch.float64)
    true = Registration.build(torch.from_numpy(truth), seen)
    own = register(true, template[None, : seen.band.points], noise)
    return float(own.shift[0]), float(own.phase[0])


def ready(template: Tensor, seen: Projection) -> Registration:
    """The template made ready; the start looks at the window between water and lipids."""
    return Registration.build(template, seen, start=baseline(seen.band.points))


def robust(signals: Signals, seen: Projection, solver: Solver, repeats: int = 3) -> dict:
    """Template of the data in two passes, and the last registration to it, timed together."""
    band = Band.between(seen.band.points, RAT_BRAIN.dwell_time, *hertz(*PICK_PPM))
    fids, noise = signals.fids[:, : seen.band.points], signals.noise_sd
    template = fids[0]

    def run() -> Alignment:
        nonlocal template
        start = baseline(seen.band.points)
        template, _ = averaged_template(fids, noise, seen, band, solver, start=start)
        return register(ready(template, seen), fids, noise, solver)

    found, ms = timed(run, len(fids), repeats)
    registration = ready(template, seen)
    _, ms_one = timed(
        lambda: register(registration, fids, noise, solver),
        len(fids),
        repeats,
    )
    frame = frame_of(template, signals.truth.template, seen)
    return errors(signals, found, frame) | {"ms": ms, "ms_one_pass": ms_one}


def classical(signals: Signals, repeats: int = 3) -> dict[str, dict]:
    """SR, SRF, Corr and CorrF against one noisy transient; CrR and CrRF."""
    reference, number = signals.noisy_reference()
    frame = (float(signals.truth.shift[number]), float(signals.truth.phase[number]))
    whole = Registration.build(reference, projection(512))
    part = Registration.build(reference, projection(512, window_hz=hertz(2.5, 3.5)))
    cr = CreatineReferencing.build(RAT_BRAIN.with_points(POINTS), None)
    crf = CreatineReferencing.build(RAT_BRAIN.with_points(POINTS))
    plain = Solver(limit_hz=130.0, fit_damping=False)
    fids, noise = signals.fids, signals.noise_sd
    runs: dict[str, tuple[Callable[[], Alignment], tuple[float, float]]] = {
        "Corr": (lambda: correlate(whole, fids, noise, 130.0), frame),
        "CorrF": (lambda: correlate(part, fids, noise, 130.0), frame),
        "SR": (lambda: register(whole, fids, noise, plain), frame),
        "SRF": (lambda: register(part, fids, noise, plain), frame),
        "CrR": (lambda: reference_to_creatine(cr, fids, noise), (0.0, 0.0)),
        "CrRF": (lambda: reference_to_creatine(crf, fids, noise), (0.0, 0.0)),
    }
    table = {}
    for name, (run, own_frame) in runs.items():
        found, ms = timed(run, len(fids), repeats)
        table[name] = errors(signals, found, own_frame) | {"ms": ms}
    return table


def measure(signals: int = 4000, repeats: int = 3) -> dict[str, dict]:
    """All methods on the published range of shifts, ``robust`` on +-60 Hz / +-180 degrees too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        template = published_template()
        near = Signals.make(FpcSettings(signals=signals), template)
        table = classical(near, repeats)
        far = Signals.make(FpcSettings(signals=signals, shift_hz=60.0, phase_rad=np.pi), template)
        kinds = {
            "baseline": baseline(),
            "linear baseline, 1024": baseline(POINTS, order=1),
            "nuisance": nuisance_free(),
        }
        for name, seen in kinds.items():
            known = ready(torch.from_numpy(near.truth.template), seen)
            found, ms = timed(
                lambda known=known: register(known, near.fids, near.noise_sd), signals, repeats
            )
            table[f"robust {name}, true template"] = errors(near, found) | {"ms": ms}
            table[f"robust {name}"] = robust(near, seen, Solver(), repeats)
            table[f"robust {name}, 60 Hz 180 deg"] = robust(far, seen, Solver(130.0), repeats)
        return table
    finally:
        torch.set_num_threads(threads)


def show(table: dict[str, dict]) -> str:
    """The table as text, the published figures beside."""
    columns = " ".join(f"{name:>13s}" for name in ("all", "clean", "nuisance", "bias"))
    lines = ["SD of the error and bias, Hz / deg; CPU ms per signal on one core, published SR: 57"]
    lines.append("ms: template in two passes and registration; 1 pass: registration alone")
    lines.append(f"{'method':44s} {columns} {'ms':>6s} {'1 pass':>6s}  published")
    for name, row in table.items():
        cells = [*row["sd"].values(), row["bias"]]
        text = " ".join(f"{hz:6.2f}/{deg:6.2f}" for hz, deg in cells)
        beside = "{:.2f}/{:.2f}".format(*PUBLISHED[name]) if name in PUBLISHED else ""
        one = row.get("ms_one_pass", row["ms"])
        lines.append(f"{name:44s} {text} {row['ms']:6.3f} {one:6.3f}  {beside}")
    lines += [
        f"{name:44s} {'(published only)':>55s} {'':13s}  {hz:.2f}/{deg:.2f}"
        for name, (hz, deg) in PUBLISHED.items()
        if name not in table
    ]
    return "\n".join(lines)


NETWORKS = ("dCrR", "dCrRF", "dSR", "dSRF", "projected")

#: The hardest set of the thesis' networks, outside their training.
FAR = FpcSettings(signals=4000, shift_hz=40.0, phase_rad=np.pi)


def trained(kind: str, template: NDArray[np.complexfloating] | None, folder: Path) -> Model:
    """The network of a shipped recipe, trained on a template unless the folder holds it."""
    recipe = FpcRecipe.load(f"fpc-thesis-{kind.lower()}")
    own = folder / recipe.name
    if not is_model(own):
        train_fpc(recipe, TransientSource(recipe.simulation, template), own)
    return load_model(own)


def said(network: Corrector, signals: Signals) -> Alignment:
    """What a network alone says."""
    shift, phase = (v.double() for v in network.predict(signals.fids))
    nothing = torch.full_like(shift, torch.nan)
    flag, code = torch.zeros_like(shift, dtype=torch.bool), torch.zeros_like(shift).long()
    return Alignment(shift, phase, *[nothing] * 6, flag, code)


def learned(folder: Path, signals: int = 4000, repeats: int = 3) -> dict[str, dict]:
    """Networks alone, outside of their training, and with one step of least squares behind them."""
    template = published_template()
    near = Signals.make(FpcSettings(signals=signals), template)
    far = Signals.make(replace(FAR, signals=signals), template)
    table = {}
    for kind in NETWORKS:
        network = Corrector.of(trained(kind, template, folder))
        found, ms = timed(lambda n=network: said(n, near), signals, repeats)
        table[kind] = errors(near, found) | {"ms": ms}
        table[f"{kind}, 40 Hz 180 deg"] = errors(far, said(network, far)) | {"ms": ms}
        for what, seen in (("baseline", baseline()), ("nuisance", nuisance_free())):
            table[f"{kind} and a step, {what}"] = refined(network, near, seen, repeats)
    return table


def refined(network: Corrector, signals: Signals, seen: Projection, repeats: int) -> dict:
    """One step from what a network says, against the model's template."""
    template = network.model.tensors[TEMPLATE]
    registration, one = ready(template, seen), Solver(max_iterations=1)

    def run() -> Alignment:
        start = network.predict(signals.fids)[0].double()
        return register(registration, signals.fids, signals.noise_sd, one, start)

    found, ms = timed(run, len(signals.fids), repeats)
    frame = frame_of(template, signals.truth.template, seen)
    return errors(signals, found, frame) | {"ms": ms}


def on_phantom(shape: tuple[int, int, int] = (24, 24, 4), repeats: int = 5) -> str:
    """The stage with the shipped network beside ``robust``: 15 Hz and any phase added to a brain.

    ``ms`` is CPU time a voxel of the passes over the scan and of the correction, interleaved.
    """
    model = load_model(FrequencyPhaseCorrection().model)
    axis = model.card.axis.acquisition
    basis = load_basis(BasisChoice("press-3t-te30"), axis)
    stages = {
        "robust": FrequencyPhaseCorrection(),
        "network": FrequencyPhaseCorrection(method="network"),
        "network, its own template": FrequencyPhaseCorrection(method="network", template_passes=0),
    }
    lines = ["nuisances, SNR, method: SD Hz / deg, off by 5 Hz, not applied, by network; ms"]
    scenes: tuple[tuple[Nuisance, float], ...] = (
        *(("none", 40.0), ("none", 10.0)),
        *(("water", 40.0), ("all", 40.0), ("all", 10.0)),
    )
    for nuisance, snr in scenes:
        settings = PhantomSettings(shape=shape, nuisance=nuisance, snr=snr, seed=3)
        phantom, rng = make_phantom(settings, basis), np.random.default_rng(0)
        count = int(phantom.mask.sum())
        hertz, angle = rng.uniform(-15, 15, count), rng.uniform(-np.pi, np.pi, count)
        turn = np.exp(1j * angle[:, None] + 2j * np.pi * np.outer(hertz, axis.time))
        scan = Scan(axis, torch.from_numpy((phantom.fids[phantom.mask] * turn).astype("c8")))
        truth = phantom.truth["shift"][phantom.mask] + hertz
        turned_by = phantom.truth["phase"][phantom.mask] + angle
        spent = stage_times(stages, scan, repeats)
        for name, stage in stages.items():
            done = run_stage(stage, scan)
            error = done.estimate["fpc_shift"].numpy() - truth
            error -= np.nanmedian(error)
            circle = np.exp(1j * (done.estimate["fpc_phase"].numpy() - turned_by))
            degrees = np.degrees(np.angle(circle / np.nanmean(circle)))
            share = done.measures.get("fpc_network", torch.zeros(1)).mean()
            lines.append(
                f"{nuisance:6s} {snr:3.0f} {name:26s} {np.nanstd(error):6.3f}/"
                f"{np.nanstd(degrees):5.2f} {np.nanmean(np.abs(error) > 5):7.4f} "
                f"{np.isnan(error).mean():6.3f} {share:6.3f}; "
                + " ".join(f"{1e3 * t / count:.3f}" for t in spent[name])
            )
    return "\n".join(lines)


def stage_times(
    stages: dict[str, FrequencyPhaseCorrection], scan: Scan, repeats: int
) -> dict[str, tuple[float, float]]:
    """Median CPU seconds of the passes and of the correction, stages in turn."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in stages}
    for _ in range(repeats):
        for name, stage in stages.items():
            pipeline = Pipeline(name="bench", stages=(stage,)).check(scan.context)
            begin = time.process_time()
            states = prepared_states(pipeline, scan, 1000)
            middle = time.process_time()
            apply = prepare_pipeline(pipeline, scan.context, states)
            for block in scan.blocks(1000):
                apply(block)
            spent[name].append((middle - begin, time.process_time() - middle))
    return {n: tuple(statistics.median(c) for c in zip(*t, strict=True)) for n, t in spent.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=Path, help="folder of trained networks")
    folder = parser.parse_args().networks
    if folder is None:
        print(show(measure()))
        return
    torch.set_num_threads(1)
    print(show(learned(folder)))
    print(on_phantom())


if __name__ == "__main__":
    main()
