"""Pipeline step: frequency and phase correction (FPC) of voxels and transients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mrsi_engine.conventions import Flag
from mrsi_engine.dimensions import DYNAMIC
from mrsi_engine.errors import InputError
from mrsi_engine.fpc.bands import band_of, lines_of, similarity_band
from mrsi_engine.fpc.creatine import by_creatine, creatine_line, holds_creatine
from mrsi_engine.fpc.network import check_network
from mrsi_engine.fpc.quantities import APPLIED, NETWORK, PHASE, SHIFT, SIMILARITY, SPREAD
from mrsi_engine.fpc.registration import reference, view
from mrsi_engine.fpc.settings import FpcSettings
from mrsi_engine.fpc.signals import (
    Align,
    Find,
    Signals,
    believed,
    extent,
    extent_of_both,
    for_all_transients,
    over_transients,
    places,
    transients_of,
    where_trusted,
    write,
)
from mrsi_engine.fpc.smooth import field_of, field_sums, smoothed
from mrsi_engine.fpc.states import better, field_state, pick, sample_of, sample_state, state_of
from mrsi_engine.fpc.template import by_template, solver_of
from mrsi_engine.fpc.water import by_water
from mrsi_engine.kernels.alignment import corrected
from mrsi_engine.kernels.even_sample import EvenSample, combine_samples, sample_evenly
from mrsi_engine.kernels.reference_choice import choose_reference
from mrsi_engine.kernels.shift_field import FieldSums
from mrsi_engine.kernels.similarity import similarity_matrix, similarity_to
from mrsi_engine.kernels.template import (
    TemplateSums,
    finish_template,
    first_pass,
    summarise_aligned,
)
from mrsi_engine.networks.correctors import suited_model
from mrsi_engine.pipeline.ranges import refuse_coils
from mrsi_engine.pipeline.stage import Apply, Block, Context, State
from mrsi_engine.quantities import Declaration

#: Signals of the similarity matrix, and those among which k-means chooses the reference.
_MATRIX_SIZE, _K_MEANS_SIZE = 64, 256

#: Passes that fit the smooth field: a first one, and one without voxels far from that.
_FIELD_PASSES = 2


class FrequencyPhaseCorrection(FpcSettings):
    """Bring every voxel, and every transient, to one frequency and phase.

    ``robust``, ``registration``, ``correlation`` and ``network`` compare with a template: the
    signal of the scan that ``reference`` says, or the model's template with ``network``, then
    ``template_passes`` times the mean of all signals aligned to it. With ``frame = "creatine"`` the
    template's creatine is put at 3.027 ppm and phase 0. A signal that looks no more like it than
    noise would is left as it is.

    The state holds ``similarity_matrix_before`` and ``similarity_matrix_after``, scalar products
    of up to 64 signals spread evenly over the scan, ``(signal, signal)``, slice by slice.
    """

    stage: ClassVar[str] = "fpc"
    revision: ClassVar[int | None] = 1
    processing_method: ClassVar[str] = "Frequency and phase correction"

    @property
    def _first_step(self) -> int:
        """Where the passes begin: a model has a template, so that none need be picked."""
        return 1 if self.method == "network" else 0

    def declare(self, context: Context) -> Declaration:
        """Shift and phase with their Cramér-Rao bounds, and the similarity before and after."""
        measures = (APPLIED,) + (SIMILARITY if self.uses_template else ())
        measures += (NETWORK,) if self.method == "network" else ()
        if DYNAMIC in context.dimensions:
            measures += SPREAD
        return Declaration(parameters=(SHIFT, PHASE), measures=measures)

    def check(self, context: Context) -> Self:
        """This stage, once window and noise range are known to suit the scan.

        Raises
        ------
        InputError
            If nothing is known to align spectra of the nucleus by, a window leaves the spectrum or
            holds too few points, there is no water reference for ``"water"``, coils are not
            combined, a map cannot be smoothed, or the model is not for the scan.
        """
        refuse_coils(context, self.stage)
        lines_of(context.acquisition)
        self.quiet_bins(context.acquisition)
        if self.method == "water" and not context.has_water:
            raise InputError(
                "stage 'fpc': method = 'water' needs a water reference: give --water FILE or "
                "choose another method"
            )
        if self.uses_template:
            view(self, context.acquisition)
        if self.method == "network":
            check_network(self, context)
        if self.smooth and (not self.uses_template or DYNAMIC in context.dimensions):
            raise InputError(
                "stage 'fpc': smooth = true needs one FID a voxel and method 'robust', 'network', "
                f"'registration' or 'correlation', found {self.method!r} and the dimensions "
                f"{list(context.dimensions)}; put averaging before it or set smooth = false"
            )
        if self.method == "creatine":
            creatine_line(self, context.acquisition)
        return self

    def assumptions(self, context: Context) -> Mapping[str, Any]:
        """Where the template lies, if that is not what the settings say."""
        if not self.uses_template or self.frame == "template" or self._by_creatine(context):
            return {}
        return {"frame": "that of the template: the FIDs are too short to see creatine's line"}

    def _by_creatine(self, context: Context) -> bool:
        """Whether the template is put where its creatine says."""
        return self.frame == "creatine" and holds_creatine(self, context.acquisition)

    def models(self, context: Context) -> Mapping[str, str]:
        """The network, where one is used."""
        if self.method != "network":
            return {}
        return {self.model: suited_model(self.model, context.acquisition).checksum}

    def passes(self, context: Context) -> int:
        """One to pick a signal, ``template_passes`` to average, and two for the smooth map.

        With ``"network"`` none is picked.
        """
        if not self.uses_template:
            return 0
        passes = 1 + self.template_passes + (_FIELD_PASSES if self.smooth else 0)
        return passes - self._first_step

    def summarise(self, context: Context, block: Block, step: int) -> State:
        """The best signal of the block, then the sum of its signals aligned to the template."""
        step += self._first_step
        signals = self._signals(context, block)
        if step > self.template_passes:
            return field_sums(self, context, signals, self._find(context))
        sample = sample_evenly(
            signals.fids, signals.noise_sd, signals.place, self._sample_size(step)
        )
        return {**self._reference_sums(context, signals, step), **sample_state(sample)}

    def combine(self, first: State, second: State, step: int) -> State:
        """The better of two signals, then the sum of both sums; one sample of both."""
        step += self._first_step
        if step > self.template_passes:
            return super().combine(first, second, step)
        samples = sample_of(first), sample_of(second)
        both = sample_state(combine_samples(*samples, self._sample_size(step)))
        if step == self._first_step:
            both = {**both, **extent_of_both(first, second)}
        if step > 0:
            return {**both, **{name: first[name] + second[name] for name in ("fid", "weight")}}
        return {**both, **better(first, second)}

    def finish(self, context: Context, summary: State, step: int) -> State:
        """``template (time,)`` complex64; with the last, the similarity matrices; then the field.

        Raises
        ------
        InputError
            If no voxel has a signal to begin with.
        """
        step += self._first_step
        if step > self.template_passes:
            sums = FieldSums(**summary)
            return field_state(field_of(self, context).updated(sums, self.max_shift_hz))
        found = {"template": self._framed(self._template(context, summary, step), context)}
        if step == self._first_step:
            found |= {name: summary[name] for name in ("low", "high")}
        known = replace(context, state={**context.state, **found})
        last = step == self.template_passes
        return {**found, **(self._matrices(known, sample_of(summary)) if last else {})}

    def build(self, context: Context) -> Apply:
        """Template and projection made ready, bound to the correction of a block."""
        dwell = context.acquisition.dwell_time
        align, compare = self._aligner(context), self._comparison(context)

        def apply(block: Block) -> None:
            fids = block.fids.flatten(0, -2)
            found = believed(align(block, fids), block, len(fids) // len(block.fids))
            straight = corrected(fids, dwell, *for_all_transients(found, block))
            write(block, found)
            far = block.estimate[SHIFT.name].abs() >= self.max_shift_hz
            block.flags[far] |= int(Flag.AT_SHIFT_BOUND)
            if self.method == "network":
                guessed = over_transients(~found.searched, block)
                block.measures[NETWORK.name] = guessed.double().mean(1)
            for name, value in compare(fids, straight).items():
                block.measures[name] = over_transients(value, block).nanmean(1)
            block.fids = straight.reshape(block.fids.shape)

        return apply

    def _aligner(self, context: Context) -> Align:
        """Where the signals ``(signal, time)`` of a block stand."""
        if self.method == "water":
            return by_water(self, context)
        find = by_creatine(self, context) if self.method == "creatine" else None
        find = find or self._find(context)
        if self.smooth:
            return smoothed(self, context, find)
        return lambda block, fids: find(fids, self.noise_of(fids, context))

    def _find(self, context: Context) -> Find:
        return by_template(self, context, solver_of(self))

    def _signals(self, context: Context, block: Block) -> Signals:
        """Signals that make the template: scalp has none of its peaks."""
        scalp = torch.zeros(len(block.fids), dtype=torch.bool, device=block.fids.device)
        inside = ~(scalp if block.scalp is None else block.scalp)
        fids = block.fids[inside].flatten(0, -2)
        each = inside.repeat_interleave(transients_of(block))
        return Signals(fids, self.noise_of(fids, context), places(block)[each])

    def _sample_size(self, step: int) -> int:
        """Signals kept of the scan in a pass."""
        if step == 0 and self.reference == "k-means":
            return _K_MEANS_SIZE
        return _MATRIX_SIZE if step == self.template_passes else 0

    def _reference_sums(self, context: Context, signals: Signals, step: int) -> State:
        fids, noise, place = signals.fids, signals.noise_sd, signals.place
        box: State = extent(place) if step == self._first_step else {}
        if step == 0:
            band = band_of(context.acquisition, lines_of(context.acquisition).pick)
            return {**pick(fids, noise, band), **box}
        # A template that is one noisy signal would have its noise fitted by the damping.
        picked = step == 1 and self.method != "network"
        solver = first_pass(solver_of(self)) if picked else solver_of(self)
        alignment = by_template(self, context, solver)(fids, noise)
        sums = summarise_aligned(fids, alignment, noise, context.acquisition.dwell_time)
        return {**box, **state_of(sums)}

    def _template(self, context: Context, summary: State, step: int) -> Tensor:
        if step > 0:
            sums = TemplateSums(summary["fid"], summary["weight"])
            return finish_template(sums, reference(self, context))
        if not torch.isfinite(summary["snr"]):
            raise InputError("stage 'fpc': no voxel has a signal; check the mask and the data")
        if self.reference == "highest-peak":
            return summary["fid"]
        sample = sample_of(summary).by_place()
        band = band_of(context.acquisition, lines_of(context.acquisition).k_means)
        return sample.fids[choose_reference(sample.fids, band)]

    def _matrices(self, context: Context, sample: EvenSample) -> State:
        """Similarity matrices of signals spread over the scan, before and after correction."""
        few = sample.first(_MATRIX_SIZE).by_place()
        found = self._find(context)(few.fids, few.noise_sd)
        dwell, band = context.acquisition.dwell_time, similarity_band(context.acquisition)
        straight = corrected(few.fids, dwell, *where_trusted(found))
        return {
            "similarity_matrix_before": similarity_matrix(few.fids, band),
            "similarity_matrix_after": similarity_matrix(straight, band),
        }

    def _framed(self, template: Tensor, context: Context) -> Tensor:
        """The template with creatine at its place; as it is where none is found."""
        if not self._by_creatine(context):
            return template
        found = by_creatine(self, context)(template[None], self.noise_of(template[None], context))
        dwell = context.acquisition.dwell_time
        return corrected(template[None], dwell, *where_trusted(found))[0]

    def _comparison(self, context: Context) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """Similarity of signals ``(signal, time)`` before and after to the template."""
        if not self.uses_template:
            return lambda before, after: {}
        band = similarity_band(context.acquisition)
        template = reference(self, context).to(context.device)

        def compare(before: Tensor, after: Tensor) -> dict[str, Tensor]:
            both = zip(SIMILARITY, (before, after), strict=True)
            return {q.name: similarity_to(template, fids, band) for q, fids in both}

        return compare
