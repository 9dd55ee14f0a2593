"""Pipeline step: remove the signal of subcutaneous lipids from every FID."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from mrsi_engine.conventions import Acquisition, Declaration, Quantity
from mrsi_engine.errors import InputError
from mrsi_engine.kernels import casorati, lipid
from mrsi_engine.kernels.hsvd import DEFAULT_COMPONENTS, BandPlan, remove_band
from mrsi_engine.stages.base import Apply, Block, Context, State
from mrsi_engine.stages.ranges import (
    METABOLITE_PPM,
    OptionalStage,
    PpmRange,
    energy_between,
    hertz_between,
    one_fid_a_voxel,
)
from mrsi_engine.stages.water_removal import check_rank, residual_and_change

#: Bins a decade, and range in decades, of the histogram that finds lipid voxels.
_PER_DECADE, _LOWEST, _HIGHEST = 40, -8, 12

LIPID_RESIDUAL = Quantity(
    "lipid_residual",
    "1",
    "Signal energy in 0.3-1.8 ppm after lipid removal over that before (noise, macromolecules and "
    "lactate included)",
    title="Lipid residual",
)
LIPID_METABOLITE_CHANGE = Quantity(
    "lipid_metabolite_change",
    "1",
    "Energy that lipid removal took from 1.9-4.1 ppm over what stayed there",
)


class LipidRemoval(OptionalStage):
    """Take away the lipids that leak into the brain from the scalp.

    Parameters
    ----------
    method
        ``"l2"``: L2-regularised projection with the time courses of scalp voxels,
        :mod:`mrsi_engine.kernels.lipid`. ``"hsvd"``: the damped exponentials in ``band_ppm``,
        voxel by voxel; lactate, alanine and macromolecules there go with them.
    scalp
        Where ``"l2"`` learns: from voxels ``"given"`` as scalp, or from those ``"found"`` by their
        lipids, ``lipid_ratio`` times as strong against 1.9-4.1 ppm as in the median voxel.
    strength
        Of the L2 penalty: a time course with a share p of the scalp's energy keeps
        ``1 / (1 + strength * p)``. A large one takes what metabolites share with lipids, too.
    rank
        Lipid time courses of ``"l2"``; those above the noise if not given.
    components
        Damped exponentials of ``"hsvd"``.
    optional
        Pass over scans without marked scalp voxels instead of refusing them.
    """

    stage: ClassVar[str] = "lipid_removal"

    method: Literal["l2", "hsvd"] = "l2"
    scalp: Literal["given", "found"] = "given"
    lipid_ratio: float = Field(default=10.0, gt=1)
    strength: float = Field(default=10.0, gt=0)
    rank: int | None = Field(default=None, ge=1)
    band_ppm: PpmRange = lipid.LIPID_PPM
    components: int = Field(default=DEFAULT_COMPONENTS, ge=1, le=64)

    def lacks(self, context: Context) -> str:
        """Scalp voxels, where they are to be given."""
        if self.method == "l2" and self.scalp == "given" and not context.has_scalp:
            return (
                "no voxel is marked as scalp: give --scalp MASK, set scalp = 'found' or "
                "method = 'hsvd'"
            )
        return ""

    def declare(self, context: Context) -> Declaration:
        """The measures ``lipid_residual`` and ``lipid_metabolite_change``."""
        if self.skipped(context):
            return Declaration()
        return Declaration(measures=(LIPID_RESIDUAL, LIPID_METABOLITE_CHANGE))

    def check(self, context: Context) -> Self:
        """This stage, once lipids are known to lie in the spectrum and where to learn them.

        Raises
        ------
        InputError
            If there is no scalp to learn from, the band is outside the spectrum, the FIDs are too
            short for components or rank, or they still have coils or transients.
        """
        self.refuse_lacking(context)
        if not self.skipped(context):
            one_fid_a_voxel(context, self.stage)
            check_rank(self.rank, context.acquisition.points, self.stage)
            hertz_between(context.acquisition, self.band_ppm, f"stage {self.stage!r}: band_ppm")
            if self.method == "hsvd":
                self._plan(context.acquisition)
        return self

    def passes(self, context: Context) -> int:
        """One over the scalp's voxels, and one before it where they must be found."""
        if self.method == "hsvd" or self.skipped(context):
            return 0
        return 1 if self.scalp == "given" else 2

    def summarise(self, context: Context, block: Block, step: int) -> State:
        """The histogram of lipid strength, then the Gram matrix of the scalp's voxels."""
        if step < self.passes(context) - 1:
            strength = self._lipid_strength(block.fids, context.acquisition)
            return {"histogram": _histogram(strength)}
        gram = casorati.summarise(block.fids[self._is_scalp(context, block)])
        return {"gram": gram.matrix, "voxels": torch.tensor(float(gram.voxels))}

    def finish(self, context: Context, summary: State, step: int) -> State:
        """``threshold`` of lipid strength; then ``basis (time, rank)`` and ``weights (rank,)``.

        Raises
        ------
        InputError
            If no voxel is scalp.
        """
        if step < self.passes(context) - 1:
            return {"threshold": self.lipid_ratio * _median(summary["histogram"])}
        if not summary["voxels"] > 0:
            raise InputError(
                f"stage {self.stage!r}: no voxel is scalp (scalp = {self.scalp!r}); give another "
                "mask, lower lipid_ratio, or leave the stage out"
            )
        gram = casorati.Gram(summary["gram"], int(summary["voxels"]))
        found = lipid.finish(gram, self.strength, self.rank)
        return {"basis": found.basis, "weights": found.weights}

    def build(self, context: Context) -> Apply:
        """The lipid basis or the filter of the band, bound to the work on a block."""
        if self.skipped(context):
            return lambda block: None
        axis = context.acquisition
        plan = self._plan(axis) if self.method == "hsvd" else None

        def apply(block: Block) -> None:
            removed = (
                lipid.remove(block.fids, _lipids(context.state))
                if plan is None
                else remove_band(block.fids, plan).removed
            )
            residual, change = residual_and_change(block.fids, removed, axis, lipid.LIPID_PPM)
            block.measures[LIPID_RESIDUAL.name] = residual
            block.measures[LIPID_METABOLITE_CHANGE.name] = change
            block.fids = block.fids - removed

        return apply

    def _is_scalp(self, context: Context, block: Block) -> Tensor:
        if self.scalp == "found":
            strength = self._lipid_strength(block.fids, context.acquisition)
            return strength > context.state["threshold"].to(strength)
        none = torch.zeros(len(block.fids), dtype=torch.bool, device=block.fids.device)
        return none if block.scalp is None else block.scalp

    def _lipid_strength(self, fids: Tensor, acquisition: Acquisition) -> Tensor:
        """Energy of the lipids over that of the metabolites, ``(voxel,)``."""
        lipids = energy_between(fids, acquisition, self.band_ppm)
        return lipids / energy_between(fids, acquisition, METABOLITE_PPM)

    def _plan(self, acquisition: Acquisition) -> BandPlan:
        band = hertz_between(acquisition, self.band_ppm, f"stage {self.stage!r}: band_ppm")
        return BandPlan.design(acquisition.points, acquisition.dwell_time, band, self.components)


def _lipids(state: State) -> lipid.LipidBasis:
    return lipid.LipidBasis(state["basis"], state["weights"])


def _histogram(values: Tensor) -> Tensor:
    """Counts of the logarithm of positive values, ``(bin,)`` float64: its size never grows."""
    bins = (_HIGHEST - _LOWEST) * _PER_DECADE
    place = ((values.to(torch.float64).log10() - _LOWEST) * _PER_DECADE).nan_to_num(0.0)
    number = place.clamp(0, bins - 1).to(torch.int64)
    return torch.bincount(number, minlength=bins).to(torch.float64)


def _median(histogram: Tensor) -> Tensor:
    """Value below which half of the counts lie."""
    half = int((histogram.cumsum(0) >= histogram.sum() / 2).to(torch.uint8).argmax())
    return torch.tensor(math.pow(10.0, _LOWEST + (half + 0.5) / _PER_DECADE), dtype=torch.float64)
