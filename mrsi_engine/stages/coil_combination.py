"""Pipeline step: combine receive coils."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.coils import CoilWeights, coil_weights, combine, whitening
from mrsi_engine.kernels.creatine import CreatineReferencing
from mrsi_engine.kernels.registration import Registration, register
from mrsi_engine.pipeline.ranges import NoiseRange, OptionalStage, landmark_lines
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Block, Context, State
from mrsi_engine.quantities import Declaration, quality

COIL_QUALITY = quality(
    "coil_quality",
    "1",
    "How well one complex weight a coil explains the reference: 1 all of it, 0 noise only",
)

#: How rarely noise looks as much like lines, largest SD (Hz) of a frequency that counts, and SDs by
#: which two have to be apart.
_RARE, _MOST_SD_HZ, _SDS = 1e-3, 2.0, 3.0

#: Coils of a voxel, and signals apart, that are needed to say so; share of a scan's signals that
#: are apart where they are transients.
_FEWEST, _MOST_APART = 3, 0.5


class CoilCombination(NoiseRange, OptionalStage):
    """Sum coils for the best SNR: weighted singular value decomposition of prewhitened coils.

    The coils' noise covariance is that of the whole scan outside ``noise_ppm``. Weights come from
    the water reference of a voxel where there is one, else from the scan itself. With ``optional``
    scans of combined coils are passed over.

    Coils see the same spins: where they differ in frequency they are transients that a converter
    called coils, and one weight a coil would lose signal. Such a scan is refused.
    """

    stage: ClassVar[str] = "coil_combination"
    revision: ClassVar[int | None] = 1
    processing_method: ClassVar[str] = "RF coil combination"
    remedy: ClassVar[str] = "leave the stage out"

    max_apart_hz: float = setting(
        1.0,
        "Frequencies of coils that differ by more, and by more than their errors, are apart; "
        "where more than half of a scan's are, it is refused.",
        unit="Hz",
        gt=0,
    )

    def lacks(self, context: Context) -> str:
        """The dimension ``coil``."""
        if "coil" in context.dimensions:
            return ""
        return "the scan has no dimension 'coil' (DIM_COIL)"

    def leaves(self, dimensions: tuple[str, ...]) -> tuple[str, ...]:
        """The dimensions without ``coil``."""
        return tuple(d for d in dimensions if d != "coil")

    def declare(self, context: Context) -> Declaration:
        """The measure ``coil_quality``."""
        return Declaration(measures=() if self.skipped(context) else (COIL_QUALITY,))

    def check(self, context: Context) -> Self:
        """This stage, once the scan is known to have coils, and noise to whiten them by.

        Raises
        ------
        InputError
            If it has not, or coils are not its first dimension after the voxel.
        """
        self.refuse_lacking(context)
        if not self.skipped(context):
            self.quiet_bins(context.acquisition)
            if context.dimensions[0] != "coil":
                raise InputError(
                    f"stage {self.stage!r}: 'coil' must be the first of {context.dimensions}"
                )
        return self

    def passes(self, context: Context) -> int:
        """One, for the noise covariance."""
        return 0 if self.skipped(context) else 1

    def summarise(self, context: Context, block: Block, step: int) -> State:
        """Products of the coils' noise, ``(coil, coil)``, and how their frequencies differ."""
        quiet = torch.from_numpy(self.quiet_bins(context.acquisition)).to(block.fids.device)
        spectra = torch.fft.fft(block.fids, norm="ortho")
        # Differences of neighbours are blind to the tails of water.
        difference = (spectra.roll(-1, dims=-1) - spectra)[..., quiet & quiet.roll(-1)]
        samples = difference.transpose(0, 1).flatten(1).to(torch.complex128)
        count = torch.tensor(float(samples.shape[1]), dtype=torch.float64, device=samples.device)
        noise = {"products": samples @ samples.mH, "samples": count}
        return {**noise, **self._frequencies(context, block)}

    def finish(self, context: Context, summary: State, step: int) -> State:
        """``white (coil, coil)``, which makes the coils' noise white.

        Raises
        ------
        InputError
            If there is less noise than coils, a coil has none of its own, or they are transients.
        """
        self._refuse_transients(summary)
        products, samples = summary["products"], summary["samples"]
        if samples <= len(products):
            raise InputError(
                f"stage {self.stage!r}: {int(samples)} samples of noise for {len(products)} coils; "
                "state a narrower noise_ppm"
            )
        # Neighbours' noise adds up in their difference.
        return {"white": whitening(products / (2 * samples))}

    def _frequencies(self, context: Context, block: Block) -> State:
        """Of coils whose frequency is known: their number, how many are apart, and how far (Hz)."""
        none = torch.zeros((), dtype=torch.float64, device=block.fids.device)
        if not landmark_lines(context.acquisition.nucleus):
            return {"known": none, "apart": none, "distance": none}
        lines = _landmarks(context.acquisition).to(block.fids.device)
        fids = block.fids.flatten(0, -2)
        found = register(lines, fids, self.noise_of(fids, context))
        # Lines of another shape than the landmarks' need not converge to be found.
        good = (found.chance < _RARE) & (found.shift_sd < _MOST_SD_HZ)
        shape = (*block.fids.shape[:2], -1)
        shift = torch.where(good, found.shift, torch.nan).view(shape)
        distance = (shift - shift.nanmedian(1, keepdim=True).values).abs()
        known = distance.isfinite() & (distance.isfinite().sum(1, keepdim=True) >= _FEWEST)
        apart = known & (
            distance > (_SDS * found.shift_sd.view(shape)).clamp_min(self.max_apart_hz)
        )
        far = torch.where(apart, distance, 0.0).sum()
        return {"known": known.sum().double(), "apart": apart.sum().double(), "distance": far}

    def _refuse_transients(self, summary: State) -> None:
        known, apart = float(summary["known"]), float(summary["apart"])
        if apart <= max(_MOST_APART * known, _FEWEST):
            return
        raise InputError(
            f"stage {self.stage!r}: the coils of a voxel differ in frequency by "
            f"{float(summary['distance']) / apart:.1f} Hz ({apart:.0f} of {known:.0f} signals are "
            "apart), as transients do and coils cannot. If the dimension DIM_COIL holds "
            "transients, name it DIM_DYN in the header extension; if they are coils, raise "
            "max_apart_hz of this stage"
        )

    def build(self, context: Context) -> Apply:
        """The combination of a block."""
        if self.skipped(context):
            return lambda block: None

        def apply(block: Block) -> None:
            weights = _weights(block, context.state["white"].to(block.fids.device))
            block.measures[COIL_QUALITY.name] = weights.quality
            block.fids = combine(block.fids, weights)
            if block.water is not None:
                block.water = combine(block.water, weights)

        return apply


@lru_cache(maxsize=4)
def _landmarks(acquisition: Acquisition) -> Registration:
    return CreatineReferencing.build(acquisition).landmarks


def _weights(block: Block, white: Tensor) -> CoilWeights:
    """From the water of each voxel, and from the voxel itself where it has none."""
    own = coil_weights(_one_record(block.fids), white)
    if block.water is None:
        return own
    if block.water.shape[1] != block.fids.shape[1]:
        raise InputError(
            f"the water reference has {block.water.shape[1]} coils, the scan "
            f"{block.fids.shape[1]}: give a reference of the same coils, combined by no one"
        )
    water = coil_weights(_one_record(block.water), white)
    known = torch.isfinite(water.quality)
    return CoilWeights(
        torch.where(known[:, None], water.weights, own.weights),
        torch.where(known, water.quality, own.quality),
    )


def _one_record(fids: Tensor) -> Tensor:
    """All transients of a coil one after the other, ``(voxel, coil, sample)``."""
    return fids.flatten(2)
