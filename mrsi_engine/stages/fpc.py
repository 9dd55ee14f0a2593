"""Pipeline step: frequency and phase correction (FPC) of voxels and transients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import ClassVar, Self

import torch
from torch import Tensor

from mrsi_engine.conventions import DYNAMIC, Acquisition, Flag
from mrsi_engine.errors import InputError
from mrsi_engine.fpc.settings import FpcSettings
from mrsi_engine.kernels.alignment import Alignment, corrected
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.creatine import CreatineReferencing, reference_to_creatine
from mrsi_engine.kernels.even_sample import EvenSample, combine_samples, sample_evenly
from mrsi_engine.kernels.projection import LineRange, Projection
from mrsi_engine.kernels.reference_choice import choose_reference
from mrsi_engine.kernels.refinement import Refinement
from mrsi_engine.kernels.registration import Registration, Solver, correlate, hold, register
from mrsi_engine.kernels.shift_field import FieldSums, Grid, ShiftField
from mrsi_engine.kernels.similarity import similarity_matrix, similarity_to
from mrsi_engine.kernels.template import (
    Pick,
    TemplateSums,
    combine_picks,
    finish_template,
    first_pass,
    summarise_aligned,
    summarise_pick,
)
from mrsi_engine.kernels.water_phase import water_registration, water_shift
from mrsi_engine.networks.correctors import (
    corrector,
    model_template,
    suited_model,
)
from mrsi_engine.nuclei import nucleus
from mrsi_engine.nuclei.nuclei import AlignmentLines
from mrsi_engine.pipeline.ranges import hertz_between, refuse_coils
from mrsi_engine.pipeline.stage import Apply, Block, Context, State
from mrsi_engine.quantities import Declaration, lineshape, quality
from mrsi_engine.stages.eddy_current import mean_reference

#: Range of dampings (1/s) of water and lipid lines, and the vectors their tails span in the window.
_WATER_DAMPING, _WATER_RANK = (5.0, 120.0), 12
_LIPID_DAMPING, _LIPID_RANK = (30.0, 200.0), 6

#: Signals of the similarity matrix, and those among which k-means chooses the reference.
_MATRIX_SIZE, _K_MEANS_SIZE = 64, 256

#: Passes that fit the smooth field: a first one, and one without voxels far from that.
_FIELD_PASSES = 2

#: Signals make the field where noise looks like them this rarely.
_SURE = 1e-6

SHIFT = lineshape(
    "fpc_shift",
    "Hz",
    "frequency that was corrected, mean over transients; positive is towards lower ppm",
    "FPC shift",
    adds_to="b0shift",
    signed=True,
)
PHASE = lineshape(
    "fpc_phase",
    "rad",
    "phase that was corrected, mean over transients",
    "FPC phase",
    adds_to="phase",
    signed=True,
)
APPLIED = quality(
    "fpc_applied",
    "1",
    "Share of the transients whose shift and phase stood out of noise and were corrected; other "
    "transients go with the mean of their voxel, other voxels stay as they are",
    "FPC applied",
)
NETWORK = quality(
    "fpc_network",
    "1",
    "Share of the transients that a few steps from what the network said brought into place; the "
    "others were searched for",
    "FPC by network",
)
SPREAD = (
    quality(
        "fpc_shift_spread",
        "Hz",
        "SD over transients of the frequency corrected",
        "FPC shift spread",
    ),
    quality(
        "fpc_phase_spread",
        "rad",
        "Circular SD over transients of the phase corrected",
        "FPC phase spread",
    ),
)
SIMILARITY = (
    quality(
        "similarity_before",
        "1",
        "Normalised scalar product with the template over 2.5-3.5 ppm before correction, mean over "
        "transients",
        "Similarity before",
        scale_with="similarity",
    ),
    quality("similarity", "1", "The same after correction", "Similarity"),
)

#: Where signals ``(signal, time)`` with noise ``(signal,)`` stand.
Find = Callable[[Tensor, Tensor], Alignment]


@dataclass(frozen=True)
class _Signals:
    """Signals of a block outside the scalp: ``fids``, ``noise_sd`` and ``place (signal, 4)``."""

    fids: Tensor
    noise_sd: Tensor
    place: Tensor


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
        _lines_of(context.acquisition)
        self.quiet_bins(context.acquisition)
        if self.method == "water" and not context.has_water:
            raise InputError(
                "stage 'fpc': method = 'water' needs a water reference: give --water FILE or "
                "choose another method"
            )
        if self.uses_template:
            _view(self, context.acquisition)
        if self.method == "network":
            self._check_network(context)
        if self.smooth and (not self.uses_template or DYNAMIC in context.dimensions):
            raise InputError(
                "stage 'fpc': smooth = true needs one FID a voxel and method 'robust', 'network', "
                f"'registration' or 'correlation', found {self.method!r} and the dimensions "
                f"{list(context.dimensions)}; put averaging before it or set smooth = false"
            )
        if self.method == "creatine" or (self.uses_template and self.frame == "creatine"):
            self._creatine(context.acquisition)
        return self

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
            return self._field_sums(context, signals)
        sample = sample_evenly(
            signals.fids, signals.noise_sd, signals.place, self._sample_size(step)
        )
        return {**self._reference_sums(context, signals, step), **_sample_state(sample)}

    def combine(self, first: State, second: State, step: int) -> State:
        """The better of two signals, then the sum of both sums; one sample of both."""
        step += self._first_step
        if step > self.template_passes:
            return super().combine(first, second, step)
        samples = _sample(first), _sample(second)
        both = _sample_state(combine_samples(*samples, self._sample_size(step)))
        if step == self._first_step:
            both = {**both, **_extent_of_both(first, second)}
        if step > 0:
            return {**both, **{name: first[name] + second[name] for name in ("fid", "weight")}}
        return {**both, **_better(first, second)}

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
            return _field_state(self._field(context).updated(sums, self.max_shift_hz))
        found = {"template": self._framed(self._template(context, summary, step), context)}
        if step == self._first_step:
            found |= {name: summary[name] for name in ("low", "high")}
        known = replace(context, state={**context.state, **found})
        last = step == self.template_passes
        return {**found, **(self._matrices(known, _sample(summary)) if last else {})}

    def build(self, context: Context) -> Apply:
        """Template and projection made ready, bound to the correction of a block."""
        dwell = context.acquisition.dwell_time
        align, compare = self._aligner(context), self._comparison(context)

        def apply(block: Block) -> None:
            fids = block.fids.flatten(0, -2)
            found = _believed(align(block, fids), block, len(fids) // len(block.fids))
            straight = corrected(fids, dwell, *_for_all_transients(found, block))
            _write(block, found)
            far = block.estimate[SHIFT.name].abs() >= self.max_shift_hz
            block.flags[far] |= int(Flag.AT_SHIFT_BOUND)
            if self.method == "network":
                guessed = _over_transients(~found.searched, block)
                block.measures[NETWORK.name] = guessed.double().mean(1)
            for name, value in compare(fids, straight).items():
                block.measures[name] = _over_transients(value, block).nanmean(1)
            block.fids = straight.reshape(block.fids.shape)

        return apply

    @property
    def _solver(self) -> Solver:
        return Solver(self.max_shift_hz, fit_damping=self.method in ("robust", "network"))

    def _check_network(self, context: Context) -> None:
        """See that the model is for the scan and the settings for the model.

        Raises
        ------
        InputError
            If not.
        """
        suited_model(self.model, context.acquisition)
        if self.reference != "highest-peak":
            raise InputError(
                f"stage 'fpc': reference = {self.reference!r} chooses the first template, which "
                "with method = 'network' is the model's; leave it out"
            )
        if self.smooth and self.template_passes == 0:
            raise InputError(
                "stage 'fpc': smooth = true with method = 'network' needs template_passes of at "
                "least 1"
            )

    def _aligner(self, context: Context) -> Callable[[Block, Tensor], Alignment]:
        """Where the signals ``(signal, time)`` of a block stand."""
        if self.method == "water":
            return self._by_water(context)
        find = self._by_creatine(context) if self.method == "creatine" else None
        find = find or self._to_template(context, self._solver)
        if self.smooth:
            return self._smoothed(context, find)
        return lambda block, fids: find(fids, self.noise_of(fids, context))

    def _by_water(self, context: Context) -> Callable[[Block, Tensor], Alignment]:
        water = nucleus(context.acquisition.nucleus).water_for("stage 'fpc': method = 'water'")
        line = water_registration(context.acquisition, water.ppm).to(context.device)

        def find(block: Block, fids: Tensor) -> Alignment:
            assert block.water is not None
            water = mean_reference(block.water, fids.shape[1])
            found = water_shift(line, water, self.noise_of(water, context), self.max_shift_hz)
            # One reference for all transients of a voxel.
            each = torch.arange(len(water), device=water.device)
            return _chosen(found, each.repeat_interleave(len(fids) // len(water)))

        return find

    def _by_creatine(self, context: Context) -> Find:
        line = self._creatine(context.acquisition).to(context.device)
        return lambda fids, noise: reference_to_creatine(line, fids, noise, self.max_shift_hz)

    def _to_template(self, context: Context, solver: Solver) -> Find:
        ready = self._registration(context)
        if self.method == "correlation":
            return lambda fids, noise: correlate(ready, fids, noise, solver.limit_hz)
        if self.method == "network":
            network = corrector(self.model, str(context.device))
            refinement = Refinement.build(ready, self._reference(context), solver)
            return lambda fids, noise: refinement.align(fids, noise, network.predict(fids)[0])
        return lambda fids, noise: register(ready, fids, noise, solver)

    def _registration(self, context: Context) -> Registration:
        seen, start = _view(self, context.acquisition)
        template = self._reference(context).to("cpu")
        return Registration.build(template, seen, start=start).to(context.device)

    def _reference(self, context: Context) -> Tensor:
        """The template found so far, ``(time,)``; with a network it begins with the model's."""
        known = context.state.get("template")
        return model_template(self.model) if known is None else known

    def _smoothed(self, context: Context, find: Find) -> Callable[[Block, Tensor], Alignment]:
        """Alignments whose shift is that of voxel and field together."""
        ready, field = self._registration(context), self._field(context)

        def align(block: Block, fids: Tensor) -> Alignment:
            noise, place = self.noise_of(fids, context), _places(block)[:, :3]
            own = find(fids, noise)
            shift = torch.where(own.trusted, own.shift, torch.nan)
            best, sd = field.combined(place, shift, own.shift_sd, own.chance)
            held = hold(ready, fids, noise, best, sd, own.damping.nan_to_num(0.0))
            return replace(held, searched=own.searched)

        return align

    def _field(self, context: Context) -> ShiftField:
        """The field found so far."""
        grid = Grid(context.state["low"], context.state["high"], self.smooth_order)
        if "coefficients" not in context.state:
            return ShiftField.unknown(grid, self.max_shift_hz)
        parts = (context.state[name] for name in ("coefficients", "covariance", "variance"))
        return ShiftField(grid, *parts)

    def _field_sums(self, context: Context, signals: _Signals) -> State:
        found = self._to_template(context, self._solver)(signals.fids, signals.noise_sd)
        # A false peak is far from the field, but would widen it.
        good = found.trusted & (found.chance < _SURE) & torch.isfinite(found.shift_sd)
        place = signals.place[good, :3]
        sums = self._field(context).summarise(place, found.shift[good], found.shift_sd[good])
        return _state(sums)

    def _creatine(self, acquisition: Acquisition) -> CreatineReferencing:
        """Creatine's line made ready.

        Raises
        ------
        InputError
            If the spectrum does not hold it, or too few points of it.
        """
        try:
            return _creatine_line(acquisition, whole=self.window_ppm is False)
        except ValueError as error:
            raise InputError(
                f"stage 'fpc': creatine at {_lines_of(acquisition).line:.2f} ppm is not seen: "
                f"{error}; choose another method, "
                "or frame = 'template'"
            ) from error

    def hertz_of(self, acquisition: Acquisition, key: str) -> tuple[float, float]:
        """(low, high) in Hz of the setting ``key``."""
        return hertz_between(acquisition, self.own(key, acquisition), f"stage 'fpc': {key}")

    def _signals(self, context: Context, block: Block) -> _Signals:
        """Signals that make the template: scalp has none of its peaks."""
        scalp = torch.zeros(len(block.fids), dtype=torch.bool, device=block.fids.device)
        inside = ~(scalp if block.scalp is None else block.scalp)
        fids = block.fids[inside].flatten(0, -2)
        each = inside.repeat_interleave(_transients(block))
        return _Signals(fids, self.noise_of(fids, context), _places(block)[each])

    def _sample_size(self, step: int) -> int:
        """Signals kept of the scan in a pass."""
        if step == 0 and self.reference == "k-means":
            return _K_MEANS_SIZE
        return _MATRIX_SIZE if step == self.template_passes else 0

    def _reference_sums(self, context: Context, signals: _Signals, step: int) -> State:
        fids, noise, place = signals.fids, signals.noise_sd, signals.place
        extent: State = _extent(place) if step == self._first_step else {}
        if step == 0:
            return {
                **_pick(
                    fids, noise, _band(context.acquisition, _lines_of(context.acquisition).pick)
                ),
                **extent,
            }
        # A template that is one noisy signal would have its noise fitted by the damping.
        picked = step == 1 and self.method != "network"
        solver = first_pass(self._solver) if picked else self._solver
        alignment = self._to_template(context, solver)(fids, noise)
        sums = summarise_aligned(fids, alignment, noise, context.acquisition.dwell_time)
        return {**extent, **_state(sums)}

    def _template(self, context: Context, summary: State, step: int) -> Tensor:
        if step > 0:
            sums = TemplateSums(summary["fid"], summary["weight"])
            return finish_template(sums, self._reference(context))
        if not torch.isfinite(summary["snr"]):
            raise InputError("stage 'fpc': no voxel has a signal; check the mask and the data")
        if self.reference == "highest-peak":
            return summary["fid"]
        sample = _sample(summary).by_place()
        band = _band(context.acquisition, _lines_of(context.acquisition).k_means)
        return sample.fids[choose_reference(sample.fids, band)]

    def _matrices(self, context: Context, sample: EvenSample) -> State:
        """Similarity matrices of signals spread over the scan, before and after correction."""
        few = sample.first(_MATRIX_SIZE).by_place()
        found = self._to_template(context, self._solver)(few.fids, few.noise_sd)
        dwell, band = context.acquisition.dwell_time, _similarity_band(context.acquisition)
        straight = corrected(few.fids, dwell, *_where_trusted(found))
        return {
            "similarity_matrix_before": similarity_matrix(few.fids, band),
            "similarity_matrix_after": similarity_matrix(straight, band),
        }

    def _framed(self, template: Tensor, context: Context) -> Tensor:
        """The template with creatine at its place; as it is where none is found."""
        if self.frame == "template":
            return template
        found = self._by_creatine(context)(template[None], self.noise_of(template[None], context))
        dwell = context.acquisition.dwell_time
        return corrected(template[None], dwell, *_where_trusted(found))[0]

    def _comparison(self, context: Context) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """Similarity of signals ``(signal, time)`` before and after to the template."""
        if not self.uses_template:
            return lambda before, after: {}
        band = _similarity_band(context.acquisition)
        template = self._reference(context).to(context.device)

        def compare(before: Tensor, after: Tensor) -> dict[str, Tensor]:
            both = zip(SIMILARITY, (before, after), strict=True)
            return {q.name: similarity_to(template, fids, band) for q, fids in both}

        return compare


@lru_cache(maxsize=8)
def _creatine_line(acquisition: Acquisition, whole: bool) -> CreatineReferencing:
    return CreatineReferencing.build(acquisition, whole)


@lru_cache(maxsize=8)
def _view(
    stage: FrequencyPhaseCorrection, acquisition: Acquisition
) -> tuple[Projection, Projection]:
    """What counts in the registration, and in the correlation that starts it.

    Raises
    ------
    InputError
        If a range leaves the spectrum or the window holds too few points.
    """
    points = min(acquisition.points, round(stage.seconds / acquisition.dwell_time))
    robust = stage.method in ("robust", "network")
    limited = stage.window_ppm is not False
    window = stage.hertz_of(acquisition, "window_ppm") if limited else None
    order = stage.nuisance.baseline_order if robust and window else None
    lines = []
    if robust and stage.nuisance.kind == "subspace":
        tails = (
            ("nuisance.water_ppm", _WATER_DAMPING, _WATER_RANK),
            ("nuisance.lipid_ppm", _LIPID_DAMPING, _LIPID_RANK),
        )
        lines = [
            LineRange(*stage.hertz_of(acquisition, key), *damping, rank)
            for key, damping, rank in tails
            if stage.own(key, acquisition) is not None
        ]
    try:
        start = Projection.build(points, acquisition.dwell_time, window, order)
        seen = Projection.build(points, acquisition.dwell_time, window, order, lines)
    except ValueError as error:
        raise InputError(
            f"stage 'fpc': window_ppm = {stage.own('window_ppm', acquisition)} with seconds = "
            f"{stage.seconds:g}: {error}"
        ) from error
    return seen, start


def _lines_of(acquisition: Acquisition) -> AlignmentLines:
    return nucleus(acquisition.nucleus).alignment_for("stage 'fpc'")


def _similarity_band(acquisition: Acquisition) -> Band:
    return _band(acquisition, _lines_of(acquisition).similarity)


def _band(acquisition: Acquisition, ppm: tuple[float, float]) -> Band:
    low, high = hertz_between(acquisition, ppm, "stage 'fpc': the range")
    return Band.between(acquisition.points, acquisition.dwell_time, low, high)


def _pick(fids: Tensor, noise: Tensor, band: Band) -> State:
    if len(fids):
        return _state(summarise_pick(fids, noise, band))
    nothing = torch.full((), -torch.inf, dtype=torch.float64, device=fids.device)
    return _state(Pick(fids.new_zeros(fids.shape[1]), nothing, noise.new_ones(())))


def _state(record: Pick | TemplateSums | FieldSums | EvenSample) -> dict[str, Tensor]:
    return {f.name: getattr(record, f.name) for f in fields(record)}


def _better(first: State, second: State) -> State:
    names = [f.name for f in fields(Pick)]
    picks = (Pick(**{name: state[name] for name in names}) for state in (first, second))
    return _state(combine_picks(*picks))


def _sample_state(sample: EvenSample) -> State:
    return {f"sample_{name}": values for name, values in _state(sample).items()}


def _sample(state: State) -> EvenSample:
    return EvenSample(*(state[f"sample_{f.name}"] for f in fields(EvenSample)))


def _field_state(field: ShiftField) -> State:
    return {n: getattr(field, n) for n in ("coefficients", "covariance", "variance")}


def _transients(block: Block) -> int:
    return block.fids[0].numel() // block.fids.shape[-1] if len(block.fids) else 1


def _places(block: Block) -> Tensor:
    """x, y, z and transient of every signal, ``(signal, 4)`` int64."""
    transients = _transients(block)
    voxels = torch.arange(len(block.fids), device=block.fids.device)
    xyz = voxels[:, None].expand(-1, 3) if block.coordinates is None else block.coordinates
    number = torch.arange(transients, device=xyz.device).repeat(len(xyz))
    return torch.cat([xyz.long().repeat_interleave(transients, 0), number[:, None]], dim=1)


def _extent(place: Tensor) -> State:
    """The box that holds all voxels; nothing is in the box that combines with any."""
    nowhere = torch.full((1, 3), torch.inf, dtype=torch.float64, device=place.device)
    xyz = place[:, :3].to(torch.float64)
    return {"low": torch.cat([xyz, nowhere]).amin(0), "high": torch.cat([xyz, -nowhere]).amax(0)}


def _extent_of_both(first: State, second: State) -> State:
    return {
        "low": torch.minimum(first["low"], second["low"]),
        "high": torch.maximum(first["high"], second["high"]),
    }


def _where_trusted(found: Alignment) -> tuple[Tensor, Tensor]:
    good = found.trusted
    return torch.where(good, found.shift, torch.nan), torch.where(good, found.phase, torch.nan)


def _chosen(found: Alignment, index: Tensor) -> Alignment:
    return Alignment(*(getattr(found, f.name)[index] for f in fields(found)))


def _believed(found: Alignment, block: Block, transients: int) -> Alignment:
    """The alignment, NaN where it is not trusted and on the scalp, which has no such peaks."""
    shift, phase = _where_trusted(found)
    if block.scalp is not None:
        scalp = block.scalp.repeat_interleave(transients)
        shift, phase = shift.masked_fill(scalp, torch.nan), phase.masked_fill(scalp, torch.nan)
    return replace(found, shift=shift, phase=phase)


def _for_all_transients(found: Alignment, block: Block) -> tuple[Tensor, Tensor]:
    """Shift and phase ``(signal,)``, where there is none of its own the mean of the voxel's."""
    shift, phase = (_over_transients(each, block) for each in (found.shift, found.phase))
    mean = torch.polar(torch.isfinite(phase).double(), phase.nan_to_num(0.0)).sum(1, keepdim=True)
    shift = torch.where(torch.isfinite(shift), shift, shift.nanmean(1, keepdim=True))
    phase = torch.where(torch.isfinite(phase), phase, mean.angle())
    return shift.flatten(), phase.flatten()


def _over_transients(values: Tensor, block: Block) -> Tensor:
    return values.view(len(block.fids), -1)


def _write(block: Block, found: Alignment) -> None:
    """Mean shift and phase of each voxel with their SDs, and how transients differ."""
    shift = _over_transients(found.shift, block)
    known = torch.isfinite(shift)
    count = known.sum(1)
    turn = torch.polar(known.double(), _over_transients(found.phase, block).nan_to_num(0.0))
    mean = turn.sum(1) / count
    block.estimate |= {SHIFT.name: shift.nanmean(1), PHASE.name: mean.angle()}
    for quantity, sd in ((SHIFT, found.shift_sd), (PHASE, found.phase_sd)):
        squares = torch.where(known, _over_transients(sd, block).square(), 0.0).sum(1)
        block.sd[quantity.name] = squares.sqrt() / count
    block.measures[APPLIED.name] = known.double().mean(1)
    if block.fids.ndim > 2:
        deviation = torch.where(known, shift - shift.nanmean(1, keepdim=True), 0.0)
        in_hertz, in_phase = SPREAD
        block.measures[in_hertz.name] = (deviation.square().sum(1) / count).sqrt()
        block.measures[in_phase.name] = (-2 * mean.abs().clamp(1e-12, 1.0).log()).sqrt()
