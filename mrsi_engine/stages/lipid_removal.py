"""Pipeline step: remove the signal of subcutaneous lipids from every FID."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels import lipid
from mrsi_engine.kernels.hsvd import DEFAULT_COMPONENTS, BandPlan, remove_band
from mrsi_engine.nuclei import Nucleus, nucleus
from mrsi_engine.pipeline.ranges import (
    NoiseRange,
    OptionalStage,
    energy_between,
    hertz_between,
    one_fid_a_voxel,
)
from mrsi_engine.pipeline.settings import NucleusRange, setting
from mrsi_engine.pipeline.stage import Apply, Block, Context, State
from mrsi_engine.quantities import Declaration, quality
from mrsi_engine.stages.water_removal import check_rank, residual_and_change

#: Bins a decade, and range in decades, of histograms of energies over another energy.
_PER_DECADE, _LOWEST, _HIGHEST = 40, -8, 12

#: Metabolites are those of the median voxel; macromolecules are read where lipids hide them least.
_METABOLITE_SHARE, _MACROMOLECULE_SHARE = 0.5, 0.25

#: Energy of macromolecules over that of metabolites at most: beyond it every voxel has lipids.
_MOST_MACROMOLECULES = 0.25

#: Lipid over metabolite energy that no brain has, where even the median voxel holds lipids.
_SURELY_LIPID = 1.0

#: Noise never counts as less than this share of the signal: what single precision rounds.
_ROUNDING = 1e-6

LIPID_BEFORE = quality(
    "lipid_before",
    "1",
    "Signal energy in 0.3-1.8 ppm over that in 1.9-4.1 ppm before lipid removal",
    title="Lipid before",
    scale_with="lipid_after",
)
LIPID_AFTER = quality(
    "lipid_after",
    "1",
    "Signal energy in 0.3-1.8 ppm over that in 1.9-4.1 ppm after lipid removal",
    title="Lipid after",
)
LIPID_RESIDUAL = quality(
    "lipid_residual",
    "1",
    "Signal energy in 0.3-1.8 ppm after lipid removal over that before (noise, macromolecules and "
    "lactate included)",
    title="Lipid residual",
)
LIPID_METABOLITE_CHANGE = quality(
    "lipid_metabolite_change",
    "1",
    "Energy that lipid removal took from 1.9-4.1 ppm over what stayed there",
)


class LipidRemoval(OptionalStage, NoiseRange):
    """Take away the lipids that leak into the brain from the scalp."""

    stage: ClassVar[str] = "lipid_removal"
    revision: ClassVar[int | None] = 1
    of_nucleus: ClassVar[Mapping[str, Callable[[Nucleus], Any]]] = {
        **NoiseRange.of_nucleus,
        "band_ppm": lambda n: n.lipids_for("stage 'lipid_removal'").band,
    }
    processing_method: ClassVar[str] = "Nuisance peak removal"
    remedy: ClassVar[str] = "give --scalp MASK, set scalp = 'found' or method = 'hsvd'"

    method: Literal["l2", "hsvd"] = setting(
        "l2",
        "`l2`: projection with the time courses of scalp voxels and a penalty of each voxel's "
        "own; voxels without lipids above metabolites and noise are left as they are. `hsvd`: the "
        "damped exponentials in band_ppm, voxel by voxel; lactate, alanine and macromolecules "
        "there go with them.",
    )
    scalp: Literal["given", "found"] = setting(
        "given",
        "Where `l2` learns: from voxels given as scalp, or from those found by their lipids, "
        "lipid_ratio times as strong against 1.9-4.1 ppm as in the median voxel, or stronger than "
        "all there.",
    )
    lipid_ratio: float = setting(3.0, "How much stronger lipids make a voxel scalp.", gt=1)
    strength: float = setting(
        1.0, "Factor on the level of lipids `l2` finds in a voxel; 1 is the most likely one.", gt=0
    )
    rank: int | None = setting(
        None, "Lipid time courses of `l2`; those above metabolites and noise if not given.", ge=1
    )
    band_ppm: NucleusRange = setting(
        None, "Where lipids are, [low, high]; that of the nucleus if not given.", unit="ppm"
    )
    components: int = setting(DEFAULT_COMPONENTS, "Damped exponentials of `hsvd`.", ge=1, le=64)

    def lacks(self, context: Context) -> str:
        """Scalp voxels, where they are to be given."""
        if self.method == "l2" and self.scalp == "given" and not context.has_scalp:
            return "no voxel is marked as scalp"
        return ""

    def declare(self, context: Context) -> Declaration:
        """Measures: lipids before, after and their ratio, and the change of the metabolites."""
        if self.skipped(context):
            return Declaration()
        return Declaration(
            measures=(LIPID_BEFORE, LIPID_AFTER, LIPID_RESIDUAL, LIPID_METABOLITE_CHANGE)
        )

    def check(self, context: Context) -> Self:
        """This stage, once lipids are known to lie in the spectrum and where to learn them.

        Raises
        ------
        InputError
            If the nucleus has no lipids, there is no scalp to learn from, the band is outside the
            spectrum, the noise cannot be measured, the FIDs are too short for components or rank,
            or they still have coils or transients.
        """
        self.refuse_lacking(context)
        if not self.skipped(context):
            nucleus(context.acquisition.nucleus).lipids_for("stage 'lipid_removal'")
            one_fid_a_voxel(context, self.stage)
            check_rank(self.rank, context.acquisition.points, self.stage)
            band = self._band(context.acquisition)
            hertz_between(context.acquisition, band, f"stage {self.stage!r}: band_ppm")
            if self.method == "hsvd":
                self._plan(context.acquisition)
            else:
                self.quiet_bins(context.acquisition)
                _lines(context.acquisition, self._band(context.acquisition))
        return self

    def passes(self, context: Context) -> int:
        """One over the scalp's voxels, and one before it where they must be found."""
        if self.method == "hsvd" or self.skipped(context):
            return 0
        return 1 if self.scalp == "given" else 2

    def summarise(self, context: Context, block: Block, step: int) -> State:
        """The histogram of lipid strength, then the scalp's lipids and the brain's energies."""
        if step < self.passes(context) - 1:
            return {"histogram": _histogram(self._strength(block.fids, context.acquisition))}
        scalp = self._is_scalp(context, block)
        sums = lipid.summarise(
            block.fids[scalp], _lines(context.acquisition, self._band(context.acquisition))
        )
        voxels = torch.tensor([sums.voxels, len(scalp)], dtype=torch.float64, device=scalp.device)
        background = self._background(context, block.fids, ~scalp)
        return {"cross": sums.cross, "voxels": voxels, **background}

    def finish(self, context: Context, summary: State, step: int) -> State:
        """``threshold`` of lipid strength; then the fields of a :class:`lipid.LipidBasis`.

        Raises
        ------
        InputError
            If no voxel is scalp, or none of the scalp has lipids.
        """
        if step < self.passes(context) - 1:
            threshold = self.lipid_ratio * _quantile(summary["histogram"], 0.5)
            return {"threshold": threshold.clamp_max(_SURELY_LIPID)}
        scalp, voxels = (int(n) for n in summary["voxels"])
        if not scalp:
            raise InputError(
                f"stage {self.stage!r}: no voxel is scalp (scalp = {self.scalp!r}); give another "
                "mask, lower lipid_ratio, or leave the stage out"
            )
        plan = _lines(context.acquisition, self._band(context.acquisition))
        noise = math.sqrt(float(summary["variance"]) / voxels)
        metabolites, macromolecules = (
            2 * noise**2 * self._bins(context.acquisition)[name] * excess
            for name, excess in _excesses(summary).items()
        )
        most = _MOST_MACROMOLECULES * metabolites
        background = plan.background(noise, metabolites, min(macromolecules, most))
        sums = lipid.LipidSums(summary["cross"].cpu(), scalp)
        found = lipid.finish(sums, plan, background, self.rank)
        return {"patterns": found.patterns, "filters": found.filters, "gains": found.gains}

    def build(self, context: Context) -> Apply:
        """The lipid basis or the filter of the band, bound to the work on a block."""
        if self.skipped(context):
            return lambda block: None
        axis, measured = context.acquisition, _known(context.acquisition)
        plan = self._plan(axis) if self.method == "hsvd" else None

        def apply(block: Block) -> None:
            before = block.fids
            removed = (
                lipid.remove(before, _lipids(context.state), self.strength).removed
                if plan is None
                else remove_band(before, plan).removed
            )
            block.fids = before - removed
            residual, change = residual_and_change(before, removed, axis, measured)
            block.measures[LIPID_BEFORE.name] = _lipid_strength(before, axis, measured)
            block.measures[LIPID_AFTER.name] = _lipid_strength(block.fids, axis, measured)
            block.measures[LIPID_RESIDUAL.name] = residual
            block.measures[LIPID_METABOLITE_CHANGE.name] = change

        return apply

    def _is_scalp(self, context: Context, block: Block) -> Tensor:
        if self.scalp == "found":
            strength = self._strength(block.fids, context.acquisition)
            return strength > context.state["threshold"].to(strength)
        none = torch.zeros(len(block.fids), dtype=torch.bool, device=block.fids.device)
        return none if block.scalp is None else block.scalp

    def _background(self, context: Context, fids: Tensor, brain: Tensor) -> State:
        """Sum of the noise's variances, and histograms of the brain's energies over the noise's."""
        size = fids.abs().square().mean(1).sqrt()
        noise = torch.maximum(self.noise_of(fids, context), _ROUNDING * size).to(torch.float64)
        axis, bins = context.acquisition, self._bins(context.acquisition)
        over_noise = {
            name: energy_between(fids, axis, ppm) / (2 * bins[name] * noise.square())
            for name, ppm in self._ranges(axis).items()
        }
        histograms = {name: _histogram(e[brain]) for name, e in over_noise.items()}
        return {"variance": noise.square().sum(), **histograms}

    def _band(self, acquisition: Acquisition) -> tuple[float, float]:
        low, high = self.own("band_ppm", acquisition)
        return low, high

    def _strength(self, fids: Tensor, acquisition: Acquisition) -> Tensor:
        return _lipid_strength(fids, acquisition, self._band(acquisition))

    def _ranges(self, acquisition: Acquisition) -> dict[str, tuple[float, float]]:
        metabolites = nucleus(acquisition.nucleus).windows.metabolites
        return {"metabolites": metabolites, "macromolecules": self._band(acquisition)}

    def _bins(self, acquisition: Acquisition) -> dict[str, int]:
        """Number of points of the spectrum in each of the ranges."""
        axis = acquisition.ppm
        return {
            name: int(((axis >= low) & (axis <= high)).sum())
            for name, (low, high) in self._ranges(acquisition).items()
        }

    def _plan(self, acquisition: Acquisition) -> BandPlan:
        ppm = self._band(acquisition)
        band = hertz_between(acquisition, ppm, f"stage {self.stage!r}: band_ppm")
        return BandPlan.design(acquisition.points, acquisition.dwell_time, band, self.components)


@cache
def _lines(acquisition: Acquisition, band_ppm: tuple[float, float]) -> lipid.LipidPlan:
    """Made once, not for every block."""
    return lipid.LipidPlan.design(acquisition, band_ppm)


def _lipids(state: State) -> lipid.LipidBasis:
    return lipid.LipidBasis(state["patterns"], state["filters"], state["gains"])


def _lipid_strength(fids: Tensor, acquisition: Acquisition, ppm: tuple[float, float]) -> Tensor:
    """Energy of the lipids over that of the metabolites, ``(voxel,)``."""
    metabolites = energy_between(
        fids, acquisition, nucleus(acquisition.nucleus).windows.metabolites
    )
    return energy_between(fids, acquisition, ppm) / metabolites


def _known(acquisition: Acquisition) -> tuple[float, float]:
    """Where lipids are measured, whatever is removed."""
    return nucleus(acquisition.nucleus).lipids_for("stage 'lipid_removal'").band


def _excesses(summary: State) -> dict[str, float]:
    """Energies over the noise's, less the noise's own, of a typical voxel without lipids."""
    shares = {"metabolites": _METABOLITE_SHARE, "macromolecules": _MACROMOLECULE_SHARE}
    return {n: max(0.0, float(_quantile(summary[n], s)) - 1) for n, s in shares.items()}


def _histogram(values: Tensor) -> Tensor:
    """Counts of the logarithm of positive values, ``(bin,)`` float64: its size never grows."""
    bins = (_HIGHEST - _LOWEST) * _PER_DECADE
    place = ((values.to(torch.float64).log10() - _LOWEST) * _PER_DECADE).nan_to_num(0.0)
    number = place.clamp(0, bins - 1).to(torch.int64)
    return torch.bincount(number, minlength=bins).to(torch.float64)


def _quantile(histogram: Tensor, share: float) -> Tensor:
    """Value below which that share of the counts lies; the lowest if there are none."""
    at = int((histogram.cumsum(0) >= histogram.sum() * share).to(torch.uint8).argmax())
    return torch.tensor(math.pow(10.0, _LOWEST + (at + 0.5) / _PER_DECADE), dtype=torch.float64)
