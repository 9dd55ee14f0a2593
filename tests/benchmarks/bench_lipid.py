"""Lipid removal on the phantom with a scalp rim: error in the metabolite band, rim to centre.

``python tests/benchmarks/bench_lipid.py [seeds]`` prints, for pure scalp at 20 and 100 times the
NAA peak, the error of brain voxels against the same scan without lipids in 1.9-4.1 ppm, in the
noise's energy per bin: mean (and median) of all, of the outermost voxel, of the next two, and of
the centre. Then the change of a scan whose brain has no lipids, and CPU ms a voxel on one thread.
``l2 given`` learns from marked scalp, ``l2 found`` from the scan with its scalp unmarked, ``l2
brain`` from the brain alone, which a mask without scalp leaves.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mrsi_engine.conventions import Acquisition
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.spectra.phantom import PhantomSettings, make_phantom
from mrsi_engine.spectra.simulation import simulate_basis
from mrsi_engine.stages.lipid_removal import LipidRemoval
from tests.stages.passes import Scan, run

AXIS = Acquisition(1024, 0.5e-3, 123.23)
LEVELS = (20.0, 100.0)
SNR = 40.0

#: Distance to the outside of the brain in voxels: first, second and third, further in.
ZONES = ((1.0, 1.5), (1.5, 3.2), (3.2, np.inf))

METHODS = {
    "hsvd": LipidRemoval(method="hsvd"),
    "l2 given": LipidRemoval(),
    "l2 found": LipidRemoval(scalp="found"),
    "l2 brain": LipidRemoval(scalp="found"),
}


@dataclass(frozen=True)
class Case:
    """Brain and scalp voxels ``fids``, the same ``clean``, and how deep in the brain they lie."""

    fids: NDArray[np.complex64]
    clean: NDArray[np.complex64]
    depth: NDArray[np.float64]
    noise_sd: float

    @property
    def scalp(self) -> NDArray[np.bool_]:
        return self.depth == 0

    def without_leak(self) -> Case:
        """The brain free of lipids beside the same scalp."""
        fids = np.where(self.scalp[:, None], self.fids, self.clean)
        return Case(fids, self.clean, self.depth, self.noise_sd)

    def errors(self, fids: NDArray[np.complex64]) -> NDArray[np.float64]:
        """Of brain voxels, ``(voxel,)``."""
        bins = (AXIS.ppm > 1.9) & (AXIS.ppm < 4.1)
        spectra = AXIS.spectrum(fids - self.clean)[:, bins]
        return (np.abs(spectra) ** 2).mean(1) / (2 * AXIS.points * self.noise_sd**2)


@cache
def basis() -> Basis:
    simulated = simulate_basis(
        "press", echo_time=0.03, spectrometer_frequency=AXIS.spectrometer_frequency
    )
    return with_macromolecules(simulated.matched_to(AXIS), "lines")


def phantom_case(level: float, seed: int) -> Case:
    """One slice; scalp voxels are those around the brain with half the strongest signal."""
    fat, none = (
        make_phantom(PhantomSettings((24, 24, 1), seed, SNR, nuisance, lipid=level), basis())
        for nuisance in ("lipid", "none")
    )
    energy = np.abs(fat.fids[..., 0])
    outside = binary_dilation(fat.mask, iterations=3) & ~fat.mask
    kept = fat.mask | (outside & (energy > 0.5 * energy.max()))
    depth = distance_transform_edt(fat.mask)[kept]
    return Case(fat.fids[kept], none.fids[kept], depth, fat.noise_sd)


def cleaned(name: str, case: Case) -> tuple[NDArray[np.complex64], float]:
    """The scan after a method, and CPU ms a voxel."""
    used = ~case.scalp if name == "l2 brain" else np.ones(len(case.fids), dtype=bool)
    marked = torch.from_numpy(case.scalp[used])
    start = time.process_time()
    done = run(METHODS[name], Scan(AXIS, torch.from_numpy(case.fids[used]), scalp=marked))
    spent = (time.process_time() - start) / used.sum() * 1e3
    fids = case.fids.copy()
    fids[used] = done.fids.numpy()
    return fids, spent


def row(cases: list[Case], results: list[NDArray[np.complex64]]) -> str:
    """Mean (median) of all brain voxels, then of the zones."""
    depth = np.concatenate([case.depth for case in cases])
    errors = np.concatenate([c.errors(f) for c, f in zip(cases, results, strict=True)])
    chosen = [depth > 0, *((depth >= low) & (depth < high) for low, high in ZONES)]
    return "".join(f"{errors[c].mean():11.3f} ({np.median(errors[c]):8.4f})" for c in chosen)


def main(seeds: int) -> None:
    torch.set_num_threads(1)
    names = ("all", "rim", "2nd, 3rd", "centre")
    print(f"{'scan':<20}{'method':<10}" + "".join(f"{n:>22}" for n in names) + f"{'ms/voxel':>10}")
    for level in LEVELS:
        scans = [phantom_case(level, seed=23 + seed) for seed in range(seeds)]
        for title, cases in (
            (f"scalp {level:g}", scans),
            ("brain without", [c.without_leak() for c in scans]),
        ):
            print(f"{title:<20}{'before':<10}{row(cases, [c.fids for c in cases])}", flush=True)
            # Without leak the brain alone has nothing to learn from, and is refused.
            for name in METHODS if cases is scans else [n for n in METHODS if n != "l2 brain"]:
                done, spent = zip(*(cleaned(name, case) for case in cases), strict=True)
                print(
                    f"{'':<20}{name:<10}{row(cases, list(done))}{np.mean(spent):10.2f}", flush=True
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
