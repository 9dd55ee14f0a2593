"""Water removal against hlsvdpropy: error and time, on simulated lines and on the phantom.

``python tests/benchmarks/bench_water.py [voxels]`` prints a row for every scan and level of water
(5, 25 and 125 times the tallest metabolite peak): the error of what was removed (against the true
water, in the noise's energy per bin) of hlsvdpropy, of ours, and their ratio with its bootstrap SD,
in 4.2-5.1 ppm and in 0.2-4.2 ppm; CPU milliseconds a voxel on one thread, medians of interleaved
runs, and the speed-up. hlsvdpropy gets 25 singular values and the same band. ``casorati`` works on
the phantom only, where voxels share their water; ``alone`` is the share of voxels that it gave to
HSVD, ``aligned`` a phantom whose true shifts were undone, as by a stage ``fpc`` in front.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.kernels import casorati
from mrsi_engine.kernels.hsvd import BandPlan, remove_band
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.phantom import PhantomSettings, make_phantom
from mrsi_engine.spectra.simulation import simulate_basis

Fids = NDArray[np.complexfloating]

LEVELS = (5, 25, 125)
AXES = tuple(
    Acquisition(points, dwell, frequency)
    for points, dwell, frequency in (
        (512, 1e-3, 123.23),
        (512, 0.8e-3, 123.23),
        (1024, 0.5e-3, 123.23),
        (1024, 0.25e-3, 123.23),
        (512, 0.36e-3, 297.2),
    )
)

# Position (ppm), amplitude, damping beyond the voxel's (1/s); offset (Hz), damping, share of water
_LINES = (
    *((2.01, 36, 0), (2.49, 6, 0), (2.67, 6, 0), (3.03, 27, 0), (3.93, 18, 0), (3.21, 18, 0)),
    *((3.52, 12, 0), (3.61, 12, 0), (4.06, 6, 0), (2.35, 18, 0), (3.75, 12, 0), (1.33, 3, 0)),
    *((0.9, 20, 40), (1.4, 20, 40), (2.05, 20, 50), (3.0, 10, 60), (3.9, 8, 80)),
)
_WATER = ((0, 15, 0.6), (-12, 25, 0.2), (9, 40, 0.15), (25, 60, 0.05))
_SNR = 40.0


@dataclass(frozen=True)
class Case:
    """``fids`` and the ``water`` in them, ``(voxel, time)``; ``sd`` of a channel of a sample."""

    axis: Acquisition
    fids: Fids
    water: Fids
    sd: NDArray[np.float64]

    @property
    def plan(self) -> BandPlan:
        half = 0.5 * self.axis.spectrometer_frequency
        return BandPlan.design(self.axis.points, self.axis.dwell_time, (-half, half))

    def errors(self, removed: Fids, low: float, high: float) -> NDArray[np.float64]:
        """Energy of each voxel's error in a range of ppm, in that of the noise."""
        bins = (self.axis.ppm > low) & (self.axis.ppm < high)
        spectra = self.axis.spectrum(removed - self.water)[:, bins]
        noise = 2 * self.axis.points * self.sd**2
        return (np.abs(spectra) ** 2 / noise).mean(1)


def lines_case(
    axis: Acquisition, level: float, voxels: int, seed: int, most_shift: float = 10.0
) -> Case:
    """Singlets, macromolecules and a water of four lines, shifted by up to ``most_shift`` Hz."""
    rng = np.random.default_rng(seed)
    b0 = rng.uniform(-most_shift, most_shift, (voxels, 1))
    damping = rng.uniform(8, 20, (voxels, 1))

    def line(hertz: NDArray[np.float64], rate: NDArray[np.float64]) -> Fids:
        return np.exp((2j * np.pi * hertz - rate) * axis.time)

    def peak(fids: Fids) -> NDArray[np.float64]:
        return np.abs(axis.spectrum(fids)).max(1, keepdims=True)

    metabolites = sum(
        height * rng.uniform(0.7, 1.3, (voxels, 1)) * line(axis.frequency_of(p) + b0, damping + d)
        for p, height, d in _LINES
    )
    phases = np.exp(1j * rng.uniform(-0.6, 0.6, (len(_WATER), voxels, 1)))
    water = sum(
        share * phase * line(offset + b0 + rng.normal(0, 2, (voxels, 1)), d + 0 * b0)
        for (offset, d, share), phase in zip(_WATER, phases, strict=True)
    )
    naa = peak(36 * line(axis.frequency_of(2.01) + b0, damping))
    water = water * level * naa / peak(water)
    sd = naa / _SNR / np.sqrt(axis.points)
    noise = rng.standard_normal(water.shape) + 1j * rng.standard_normal(water.shape)
    return Case(axis, (metabolites + water + sd * noise).astype(np.complex64), water, sd)


@cache
def _basis(axis: Acquisition) -> Basis:
    simulated = simulate_basis(
        "press", echo_time=0.03, spectrometer_frequency=axis.spectrometer_frequency
    )
    return simulated.matched_to(axis)


def phantom_case(level: float, seed: int, aligned: bool) -> Case:
    """The brain voxels of the phantom; its streams make the same scan without water."""
    axis = AXES[2]
    basis = _basis(axis)
    pair = [
        make_phantom(
            PhantomSettings((24, 24, 1), seed, _SNR, nuisance, residual_water=level), basis
        )
        for nuisance in ("water", "none")
    ]
    fids, dry = (phantom.fids[phantom.mask] for phantom in pair)
    shift = pair[0].truth["shift"][pair[0].mask][:, None] * aligned
    back = np.exp(-2j * np.pi * shift * axis.time)
    sd = np.full((len(fids), 1), pair[0].noise_sd)
    return Case(axis, (fids * back).astype(np.complex64), (fids - dry) * back, sd)


def ours(case: Case) -> Fids:
    return remove_band(torch.from_numpy(case.fids), case.plan).removed.numpy()


def shared(case: Case) -> casorati.CasoratiRemoval:
    fids, plan = torch.from_numpy(case.fids), case.plan
    noise = torch.from_numpy(case.sd[:, 0])
    subspace = casorati.finish(casorati.summarise(fids), noise_sd=float(noise.median()))
    state = casorati.band_of(subspace, plan)
    return casorati.remove(fids, state, plan, noise)


def _hlsvd(fid: Fids, case: Case, module: ModuleType, components: int) -> Fids:
    dwell = case.axis.dwell_time * 1e3
    _, _, frequency, damping, amplitude, phase = module.hlsvd(fid, components, dwell)
    hertz, rate = np.array(frequency) * 1e3, 1e3 / np.array(damping)
    inside = (hertz >= case.plan.band[0]) & (hertz <= case.plan.band[1])
    weights = np.array(amplitude) * np.exp(1j * np.deg2rad(phase))
    return weights[inside] @ np.exp((2j * np.pi * hertz + rate)[inside, None] * case.axis.time)


def load_oracle() -> ModuleType:
    """The module itself: the package's own ``__init__`` needs setuptools' late pkg_resources."""
    found = importlib.util.find_spec("hlsvdpropy")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("hlsvdpropy is not installed: install the dev extra")
    path = Path(found.submodule_search_locations[0]) / "hlsvd.py"
    spec = importlib.util.spec_from_file_location("hlsvdpropy_hlsvd", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def oracle(case: Case, module: ModuleType, components: int = 25) -> tuple[Fids, float]:
    """What hlsvdpropy removes, and its time (ms a voxel)."""
    removed, spent = [], []
    for fid in case.fids:
        start = time.process_time()
        removed.append(_hlsvd(fid, case, module, components))
        spent.append(time.process_time() - start)
    return np.stack(removed), float(np.median(spent)) * 1e3


def milliseconds(case: Case, method: Callable[[Case], object], rounds: int = 5) -> float:
    """CPU time a voxel of full batches."""
    repeats = -(-256 // len(case.fids))
    full = replace(case, fids=np.tile(case.fids, (repeats, 1)), sd=np.tile(case.sd, (repeats, 1)))
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        method(full)
        spent.append(time.process_time() - start)
    return float(np.median(spent)) / len(full.fids) * 1e3


def compared(case: Case, mine: Fids, theirs: Fids) -> str:
    """Errors of both and their ratio, in both ranges."""
    columns = []
    rng = np.random.default_rng(0)
    for low, high in ((4.2, 5.1), (0.2, 4.2)):
        a, b = case.errors(mine, low, high), case.errors(theirs, low, high)
        drawn = rng.integers(0, len(a), (200, len(a)))
        scatter = (a[drawn].mean(1) / b[drawn].mean(1)).std()
        ratio = a.mean() / b.mean()
        columns.append(f"{b.mean():9.4f}{a.mean():9.4f}{ratio:7.2f} +-{scatter:5.2f}")
    return "".join(columns)


def show(title: str, case: Case, module: ModuleType, with_shared: bool = False) -> None:
    ours(case)
    early = milliseconds(case, ours)
    theirs, slow = oracle(case, module)
    fast = (early + milliseconds(case, ours)) / 2
    row = compared(case, ours(case), theirs)
    print(f"{title:<46}{row}{slow:9.1f}{fast:8.3f}{slow / fast:7.0f}", flush=True)
    if with_shared:
        found = shared(case)
        row = compared(case, found.removed.numpy(), theirs)
        spent = milliseconds(case, shared)
        alone = f"   alone {float(found.by_voxel.float().mean()):.0%}"
        print(
            f"{'  casorati':<46}{row}{slow:9.1f}{spent:8.3f}{slow / spent:7.0f}{alone}", flush=True
        )


def main(voxels: int) -> None:
    torch.set_num_threads(1)
    module = load_oracle()
    header = f"{'theirs':>9}{'ours':>9}{'ratio':>7}{'SD':>8}"
    print(f"{'':<46}{'4.2-5.1 ppm':>33}{'0.2-4.2 ppm':>33}{'ms a voxel':>17}")
    print(f"{'scan':<46}{header}{header}{'theirs':>9}{'ours':>8}{'gain':>7}")
    scans = [(axis, 10.0) for axis in AXES] + [(AXES[2], 0.0), (AXES[2], 25.0)]
    for axis, shift in scans:
        for level in LEVELS:
            size = f"{axis.points} x {axis.dwell_time * 1e3:g} ms, B0 +-{shift:g} Hz"
            case = lines_case(axis, level, voxels, 77 * level, shift)
            show(f"lines {size}, water {level}", case, module)
    for aligned in (False, True):
        for level in LEVELS:
            title = f"phantom{', aligned' * aligned}, water {level}"
            show(title, phantom_case(level, 23, aligned), module, with_shared=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
