"""Bases and noisy spectra with known truth that several test files and benchmarks fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import scipy.io
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.nuclei import nucleus
from mrsi_engine.pipeline.stage import Block, Context, Stage
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.spectra.simulation import simulate_basis

SEED_SIMULATION = Path(__file__).resolve().parents[2] / "shared" / "data" / "seed_simulation"

#: A grey-matter spectrum, mmol/l; macromolecules in protons.
GREY_MATTER = {
    "Ala": 0.4, "Asc": 1.2, "Asp": 2.5, "Cr": 4.5, "GABA": 1.3, "GPC": 1.0, "GSH": 1.4,
    "Glc": 1.0, "Gln": 3.5, "Glu": 10.0, "Gly": 0.7, "Ins": 5.5, "Lac": 0.8, "NAA": 9.0,
    "NAAG": 1.0, "PCh": 0.6, "PCr": 3.5, "PE": 1.5, "Tau": 1.4, "sIns": 0.35, "MM": 8.0,
}  # fmt: skip

#: The middles of the amplitude ranges of the thesis' simulation (paper 5).
THESIS = {
    "Ala": 0.8, "Asp": 1.5, "Cr": 7.5, "GABA": 1.5, "GPC": 1.25, "GSH": 2.25, "Glc": 1.5,
    "Gln": 4.5, "Glu": 9.25, "Gly": 0.7, "Ins": 5.95, "Lac": 0.6, "NAA": 12.25, "NAAG": 1.5,
    "PCh": 1.25, "PCr": 4.25, "PE": 1.5, "Tau": 4.0, "sIns": 0.45, "MM": 15.5,
}  # fmt: skip


@dataclass(frozen=True)
class Lineshape:
    """Non-linear truth of a spectrum; the ``_mm`` ones are of the macromolecules' own group."""

    phase: float = 0.4
    shift: float = 2.7
    lorentzian: float = 9.0
    gaussian: float = 0.0
    shift_mm: float = 0.0
    lorentzian_mm: float | None = None
    gaussian_mm: float | None = None

    def of(self, macromolecule: bool) -> tuple[float, float, float]:
        """Shift, Lorentzian and Gaussian damping of a column."""
        if not macromolecule:
            return self.shift, self.lorentzian, self.gaussian
        lorentzian = self.lorentzian if self.lorentzian_mm is None else self.lorentzian_mm
        gaussian = self.gaussian if self.gaussian_mm is None else self.gaussian_mm
        return self.shift + self.shift_mm, lorentzian, gaussian


@cache
def press_basis(points: int = 1024, dwell_time: float = 0.25e-3) -> Basis:
    """Our PRESS TE 30 ms basis at 3 T, 20 metabolites and the macromolecule pattern."""
    axis = {"spectrometer_frequency": 123.25, "points": points, "dwell_time": dwell_time}
    return with_macromolecules(simulate_basis("press", echo_time=0.03, **axis), "pattern")


@cache
def thesis_basis(points: int = 2048) -> Basis:
    """The basis of the thesis' simulation (ISMRM 2016 challenge) with its macromolecules."""
    data = scipy.io.loadmat(SEED_SIMULATION / "basisset.mat")["data"]
    pattern = scipy.io.loadmat(SEED_SIMULATION / "mm.mat")
    macromolecules = next(v for k, v in pattern.items() if not k.startswith("_")).reshape(-1)
    names = (*(n for n in THESIS if n != "MM"), "MM")
    fids = np.vstack([data.T, macromolecules[None]]).astype(complex)[:, :points]
    return Basis(names, fids, Acquisition(points, 0.25e-3, 123.23), "press", "seed_simulation")


def clean_fid(basis: Basis, amplitudes: Mapping[str, float], truth: Lineshape) -> np.ndarray:
    """The noise-free FID ``(time,)`` of the model, computed column by column."""
    time = basis.acquisition.time
    total = np.zeros(len(time), complex)
    for name in basis.names:
        shift, lorentzian, gaussian = truth.of(name in basis.macromolecules)
        shape = np.exp(2j * np.pi * shift * time - lorentzian * time - (gaussian * time) ** 2)
        total += amplitudes.get(name, 0.0) * basis[name] * shape
    return total * np.exp(1j * truth.phase)


def noise(rng: np.random.Generator, voxels: int, points: int, sd: float) -> np.ndarray:
    """White complex noise ``(voxel, time)`` of ``sd`` per real channel."""
    return sd * (rng.standard_normal((voxels, points)) + 1j * rng.standard_normal((voxels, points)))


def sd_for_snr(basis: Basis, fid: np.ndarray, snr: float) -> float:
    """SD per channel at which the tallest point of 1.8 to 4.2 ppm is ``snr`` times the noise."""
    ppm = basis.acquisition.ppm
    spectrum = np.abs(basis.acquisition.spectrum(fid)) / np.sqrt(basis.acquisition.points)
    return float(spectrum[(ppm > 1.8) & (ppm < 4.2)].max() / snr)


@dataclass(frozen=True)
class Outcome:
    """What many noisy fits made of one metabolite whose amplitude is known."""

    name: str
    truth: float
    draws: int
    mean: float
    sd: float
    crlb: float

    @property
    def relative_crlb(self) -> float:
        """Cramér-Rao bound as a share of the truth."""
        return self.crlb / abs(self.truth)

    @property
    def efficiency(self) -> float:
        """SD of the estimates over the bound, 1 for an efficient estimator."""
        return self.sd / self.crlb

    @property
    def bias(self) -> float:
        """Mean error in its own standard errors."""
        return (self.mean - self.truth) / (self.sd / np.sqrt(self.draws))


def monte_carlo(
    stage: Stage,
    basis: Basis,
    amplitudes: Mapping[str, float],
    truth: Lineshape,
    snr: float,
    draws: int,
    seed: int = 0,
) -> list[Outcome]:
    """Fits of one spectrum under many draws of noise, metabolite by metabolite."""
    fid = clean_fid(basis, amplitudes, truth)
    white = noise(np.random.default_rng(seed), draws, len(fid), sd_for_snr(basis, fid, snr))
    block = run_stage(stage, basis, fid + white)
    sums = {c.label: c.members for c in nucleus("1H").sums}
    outcomes = []
    for name in block.estimate:
        members = sums.get(name, (name,))
        if not set(members) <= set(amplitudes):
            continue
        estimates, bounds = block.estimate[name].numpy(), block.sd[name].numpy()
        outcomes.append(
            Outcome(
                name,
                sum(amplitudes[m] for m in members),
                draws,
                float(estimates.mean()),
                float(estimates.std(ddof=1)),
                float(np.sqrt(np.square(bounds).mean())),
            )
        )
    return outcomes


def run_stage(
    stage: Stage,
    basis: Basis,
    fids: np.ndarray,
    keep_signals: bool = False,
    noise_sd: float | None = None,
) -> Block:
    """The block that a stage makes of FIDs ``(voxel, time)``, whose noise may be known."""
    block = Block(torch.from_numpy(fids.astype(np.complex64)), keep_signals=keep_signals)
    if noise_sd is not None:
        block.noise_sd = torch.full((len(fids),), noise_sd)
    stage.build(Context(basis.acquisition, basis))(block)
    return block
