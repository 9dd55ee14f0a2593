"""Removal of subcutaneous lipid signal from MRSI.

The signal of the scalp leaks into the brain through the point-spread function, so the lipids of a
brain voxel are a combination ``B c`` of those of scalp voxels. An L2 penalty on ``c`` (Bilgic et
al., J Magn Reson Imaging 2014;40:181) finds it; but metabolites are not orthogonal to lipids, which
have a line at 2.0 ppm beside NAA, so that a penalty alone takes metabolites, and more of them the
less lipid there is. Here the voxel is modelled as both (the union of subspaces of Ma et al., Magn
Reson Med 2016;75:488, with covariances for subspaces):

    fid = B c + background,    c ~ N(0, level),    background ~ N(0, C)

with C that of damped lines at 1.9-4.2 ppm, of lactate, of macromolecules and of the noise. ``c`` is
then read where only lipids stand, and what ``B`` says about the rest of the spectrum follows from
it. The penalty is each voxel's own: ``level`` maximises the evidence (MacKay, Neural Comput
1992;4:415), and is 0 where the voxel looks as likely without lipids.

``B`` is the regression of scalp FIDs on their signal in the lipid band. Voxels at the rim hold
brain, too, whose phase goes with that of the lipids: the leading patterns of 2.6-4.1 ppm stand
beside in the regression, so that metabolites are put down to them (partial regression).

Learning is a reduction: :func:`summarise` says what a block adds, and its size depends on the
acquisition only. :func:`lipid_band` names the band for frequency-selective HSVD with
:func:`mrsi_engine.kernels.hsvd.remove_band`, which needs no scalp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus
from mrsi_engine.nuclei.nuclei import Lipids

#: Dampings (1/s) of lines of metabolites, macromolecules and lipids, and of singlets of the brain.
_METABOLITES, _MACROMOLECULES, _LIPIDS, _SINGLETS = (5, 60), (25, 150), (25, 200), (8, 30)

#: Lactate and alanine of a lesion, which are no lipids: their energy over other metabolites'.
_LACTATE_SHARE = 0.05

#: Singular values below this share of the largest add nothing to a span of lines.
_LIPID_TOLERANCE, _REACH_TOLERANCE, _BRAIN_TOLERANCE = 1e-2, 1e-3, 0.1

#: Patterns of brain that lipids are told from: one for its height and phase, one for a shift.
_BRAIN_PATTERNS = 2

#: Gain in log-likelihood from which lipids are believed: below 1e-5 of voxels without pass it, and
#: the background is but roughly normal.
_EVIDENCE = 10.0

#: Levels tried: steps a decade, and decades of a level's largest variance over the background's.
_STEPS, _DECADES = 20, (-2, 10)


@dataclass(frozen=True)
class LipidPlan:
    """What an acquisition shows of lipids and brain.

    ``bins`` of the unitary transform are the window in which FIDs are compared; ``lipids (bin,
    column)`` and ``brain (bin, column)`` complex128 are orthonormal spans of lines there. Made by
    :meth:`design`.
    """

    acquisition: Acquisition
    band_ppm: tuple[float, float]
    bins: Tensor
    lipids: Tensor
    brain: Tensor

    @classmethod
    def design(
        cls, acquisition: Acquisition, band_ppm: tuple[float, float] | None = None
    ) -> LipidPlan:
        """The plan for lipids in ``band_ppm``, which is that of the nucleus unless given.

        Raises
        ------
        InputError
            If the spectrum does not reach from the band to the metabolites at 4.2 ppm, or spectra
            of the nucleus have no lipids.
        """
        known = _known(acquisition)
        low, high = band_ppm = band_ppm or known.band
        bins = _window(acquisition, (low - 0.5, max(high, known.background[1]) + 0.1))
        lipids = _span(_lines(acquisition, bins, band_ppm, _LIPIDS), _LIPID_TOLERANCE)
        reach = _lines(acquisition, bins, (low, high + known.reach), _LIPIDS)
        reach = _span(reach, _REACH_TOLERANCE)
        brain = _lines(acquisition, bins, known.brain, _SINGLETS)
        brain = _span(brain - reach @ (reach.mH @ brain), _BRAIN_TOLERANCE)
        return cls(acquisition, band_ppm, bins, lipids, brain)

    def background(self, noise_sd: float, metabolites: float, macromolecules: float) -> Tensor:
        """Covariance ``(bin, bin)`` of what is no lipid; energies of a FID in the data's units."""
        known = _known(self.acquisition)
        parts = (
            (known.background, _METABOLITES, metabolites),
            (self.band_ppm, _MACROMOLECULES, macromolecules),
            (known.lactate, _METABOLITES, _LACTATE_SHARE * metabolites),
        )
        total = 2 * noise_sd**2 * torch.eye(len(self.bins), dtype=torch.complex128)
        for ppm, damping, energy in parts:
            lines = _lines(self.acquisition, self.bins, ppm, damping)
            total += lines @ lines.mH * (energy / lines.shape[1])
        return total


@dataclass(frozen=True)
class LipidSums:
    """What a block adds: products of FIDs and their scores, and the number of usable voxels.

    ``cross`` is ``(time, score)`` complex128, the sum of ``fid score^H`` over voxels; scores are
    the products with the plan's ``lipids``, then ``brain``.
    """

    cross: Tensor
    voxels: int


@dataclass(frozen=True)
class LipidBasis:
    """Lipid time courses ``patterns (time, rank)`` complex128, strongest first.

    ``filters^H fid`` is the size of each in a FID, with a variance of 1 from the background and of
    ``level * gains`` from lipids; ``filters`` is ``(time, rank)``, ``gains`` ``(rank,)`` float64.
    """

    patterns: Tensor
    filters: Tensor
    gains: Tensor


@dataclass(frozen=True)
class LipidRemoval:
    """``removed`` ``(voxel, time)`` complex64, and ``level`` ``(voxel,)`` float32.

    The level is the lipids' energy over that of the mean scalp voxel; 0 where there were none.
    """

    removed: Tensor
    level: Tensor


def summarise(fids: Tensor, plan: LipidPlan) -> LipidSums:
    """The sums of scalp FIDs ``(voxel, time)``; voxels with NaN, Inf or only zeros are left out."""
    usable = torch.isfinite(fids.abs()).all(1) & (fids != 0).any(1)
    kept = fids[usable].to(torch.complex128)
    features = torch.cat((plan.lipids, plan.brain), 1).to(fids.device)
    scores = _windowed(kept, plan.bins) @ features.conj()
    return LipidSums(kept.T @ scores.conj(), len(kept))


def finish(
    sums: LipidSums, plan: LipidPlan, background: Tensor, rank: int | None = None
) -> LipidBasis:
    """The lipid time courses of a scan.

    Parameters
    ----------
    sums
        Of all blocks.
    plan
        That of the sums.
    background
        From :meth:`LipidPlan.background`.
    rank
        Number of time courses; those above the background if not given.

    Raises
    ------
    InputError
        If no scalp voxel has a signal, none has lipids, or the rank is impossible.
    """
    most = min(sums.voxels, plan.lipids.shape[1])
    if most == 0:
        raise InputError("lipid removal: no voxel of the scalp mask has a signal; check the mask")
    if rank is not None and not 1 <= rank <= most:
        raise InputError(
            f"lipid removal: rank {rank} asked for, but {sums.voxels} scalp voxels allow 1 to "
            f"{most}; ask for fewer"
        )
    patterns = _patterns(sums, plan, background, rank)
    if not patterns.shape[1]:
        raise InputError(
            "lipid removal: the scalp voxels hold no lipids above metabolites and noise; check the "
            "scalp mask, or leave the stage out"
        )
    return _filters(patterns, plan, background)


def remove(fids: Tensor, lipids: LipidBasis, strength: float = 1.0) -> LipidRemoval:
    """The lipid part of each FID ``(voxel, time)``; 0 for voxels with NaN or Inf.

    Parameters
    ----------
    fids
        ``(voxel, time)`` complex.
    lipids
        From :func:`finish`.
    strength
        Factor on each voxel's level: above 1 more is taken than is likely, below 1 less.

    Raises
    ------
    InputError
        If ``strength`` is not positive and finite.
    """
    if not (math.isfinite(strength) and strength > 0):
        raise InputError(f"lipid removal: strength must be above 0 and finite, found {strength}")
    usable = torch.isfinite(fids.abs()).all(1, keepdim=True)
    safe = torch.where(usable, fids, 0).to(torch.complex128)
    patterns, filters, gains = (
        part.to(fids.device) for part in (lipids.patterns, lipids.filters, lipids.gains)
    )
    sizes = safe @ filters.conj()
    level = _level(sizes, gains)
    variance = strength * level[:, None] * gains
    removed = (sizes * (variance / (1 + variance))) @ patterns.T
    return LipidRemoval(removed.to(torch.complex64), level.float())


def lipid_band(acquisition: Acquisition) -> tuple[float, float]:
    """(low, high) in Hz of where lipids stand, for :meth:`BandPlan.design`."""
    low, high = sorted(float(f) for f in acquisition.frequency_of(_known(acquisition).band))
    return low, high


def _known(acquisition: Acquisition) -> Lipids:
    return nucleus(acquisition.nucleus).lipids_for("lipid removal")


def _patterns(sums: LipidSums, plan: LipidPlan, background: Tensor, rank: int | None) -> Tensor:
    """Time courses of lipids ``(time, rank)``, as large as in the mean scalp voxel."""
    across, gram = _without_brain(sums, plan)
    within = plan.lipids.mH @ background @ plan.lipids
    whiten = torch.linalg.inv(torch.linalg.cholesky(within))
    energies, vectors = torch.linalg.eigh(whiten @ gram @ whiten.mH)
    if rank is None:
        edge = (math.sqrt(sums.voxels) + math.sqrt(len(gram))) ** 2
        rank = int((energies > edge).sum())
    leading = slice(len(energies) - rank, None)
    energies, vectors = energies[leading].flip(0), vectors[:, leading].flip(1)
    # The background has its share in the energies, 1 a voxel.
    size = (energies - sums.voxels).clamp_min(0).sqrt() / energies / math.sqrt(sums.voxels)
    patterns = across @ (whiten.mH @ vectors) * size
    # The tail of NAA reaches into the band, and where NAA varies more than was thought it is found.
    seen = _windowed(patterns.T, plan.bins)
    inside = (seen @ plan.lipids.conj()).abs().square().sum(1)
    return patterns[:, inside > seen.abs().square().sum(1) / 2]


def _without_brain(sums: LipidSums, plan: LipidPlan) -> tuple[Tensor, Tensor]:
    """Products ``(time, lipid)`` and ``(lipid, lipid)``, less what goes with the brain's signal."""
    lipids = plan.lipids.shape[1]
    features = torch.cat((plan.lipids, plan.brain), 1)
    gram = features.mH @ _windowed(sums.cross.T, plan.bins).T
    number = min(_BRAIN_PATTERNS, sums.voxels // 4)
    _, vectors = torch.linalg.eigh(gram[lipids:, lipids:])
    leading = vectors[:, vectors.shape[1] - number :]
    among = leading.mH @ gram[lipids:, lipids:] @ leading
    toward = torch.linalg.solve(among, leading.mH @ gram[lipids:, :lipids])
    across = sums.cross[:, :lipids] - sums.cross[:, lipids:] @ leading @ toward
    return across, gram[:lipids, :lipids] - gram[:lipids, lipids:] @ leading @ toward


def _filters(patterns: Tensor, plan: LipidPlan, background: Tensor) -> LipidBasis:
    """Patterns turned so that the background makes their sizes independent, of variance 1."""
    seen = _windowed(patterns.T, plan.bins).T
    weighted = torch.cholesky_solve(seen, torch.linalg.cholesky(background))
    gains, vectors = torch.linalg.eigh(seen.mH @ weighted)
    kept = gains > 1e-12 * gains[-1]
    gains, vectors = gains[kept].flip(0), vectors[:, kept].flip(1)
    vectors = vectors / gains.sqrt()
    filters = torch.zeros_like(patterns[:, : len(gains)])
    filters[plan.bins] = weighted @ vectors
    return LipidBasis(patterns @ vectors, torch.fft.ifft(filters, dim=0, norm="ortho"), gains)


def _level(sizes: Tensor, gains: Tensor) -> Tensor:
    """Level of highest evidence, ``(voxel,)``; 0 where it is not :data:`_EVIDENCE` above none."""
    low, high = _DECADES
    tried = torch.logspace(low, high, (high - low) * _STEPS + 1, dtype=gains.dtype)
    levels = tried.to(gains.device) / gains[0]
    variance = 1 + levels[:, None] * gains
    gain = sizes.abs().square() @ (1 - 1 / variance).T - variance.log().sum(1)
    best, at = gain.max(1)
    return torch.where(best > _EVIDENCE, levels[at], 0.0)


def _windowed(fids: Tensor, bins: Tensor) -> Tensor:
    """Bins of the unitary transform of ``(voxel, time)``, ``(voxel, bin)``."""
    if not len(fids):
        return fids.new_zeros(0, len(bins))
    return torch.fft.fft(fids, norm="ortho")[:, bins.to(fids.device)]


def _window(acquisition: Acquisition, ppm: tuple[float, float]) -> Tensor:
    """Bins of the unshifted transform between two shifts, as far as the spectrum goes."""
    known = _known(acquisition)
    lowest, highest = known.band[0], known.background[1]
    if max(acquisition.ppm) < highest or min(acquisition.ppm) > lowest:
        raise InputError(
            f"lipid removal: the spectrum spans {min(acquisition.ppm):.1f} to "
            f"{max(acquisition.ppm):.1f} ppm and must hold {lowest} to {highest} "
            "ppm; use method = 'hsvd'"
        )
    axis = torch.fft.ifftshift(torch.tensor(acquisition.ppm))
    return ((axis >= ppm[0]) & (axis <= ppm[1])).nonzero().squeeze(1)


def _lines(
    acquisition: Acquisition, bins: Tensor, ppm: tuple[float, float], damping: tuple[float, float]
) -> Tensor:
    """Damped lines of energy 1 seen in the window, half a width or bin apart, ``(bin, line)``.

    A line's transform is a geometric sum.
    """
    low, high = sorted(float(f) for f in acquisition.frequency_of(ppm))
    step = max(damping[0] / math.pi, acquisition.spectral_width / acquisition.points) / 2
    hertz = torch.linspace(low, high, max(5, math.ceil((high - low) / step)), dtype=torch.float64)
    slowest, fastest = (math.log(d) for d in damping)
    rates = torch.linspace(slowest, fastest, 3, dtype=torch.float64).exp()
    rate = (2j * math.pi * hertz[:, None] - rates).flatten() * acquisition.dwell_time
    turn = 2j * math.pi * bins / acquisition.points
    spectra = (1 - torch.exp(acquisition.points * rate)) / (1 - torch.exp(rate - turn[:, None]))
    energy = torch.expm1(2 * acquisition.points * rate.real) / torch.expm1(2 * rate.real)
    return spectra / (acquisition.points * energy).sqrt()


def _span(columns: Tensor, tolerance: float) -> Tensor:
    """Orthonormal columns of the same span."""
    vectors, size, _ = torch.linalg.svd(columns, full_matrices=False)
    return vectors[:, size > tolerance * size[0]]
