"""Pipeline step: which voxels to trust, by thresholds, and why not the others."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from mrsi_engine.conventions import Flag, Status
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.ranges import energy_between
from mrsi_engine.pipeline.stage import Apply, Block, Context, Stage, State
from mrsi_engine.quantities import AMPLITUDES, Declaration, quality

#: Where lipids and where NAA are looked for, ppm; the first leaves out lactate's neighbour MM1.7.
_LIPID_PPM, _NAA_PPM = (0.9, 1.6), (1.85, 2.15)

#: Median absolute deviation of a normal distribution to its SD.
_MAD_TO_SD = 1.4826

#: Fewest good voxels that say what is usual in a scan.
_FEWEST = 20

#: Residual in units of the noise that noise alone may leave: both are known to some percent.
_NOISE_ALONE = 1.25

LIPID_RATIO = quality(
    "lipid_ratio",
    "1",
    "root of the energy of the corrected spectrum in 0.9-1.6 ppm over that in 1.85-2.15 ppm",
    "Lipid ratio",
)


class QualityControl(Stage):
    """Flag voxels that are not to be trusted; nothing is taken out.

    SNR and linewidth are those of the experts' consensus (Kreis et al., NMR Biomed
    2021;34:e4347: peak height over the SD of the noise; Wilson et al., Magn Reson Med
    2019;82:527: at most 0.1 ppm for a usable spectrum).

    Parameters
    ----------
    min_snr, max_fwhm_ppm
        Limits of SNR and of the full width at half height.
    max_crlb_percent
        Relative CRLB up to which an estimate counts in the coverage of its metabolite; no flag.
    max_misfit
        Largest SD of what the residual holds beyond noise, over the height of the reference peak.
        In units of the noise alone a residual counts for more the better a spectrum is.
    max_relative_residual
        The same where the noise is unknown, as the root of the residual's share of the energy.
    max_fit_quality
        Largest residual in units of the noise, if one is wanted beside.
    max_lipid_ratio
        Limit of lipid over NAA signal.
    max_deviations
        A sum of metabolites farther than so many SDs from the scan's median is an outlier: unlike
        the rest, as a failed fit is, but also a lesion. So this flag asks to look, it rejects
        nothing. The SD is that of the scan's good voxels (from the median absolute deviation)
        with the voxel's own error; fewer than 20 good voxels have no median to compare with.
    """

    stage: ClassVar[str] = "quality_control"

    min_snr: float = Field(default=4.0, ge=0)
    max_fwhm_ppm: float = Field(default=0.1, gt=0)
    max_crlb_percent: float = Field(default=20.0, gt=0)
    max_misfit: float = Field(default=0.03, gt=0)
    max_relative_residual: float = Field(default=0.3, gt=0)
    max_fit_quality: float | None = Field(default=None, gt=0)
    max_lipid_ratio: float = Field(default=3.0, gt=0)
    max_deviations: float = Field(default=5.0, gt=0)

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
        """The lipid ratio; everything else is in the flags."""
        return Declaration(measures=(LIPID_RATIO,))

    def build(self, context: Context) -> Apply:
        """The thresholds, bound to the axis of the scan."""
        acquisition = context.acquisition

        def apply(block: Block) -> None:
            lipid, naa = (
                energy_between(block.fids, acquisition, p) for p in (_LIPID_PPM, _NAA_PPM)
            )
            block.measures[LIPID_RATIO.name] = (lipid / naa).sqrt()
            unknown_noise = (block.flags & int(Flag.UNKNOWN_NOISE)) != 0
            for flag, rejected in self._rejected(block.measures, unknown_noise).items():
                block.flags[rejected] |= int(flag)

        return apply

    def review(self, found: State) -> Tensor | None:
        """Voxels in which a sum of metabolites lies far from the rest of the scan."""
        outlier = torch.zeros_like(found["flags"], dtype=torch.bool)
        fitted = (found["status"] != Status.NO_FIT) & (found["status"] != Status.CORRECTED)
        good = fitted & ((found["flags"] & ~int(Flag.OUTLIER)) == 0)
        if good.sum() < _FEWEST:
            return None
        for name in ("NAANAAG", "CrPCr", "GPCPCh"):
            if name in found:
                outlier |= self._far(found[name], found[f"{name}_sd"], good)
        return outlier.to(torch.int32) * int(Flag.OUTLIER)

    def _rejected(self, measures: State, unknown_noise: Tensor) -> dict[Flag, Tensor]:
        """Voxels ``(voxel,)`` bool by reason; what cannot be measured is not good.

        But where the noise is unknown, which is a reason of its own, there is no SNR to be low.
        """
        return {
            Flag.LOW_SNR: ~(measures["snr"] >= self.min_snr) & ~unknown_noise,
            Flag.BROAD_LINES: ~(measures["fwhm"] <= self.max_fwhm_ppm),
            Flag.POOR_FIT: self._poor(measures, unknown_noise),
            Flag.NOT_CONVERGED: measures["converged"] != 1,
            Flag.LIPIDS: ~(measures[LIPID_RATIO.name] <= self.max_lipid_ratio),
        }

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
        usual = _MAD_TO_SD * distance[good].nanmedian()
        return distance > self.max_deviations * torch.hypot(usual, sd)
