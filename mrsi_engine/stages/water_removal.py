"""Pipeline step: remove residual water from every FID."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels import casorati
from mrsi_engine.kernels.hsvd import DEFAULT_COMPONENTS, BandPlan, remove_band
from mrsi_engine.nuclei import Nucleus, nucleus
from mrsi_engine.pipeline.ranges import (
    NoiseRange,
    energy_between,
    hertz_between,
    one_fid_a_voxel,
)
from mrsi_engine.pipeline.settings import NucleusRange, setting
from mrsi_engine.pipeline.stage import Apply, Block, Context, State
from mrsi_engine.quantities import Declaration, quality

WATER_RESIDUAL = quality(
    "water_residual",
    "1",
    "Signal energy in 4.2-5.1 ppm after water removal over that before; what is left "
    "holds noise, and macromolecules and metabolites near water",
    title="Water residual",
)
METABOLITE_CHANGE = quality(
    "metabolite_change",
    "1",
    "Energy that water removal took from 1.9-4.1 ppm (tails of water, and metabolites if it went "
    "wrong) over what stayed there",
    title="Metabolite change",
)
WATER_BY_VOXEL = quality(
    "water_by_voxel",
    "1",
    "1 where the water shared by the scan left too much and HSVD of the voxel itself was used",
    title="Water by voxel",
)


class WaterRemoval(NoiseRange):
    """Model the signal around water as damped exponentials and subtract it."""

    stage: ClassVar[str] = "water_removal"
    revision: ClassVar[int | None] = 1
    of_nucleus: ClassVar[Mapping[str, Callable[[Nucleus], Any]]] = {
        **NoiseRange.of_nucleus,
        "band_ppm": lambda n: n.water_for("stage 'water_removal'").band,
    }
    processing_method: ClassVar[str] = "Nuisance peak removal"

    method: Literal["hsvd", "casorati"] = setting(
        "hsvd",
        "`hsvd`: voxel by voxel. `casorati`: in the few time courses that all voxels share, and "
        "voxel by voxel where that leaves too much.",
    )
    band_ppm: NucleusRange = setting(
        None,
        "What is removed, [low, high]; the surroundings of the nucleus' water if not given.",
        unit="ppm",
    )
    components: int = setting(
        DEFAULT_COMPONENTS, "Damped exponentials modelled in and around the band.", ge=1, le=64
    )
    rank: int | None = setting(
        None, "Shared time courses of `casorati`; found from the noise if not given.", ge=1
    )
    most_residual: float = setting(
        casorati.DEFAULT_RESIDUAL,
        "Roughness in the band over the noise's (1 = noise only) above which `casorati` does a "
        "voxel alone.",
        gt=0,
    )

    def declare(self, context: Context) -> Declaration:
        """The measures ``water_residual`` and ``metabolite_change``; where a voxel went alone."""
        measures = (WATER_RESIDUAL, METABOLITE_CHANGE)
        shared = (WATER_BY_VOXEL,) if self.method == "casorati" else ()
        return Declaration(measures=measures + shared)

    def check(self, context: Context) -> Self:
        """This stage, once its band is known to lie in the scan's spectrum.

        Raises
        ------
        InputError
            If the nucleus has no water beside its metabolites, the band is outside the spectrum,
            the FIDs are too short for the components or the rank, or they still have coils or
            transients.
        """
        nucleus(context.acquisition.nucleus).water_for("stage 'water_removal'")
        one_fid_a_voxel(context, self.stage)
        self._plan(context.acquisition)
        if self.method == "casorati":
            self.quiet_bins(context.acquisition)
            remedy = 'use method = "hsvd", or import fewer --points'
            casorati.refuse_large("stage 'water_removal'", 1, context.acquisition.points, remedy)
        check_rank(self.rank, context.acquisition.points, self.stage)
        return self

    def passes(self, context: Context) -> int:
        """One, for the time courses that voxels share."""
        return 1 if self.method == "casorati" else 0

    def summarise(self, context: Context, block: Block, step: int) -> State:
        """The block's Gram matrix and the energy of its noise."""
        return gram_with_noise(block.fids, self.noise_of(block.fids, context))

    def finish(self, context: Context, summary: State, step: int) -> State:
        """``basis`` and ``in_band (time, rank)``: the shared time courses and their water."""
        gram, noise = read_gram_with_noise(summary)
        subspace = casorati.finish(gram, self.rank, noise)
        found = casorati.band_of(subspace, self._plan(context.acquisition))
        return {"basis": found.basis, "in_band": found.in_band}

    def build(self, context: Context) -> Apply:
        """The filter of the band and the shared time courses, bound to the work on a block."""
        axis, plan = context.acquisition, self._plan(context.acquisition)
        measured = nucleus(axis.nucleus).water_for("stage 'water_removal'").residual

        def alone(block: Block) -> Tensor:
            return remove_band(block.fids, plan).removed

        def shared(block: Block) -> Tensor:
            state = casorati.BandSubspace(context.state["basis"], context.state["in_band"])
            noise = self.noise_of(block.fids, context)
            found = casorati.remove(block.fids, state, plan, noise, self.most_residual)
            block.measures[WATER_BY_VOXEL.name] = found.by_voxel.float()
            return found.removed

        find = shared if self.method == "casorati" else alone

        def apply(block: Block) -> None:
            removed = find(block)
            cleaned = block.fids - removed
            residual, change = residual_and_change(block.fids, removed, axis, measured)
            block.measures[WATER_RESIDUAL.name] = residual
            block.measures[METABOLITE_CHANGE.name] = change
            block.fids = cleaned

        return apply

    def _plan(self, acquisition: Acquisition) -> BandPlan:
        ppm = self.own("band_ppm", acquisition)
        band = hertz_between(acquisition, ppm, f"stage {self.stage!r}: band_ppm")
        return BandPlan.design(acquisition.points, acquisition.dwell_time, band, self.components)


def check_rank(rank: int | None, points: int, stage: str) -> None:
    """Refuse more time courses than a FID has points; those beyond the voxels show up later.

    Raises
    ------
    InputError
        If the rank is too large.
    """
    if rank is not None and rank > points:
        raise InputError(
            f"stage {stage!r}: rank = {rank}, but FIDs of {points} points have at most {points} "
            "time courses; ask for fewer, or leave rank out to have it found"
        )


def residual_and_change(
    before: Tensor, removed: Tensor, acquisition: Acquisition, residual_ppm: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """What is left of the energy in a range, and what went from the metabolites over what stayed.

    ``(voxel,)`` each, NaN where there was nothing; ``before`` and ``removed`` ``(voxel, time)``.
    """
    after, metabolites = before - removed, nucleus(acquisition.nucleus).windows.metabolites
    left = energy_between(after, acquisition, residual_ppm)
    residual = left / energy_between(before, acquisition, residual_ppm)
    taken = energy_between(removed, acquisition, metabolites)
    return residual, taken / energy_between(after, acquisition, metabolites)


def gram_with_noise(fids: Tensor, noise_sd: Tensor) -> State:
    """What a block adds to the scan's Casorati matrix, and to its mean noise."""
    gram = casorati.summarise(fids)
    # On the device of the block: summaries of several are added where they are.
    voxels = torch.tensor(float(gram.voxels), dtype=torch.float64, device=fids.device)
    variance = noise_sd.to(torch.float64).square().sum()
    return {"gram": gram.matrix, "voxels": voxels, "variance": variance}


def read_gram_with_noise(summary: State) -> tuple[casorati.Gram, float]:
    """The Gram matrix of all blocks and the root mean square of their noise SDs."""
    voxels = int(summary["voxels"])
    noise = float((summary["variance"] / max(voxels, 1)).sqrt())
    return casorati.Gram(summary["gram"], voxels), noise
