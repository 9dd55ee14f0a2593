"""Pipeline step: undo an acquisition delay."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.delay import first_order_phase, prepend
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Block, Context, Stage
from mrsi_engine.quantities import Declaration

#: How far from a whole number of samples a delay to be predicted may be.
_WHOLE = 0.05


class FirstOrderPhase(Stage):
    """Make FIDs as if they had been sampled from the excitation on."""

    stage: ClassVar[str] = "first_order_phase"
    revision: ClassVar[int | None] = 1
    processing_method: ClassVar[str] = "Phasing"

    delay: float = setting(
        ...,
        "Between excitation and the first sample; negative where sampling began too early.",
        unit="s",
        ge=-0.01,
        le=0.01,
    )
    method: Literal["phase", "predict"] = setting(
        "phase",
        "`phase` turns the spectrum by its first-order phase and leaves a rolling baseline; "
        "`predict` puts the missing first points back by backward linear prediction, for a delay "
        "of whole samples.",
    )
    order: int = setting(
        32,
        "Coefficients of the prediction: at least as many as the spectrum has lines.",
        ge=1,
        le=256,
    )

    def declare(self, context: Context) -> Declaration:
        """Nothing: it changes the FIDs only."""
        return Declaration()

    def check(self, context: Context) -> Self:
        """This stage, once its delay is known to be a number of samples, where it must be.

        Raises
        ------
        InputError
            If the scan's header states a delay, which the model of the fit follows; if points to
            predict are not a whole number, or the FIDs are too short.
        """
        if context.acquisition.start_time > 0:
            raise InputError(
                f"stage {self.stage!r}: the scan's header states that its first sample comes "
                f"{1e3 * context.acquisition.start_time:.3g} ms after time zero, and the model of "
                "the fit begins there: leave the stage out, or the delay would count twice"
            )
        if self.method == "predict":
            self._missing(context)
        return self

    def build(self, context: Context) -> Apply:
        """The work on a block."""
        dwell = context.acquisition.dwell_time
        missing = self._missing(context) if self.method == "predict" else 0

        def apply(block: Block) -> None:
            fids = block.fids.flatten(0, -2)
            if missing:
                # As long as before: the samples that fall off the end are noise.
                changed = prepend(fids, missing, self.order)[:, : fids.shape[1]]
            else:
                changed = first_order_phase(fids, dwell, self.delay)
            block.fids = changed.reshape(block.fids.shape)

        return apply

    def _missing(self, context: Context) -> int:
        samples = self.delay / context.acquisition.dwell_time
        whole = round(samples)
        if whole < 1 or abs(samples - whole) > _WHOLE:
            raise InputError(
                f"stage {self.stage!r}: delay = {self.delay:g} s is {samples:.2f} samples; "
                "method = 'predict' needs a whole number of at least 1, use method = 'phase'"
            )
        if 3 * self.order > context.acquisition.points:
            raise InputError(
                f"stage {self.stage!r}: order = {self.order} needs {3 * self.order} samples, the "
                f"FIDs have {context.acquisition.points}; lower it"
            )
        return whole
