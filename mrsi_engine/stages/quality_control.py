"""Pipeline step: which voxels to trust, by thresholds, and why not the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mrsi_engine.conventions import Flag, Status
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.noise import MAD_TO_SD
from mrsi_engine.nuclei import Nucleus, nucleus
from mrsi_engine.pipeline.ranges import NucleusDefaults, energy_between
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Block, Context, State
from mrsi_engine.quantities import AMPLITUDES, Declaration, quality

#: Fewest good voxels that say what is usual in a scan.
_FEWEST = 20

#: Residual in units of the noise that noise alone may leave: both are known to some percent.
_NOISE_ALONE = 1.25

#: Where the basis has the scan's own linewidth, noise leaves half of the voxels without damping. By
#: so many SDs of that number more, lines are narrower than those of the basis.
_BEYOND_CHANCE = 4.0

LIPID_RATIO = quality(
    "lipid_ratio",
    "1",
    "root of the energy of the corrected spectrum in 0.9-1.6 ppm over that in 1.85-2.15 ppm",
    "Lipid ratio",
)


class QualityControl(NucleusDefaults):
    """Flag voxels that are not to be trusted; nothing is taken out.

    SNR and linewidth are those of the experts' consensus (Kreis et al., NMR Biomed
    2021;34:e4347: peak height over the SD of the noise; Wilson et al., Magn Reson Med
    2019;82:527: at most 0.1 ppm for a usable spectrum).
    """

    stage: ClassVar[str] = "quality_control"
    revision: ClassVar[int | None] = 1
    of_nucleus: ClassVar[Mapping[str, Callable[[Nucleus], Any]]] = {
        "max_fwhm_ppm": lambda n: n.lines.max_fwhm,
        "outliers": lambda n: n.outliers,
    }

    min_snr: float = setting(4.0, "Least SNR.", ge=0)
    max_fwhm_ppm: float | None = setting(
        None,
        "Largest full width at half height; that of the nucleus if not given.",
        unit="ppm",
        gt=0,
    )
    max_crlb_percent: float = setting(
        20.0,
        "Relative CRLB up to which an estimate counts in the coverage of its metabolite; no flag.",
        unit="%",
        gt=0,
    )
    max_misfit: float = setting(
        0.03,
        "Largest SD of what the residual holds beyond noise, over the height of the reference "
        "peak. In units of the noise alone a residual counts for more the better a spectrum is.",
        gt=0,
    )
    max_relative_residual: float = setting(
        0.3,
        "Where the noise is unknown, the largest root of the residual's share of the energy.",
        gt=0,
    )
    max_fit_quality: float | None = setting(
        None, "Largest residual in units of the noise, if one is wanted beside.", gt=0
    )
    max_lipid_ratio: float = setting(
        3.0, "Largest lipid over NAA signal, for nuclei whose spectra have both.", gt=0
    )
    outliers: tuple[str, ...] | None = setting(
        None,
        "Sums of metabolites that a voxel is compared by; those of the nucleus if not given.",
    )
    max_deviations: float = setting(
        5.0,
        "Such a sum farther than so many SDs from the scan's median is an outlier: "
        "unlike the rest, as a failed fit is, but also a lesion. So this flag asks to look, it "
        "rejects nothing. The SD is that of the scan's good voxels (from the median absolute "
        "deviation) with the voxel's own error; fewer than 20 good voxels have no median to "
        "compare with.",
        unit="SD",
        gt=0,
    )

    def check(self, context: Context) -> Self:
        """This stage, once it is known that voxels are quantified before it.

        Raises
        ------
        InputError
            If no stage before it writes amplitudes.
        """
        if not any(q.role in AMPLITUDES for q in context.written):
            raise InputError(
                "stage 'quality_control' judges fits: put a stage that quantifies before it"
            )
        return self

    def declare(self, context: Context) -> Declaration:
        """The lipid ratio where there are lipids; everything else is in the flags."""
        lipids = nucleus(context.acquisition.nucleus).lipids
        return Declaration(measures=() if lipids is None else (LIPID_RATIO,))

    def build(self, context: Context) -> Apply:
        """The thresholds, bound to the axis of the scan."""
        acquisition = context.acquisition
        lipids = nucleus(acquisition.nucleus).lipids
        stated = self.resolved(acquisition)

        def apply(block: Block) -> None:
            if lipids is not None:
                lipid, naa = (
                    energy_between(block.fids, acquisition, p)
                    for p in (lipids.ratio, lipids.ratio_to)
                )
                block.measures[LIPID_RATIO.name] = (lipid / naa).sqrt()
            unknown_noise = (block.flags & int(Flag.UNKNOWN_NOISE)) != 0
            for flag, rejected in stated._rejected(block.measures, unknown_noise).items():
                block.flags[rejected] |= int(flag)

        return apply

    def review(self, found: State) -> Tensor | None:
        """Voxels in which a sum of metabolites lies far from the rest of the scan, or, where the
        whole scan is so, whose lines are narrower than those of the basis can be.

        Of a stage that is :meth:`resolved`, as those of a run are: only then are sums named.
        """
        outlier = torch.zeros_like(found["flags"], dtype=torch.bool)
        fitted = (found["status"] != Status.NO_FIT) & (found["status"] != Status.CORRECTED)
        if (narrow := _narrower(found, fitted)) is not None:
            return narrow.to(torch.int32) * int(Flag.POOR_FIT)
        good = fitted & ((found["flags"] & ~int(Flag.OUTLIER)) == 0)
        if good.sum() < _FEWEST:
            return None
        for name in self.outliers or ():
            if name in found:
                outlier |= self._far(found[name], found[f"{name}_sd"], good)
        return outlier.to(torch.int32) * int(Flag.OUTLIER)

    def _rejected(self, measures: State, unknown_noise: Tensor) -> dict[Flag, Tensor]:
        """Voxels ``(voxel,)`` bool by reason; what cannot be measured is not good.

        But where the noise is unknown, which is a reason of its own, there is no SNR to be low.
        """
        assert self.max_fwhm_ppm is not None
        rejected = {
            Flag.LOW_SNR: ~(measures["snr"] >= self.min_snr) & ~unknown_noise,
            Flag.BROAD_LINES: ~(measures["fwhm"] <= self.max_fwhm_ppm),
            Flag.POOR_FIT: self._poor(measures, unknown_noise),
            Flag.NOT_CONVERGED: measures["converged"] != 1,
        }
        if LIPID_RATIO.name in measures:
            rejected[Flag.LIPIDS] = ~(measures[LIPID_RATIO.name] <= self.max_lipid_ratio)
        return rejected

    def _poor(self, measures: State, unknown_noise: Tensor) -> Tensor:
        """Voxels whose residual is more than noise and a misfit that may be, ``(voxel,)`` bool."""
        quality, height = measures["fit_quality"], measures["snr"].nan_to_num(0.0).clamp_min(0.0)
        most = torch.hypot(torch.full_like(height, _NOISE_ALONE), self.max_misfit * height)
        if self.max_fit_quality is not None:
            most = most.clamp_max(self.max_fit_quality)
        close = measures["relative_residual"] <= self.max_relative_residual
        return ~torch.where(unknown_noise, close, quality <= most)

    def _far(self, estimate: Tensor, sd: Tensor, good: Tensor) -> Tensor:
        centre = estimate[good].nanmedian()
        distance = (estimate - centre).abs()
        usual = MAD_TO_SD * distance[good].nanmedian()
        return distance > self.max_deviations * torch.hypot(usual, sd)


def _narrower(found: State, fitted: Tensor) -> Tensor | None:
    """Voxels without damping beyond the basis' own, if they are nearly all of a scan."""
    if "lorentzian" not in found:
        return None
    damping = found["lorentzian"] + found.get("gaussian", torch.zeros_like(found["lorentzian"]))
    seen = fitted & ((found["flags"] & int(Flag.LOW_SNR)) == 0)
    narrow = seen & (damping <= 0)
    count = int(seen.sum())
    chance = count / 2 + _BEYOND_CHANCE * math.sqrt(count) / 2
    return narrow if count >= _FEWEST and narrow.sum() > chance else None
