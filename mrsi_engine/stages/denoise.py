"""Pipeline step: denoise a scan by low rank."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from mrsi_engine.errors import InputError
from mrsi_engine.kernels import denoise
from mrsi_engine.kernels.casorati import refuse_large
from mrsi_engine.pipeline.ranges import NoiseRange, one_fid_a_voxel
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Block, Context, State
from mrsi_engine.quantities import Declaration, quality
from mrsi_engine.stages.water_removal import check_rank, gram_with_noise, read_gram_with_noise

REMOVED_NOISE = quality(
    "denoise_removed",
    "1",
    "Energy that denoising took over that of the noise: more than 1 was signal",
    title="Removed noise",
)


class Denoise(NoiseRange):
    """Project every FID on the few time courses that stand above the noise.

    The noise left is neither white nor of known size, so error bars are computed from the noise
    before.
    """

    stage: ClassVar[str] = "denoise"
    revision: ClassVar[int | None] = 1

    rank: int | None = setting(
        None,
        "Time courses kept; what exceeds the Marchenko-Pastur edge of the noise if not given.",
        ge=1,
    )
    patch: int | None = setting(
        None,
        "Edge of overlapping spatial patches with time courses of their own, rounded up to odd; "
        "those of the whole scan if not given.",
        unit="voxels",
        ge=3,
    )
    courses: int | None = setting(
        None,
        "Leading time courses of the scan that those of patches are made of; if not given, those "
        "above the noise and a quarter more.",
        ge=1,
        le=denoise.MOST_COURSES,
    )

    def declare(self, context: Context) -> Declaration:
        """The measure ``denoise_removed``."""
        return Declaration(measures=(REMOVED_NOISE,))

    def check(self, context: Context) -> Self:
        """This stage, once the scan's noise is known to be measurable.

        Raises
        ------
        InputError
            If it is not, the rank is larger than the FIDs are long or the courses are many, the
            FIDs are too long for a worker's memory, or they still have coils or transients.
        """
        one_fid_a_voxel(context, self.stage)
        check_rank(self.rank, context.acquisition.points, self.stage)
        most = self.courses or denoise.MOST_COURSES
        if self.patch is not None and self.rank is not None and self.rank > most:
            raise InputError(
                f"stage {self.stage!r}: rank = {self.rank}, but patches are made of at most "
                f"{most} courses; ask for fewer, or leave rank out to have it found"
            )
        self.quiet_bins(context.acquisition)
        refuse_large(
            "stage 'denoise'",
            1,
            context.acquisition.points,
            "leave the stage out for FIDs this long",
        )
        return self

    def passes(self, context: Context) -> int:
        """One for the Casorati matrix, and one for those of the patches."""
        return 1 if self.patch is None else 2

    def summarise(self, context: Context, block: Block, step: int) -> State:
        """The block's Gram matrix, the energy of its noise and its bounds; then those of patches.

        Raises
        ------
        InputError
            If there are to be patches and voxels have no coordinates.
        """
        if step == 1:
            scores = self._scores(block.fids, context.state)
            grams = denoise.summarise_patches(scores, _places(block), self._grid(context.state))
            return {"matrices": grams.matrices, "counts": grams.voxels}
        state = gram_with_noise(block.fids, self.noise_of(block.fids, context))
        if self.patch is None:
            return state
        places = _places(block)
        return {**state, "low": places.amin(0), "high": places.amax(0)}

    def combine(self, first: State, second: State, step: int) -> State:
        """Sums, but the lower and the upper of two bounds."""
        bounds = {"low": torch.minimum, "high": torch.maximum}
        return {n: bounds.get(n, torch.add)(first[n], second[n]) for n in first}

    def finish(self, context: Context, summary: State, step: int) -> State:
        """``basis (time, rank)``; with patches ``scale``, the bounds and then ``projectors``.

        Raises
        ------
        InputError
            If the scan has no noise, fewer voxels than the rank asked for, or too many patches.
        """
        if step == 1:
            grams = denoise.PatchGrams(summary["matrices"], summary["counts"])
            return {"projectors": denoise.patch_projectors(grams, self.rank)}
        gram, noise = read_gram_with_noise(summary)
        if not noise > 0:
            raise InputError(
                f"stage {self.stage!r}: the scan has no noise outside noise_ppm = "
                f"{list(self.own('noise_ppm', context.acquisition))}; leave the stage out"
            )
        if self.patch is None:
            found = denoise.signal_subspace(gram, noise, self.rank)
            return {"basis": found.basis}
        reduced = denoise.reduction(gram, noise, self.courses, self.rank or 1)
        bounds = {name: summary[name] for name in ("low", "high")}
        refuse_large(
            "stage 'denoise'",
            self._grid(bounds).patches,
            len(reduced.scale),
            f"choose larger patches than patch = {self.patch} or fewer courses",
        )
        return {"basis": reduced.basis, "scale": reduced.scale, **bounds}

    def build(self, context: Context) -> Apply:
        """The projection of a block."""

        def apply(block: Block) -> None:
            noise = self.noise_of(block.fids, context)
            found = self._denoised(block, context.state)
            taken = (block.fids - found).abs().square().mean(1)
            block.measures[REMOVED_NOISE.name] = taken / (2 * noise.square())
            block.fids = found
            block.noise_sd = noise if block.noise_sd is None else block.noise_sd

        return apply

    def _denoised(self, block: Block, state: State) -> Tensor:
        if self.patch is None:
            return denoise.project(block.fids, state["basis"])
        scores = self._scores(block.fids, state)
        projectors = state["projectors"].to(scores.device)
        kept = denoise.project_patches(scores, _places(block), self._grid(state), projectors)
        courses = (state["basis"] * state["scale"]).to(scores.device)
        return (kept @ courses.T).to(torch.complex64)

    def _scores(self, fids: Tensor, state: State) -> Tensor:
        courses = (state["basis"] / state["scale"]).to(fids.device)
        return fids.to(courses.dtype) @ courses.conj()

    def _grid(self, bounds: State) -> denoise.PatchGrid:
        low, high = (tuple(bounds[name].tolist()) for name in ("low", "high"))
        return denoise.PatchGrid.over(low, high, self.patch or 1)


def _places(block: Block) -> Tensor:
    if block.coordinates is None:
        raise InputError("stage 'denoise': patches need the voxels' coordinates; leave patch out")
    return block.coordinates
