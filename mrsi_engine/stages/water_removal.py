"""Pipeline step: remove residual water from every FID."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from mrsi_engine.conventions import Acquisition, Declaration, Quantity
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.hsvd import DEFAULT_COMPONENTS, BandPlan, remove_band
from mrsi_engine.stages.base import Apply, Block, Context, Stage

#: Where residual water is measured, ppm.
RESIDUAL_PPM = (4.2, 5.1)

WATER_RESIDUAL = Quantity(
    "water_residual",
    "1",
    "Signal energy in 4.2-5.1 ppm after water removal over that before (noise included)",
    title="Water residual",
)


class WaterRemoval(Stage):
    """Model the signal around water as damped exponentials and subtract it.

    Parameters
    ----------
    method
        ``"hsvd"``: voxel by voxel, :mod:`mrsi_engine.kernels.hsvd`.
    band_ppm
        What is removed, (low, high) in ppm.
    components
        Damped exponentials modelled in and around the band.
    """

    stage: ClassVar[str] = "water_removal"

    method: Literal["hsvd"] = "hsvd"
    band_ppm: tuple[float, float] = (4.15, 5.15)
    components: int = Field(default=DEFAULT_COMPONENTS, ge=1, le=64)

    @field_validator("band_ppm")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError(f"band_ppm must be [low, high] with low < high, found {list(value)}")
        return value

    def declare(self, context: Context) -> Declaration:
        """The measure ``water_residual``."""
        return Declaration(measures=(WATER_RESIDUAL,))

    def check(self, context: Context) -> Self:
        """This stage, once its band is known to lie in the scan's spectrum.

        Raises
        ------
        InputError
            If the band is outside the spectrum or the FIDs are too short for the components.
        """
        low, high = sorted(context.acquisition.ppm_of(np.array([-0.5, 0.5]) * _width(context)))
        if self.band_ppm[0] < low or self.band_ppm[1] > high:
            raise InputError(
                f"water_removal: band_ppm {list(self.band_ppm)} lies outside the spectrum "
                f"({low:.2f} to {high:.2f} ppm); choose a band inside it or leave the stage out"
            )
        self._plan(context.acquisition)
        return self

    def build(self, context: Context) -> Apply:
        """The filter of the band, bound into the function that cleans a block."""
        plan = self._plan(context.acquisition)
        inside = torch.from_numpy(_residual_bins(context.acquisition)).to(context.device)

        def apply(block: Block) -> None:
            cleaned = block.fids - remove_band(block.fids, plan).removed
            block.measures[WATER_RESIDUAL.name] = _ratio(cleaned, block.fids, inside)
            block.fids = cleaned

        return apply

    def _plan(self, acquisition: Acquisition) -> BandPlan:
        first, second = acquisition.frequency_of(np.array(self.band_ppm))
        band = (float(min(first, second)), float(max(first, second)))
        return BandPlan.design(acquisition.points, acquisition.dwell_time, band, self.components)


def _width(context: Context) -> float:
    return context.acquisition.spectral_width


def _residual_bins(acquisition: Acquisition) -> np.ndarray:
    """Indices of an unshifted FFT that lie in :data:`RESIDUAL_PPM`."""
    ppm = np.fft.ifftshift(acquisition.ppm)
    return np.flatnonzero((ppm >= RESIDUAL_PPM[0]) & (ppm <= RESIDUAL_PPM[1]))


def _ratio(after: Tensor, before: Tensor, bins: Tensor) -> Tensor:
    """Energy in the bins after over before, ``(voxel,)``; NaN where there was none."""
    return _energy(after, bins) / _energy(before, bins)


def _energy(fids: Tensor, bins: Tensor) -> Tensor:
    return torch.fft.fft(fids, dim=1)[:, bins].abs().square().sum(1)
