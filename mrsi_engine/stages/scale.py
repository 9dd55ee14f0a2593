"""Pipeline step: amplitudes to ratios or, by the water reference, to concentrations.

With the water reference the concentration is (thesis of A. Shamaei 2024, eq. 1.12; Gasparovic et
al., Magn Reson Med 2006;55:1219; consensus: Near et al., NMR Biomed 2021;34:e4257)

    c = S_M / S_W * 2 * [H2O] * sum_i(w_i R_i) / (R_M * sum_j(v_j)),

``S_M`` and ``S_W`` signal per proton and signal of water at time zero, 2 the protons of
water, [H2O] the molality of pure water, ``R`` the attenuation by T1 and T2 of tissue water ``i``
and of the metabolite, ``w_i`` kg of water a litre of voxel (fraction times content) and ``j`` the
tissues that hold metabolites: gray and white matter. ``v`` is what the result is per: their water
for ``"molal"`` (``w_j``, mmol/kg), their volume for ``"molar"`` (the fractions, mmol/L).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.eddy import saturated
from mrsi_engine.kernels.water_reference import LEAST_SAMPLES, water_amplitude
from mrsi_engine.nuclei import Nucleus, nucleus
from mrsi_engine.pipeline.ranges import NucleusDefaults, mean_reference, one_fid_a_voxel
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Block, Context
from mrsi_engine.quantities import (
    MAIN,
    Declaration,
    Quantity,
    Role,
    concentration,
    concentration_name,
    quality,
    reason,
)
from mrsi_engine.spectra.proton_amplitudes import proton_amplitudes
from mrsi_engine.spectra.relaxation import RelaxationTable, TableSetting, shipped_table

_SCALED = (Role.METABOLITE, Role.COMBINATION)

_SD_OF_RATIO = "to first order, from the errors of both amplitudes and their covariance"
_SD_BY_WATER = "from the errors of the fit and of the water, not those of what is assumed"

_UNITS = {"molar": "mmol/L", "molal": "mmol/kg"}
_PER = {"molar": "litre of tissue", "molal": "kg of tissue water"}

#: A reference below this many of its SDs could be nothing: a ratio to it has no meaning.
_LEAST_REFERENCE_SDS = 3.0

#: Share by which the singlets of a basis may differ in the amplitude of one proton.
_MOST_DISAGREEMENT = 0.2

NOT_SCALED = reason(
    "not_scaled",
    "why a voxel has no concentration: 0 it has, 1 no water signal, 2 no tissue fractions, 3 too "
    "little tissue that holds metabolites, 4 reference metabolite within 3 SD of zero, 5 water "
    "reference cut off by the receiver",
    "Not scaled",
)
WATER_AMPLITUDE = quality(
    "water_amplitude",
    "data units",
    "amplitude of the unsuppressed water at time zero of its FID",
    "Water amplitude",
)
NO_WATER, NO_TISSUE, LITTLE_TISSUE, NO_REFERENCE, SATURATED = 1.0, 2.0, 3.0, 4.0, 5.0

#: Echo time (s), repetition time (s) and flip angle (degrees).
_Timing = tuple[float, float, float]

_Seconds = Annotated[float, Field(gt=0, le=100)]
_EchoTime = Annotated[float, Field(ge=0, le=5)]
_Degrees = Annotated[float, Field(gt=0, le=90)]
_Fraction = Annotated[float, Field(ge=0, le=1)]


class Scale(NucleusDefaults):
    """Ratios to a metabolite, or concentrations by the water reference and tissue fractions."""

    stage: ClassVar[str] = "scale"
    revision: ClassVar[int | None] = 1
    of_nucleus: ClassVar[Mapping[str, Callable[[Nucleus], Any]]] = {
        "reference": lambda n: n.ratio_to
    }

    quantity: Literal["raw", "ratio", "molar", "molal"] = setting(
        "ratio",
        "`ratio` to the reference; `molar`, mmol per litre of tissue; `molal`, mmol per kg of "
        "tissue water; `raw` leaves amplitudes in data units and writes nothing.",
    )
    reference: str | None = setting(
        None,
        "Label of the metabolite or sum that ratios are to; that of the nucleus (1H: tCr; 31P: "
        "tATP; 2H: HDO) if not given. Ratios are of amplitudes: relaxation is not corrected.",
    )
    tissue: Literal["maps"] | dict[str, _Fraction] = setting(
        "maps",
        "The fractions that came with the scan (`maps`), or fractions by class to be assumed in "
        "every voxel, e.g. `{gm = 0.6, wm = 0.4}`.",
    )
    without_water: tuple[str, ...] = setting(
        (), 'Classes of the maps that hold no water, e.g. `["background"]`.'
    )
    least_tissue: _Fraction = setting(
        0.1,
        "Share of the voxel that must be tissue with metabolites to be given a concentration.",
    )
    table: TableSetting | None = setting(
        None,
        "File with relaxation times, water content and protons; the shipped one, of the human "
        "brain at 3 T, if not given.",
    )
    echo_time: _EchoTime | None = setting(
        None, "Of the scan; that of its file if not given.", unit="s"
    )
    repetition_time: _Seconds | None = setting(
        None, "Of the scan; that of its file if not given.", unit="s"
    )
    water_echo_time: _EchoTime | None = setting(
        None, "Of the water reference; that of its file if not given.", unit="s"
    )
    water_repetition_time: _Seconds | None = setting(
        None, "Of the water reference; that of its file if not given.", unit="s"
    )
    flip_angle: _Degrees = setting(90.0, "Of the scan's excitation.", unit="degrees")
    water_flip_angle: _Degrees = setting(
        90.0, "Of the water reference's excitation.", unit="degrees"
    )
    water_gain: float = setting(
        1.0,
        "What the water's amplitude is to be multiplied by to be on the scan's scale, where "
        "receiver gain or averaging differ.",
        gt=0,
    )
    proton_amplitude: Annotated[float, Field(gt=0)] | None = setting(
        None, "Of one proton in the basis set; measured on a singlet of the basis if not given."
    )

    @property
    def by_water(self) -> bool:
        """Whether the water reference is what amplitudes are scaled by."""
        return self.quantity in ("molar", "molal")

    def declare(self, context: Context) -> Declaration:
        """A concentration of every metabolite and sum that the stages before quantify."""
        if self.quantity == "raw":
            return Declaration()
        measures = (WATER_AMPLITUDE, NOT_SCALED) if self.by_water else (NOT_SCALED,)
        return Declaration(
            parameters=tuple(self._scaled(q, context) for q in amplitudes(context)),
            measures=measures,
        )

    def check(self, context: Context) -> Self:
        """This stage, once there is all it needs.

        Raises
        ------
        InputError
            If nothing was quantified before, the reference is none of it, or, for concentrations,
            water, tissue, a time, a row of the table or the basis' unit is missing.
        """
        one_fid_a_voxel(context, self.stage)
        labels = [q.name for q in amplitudes(context)]
        if not labels:
            raise InputError("stage 'scale' has nothing to scale; put it after a stage 'quantify'")
        if self.quantity == "ratio":
            self._check_reference(context, labels)
        if self.by_water:
            self._check_water(context)
            self._factors(context)
        return self

    def assumptions(self, context: Context) -> Mapping[str, Any]:
        """Everything the concentrations rest on beside the data, for sidecars."""
        if self.quantity == "raw":
            return {}
        if self.quantity == "ratio":
            return {
                "Reference": self._reference(context),
                "Relaxation": "not corrected: the ratio is of amplitudes at the scan's TE and TR",
            }
        return self._factors(context).described()

    def build(self, context: Context) -> Apply:
        """Constants of the scan, bound to the division of a block."""
        if self.quantity == "raw":
            return _nothing
        labels = [q.name for q in amplitudes(context)]
        if self.quantity == "ratio":
            reference = self._reference(context)
            return lambda block: _write_ratios(block, labels, reference)
        return self._factors(context).of_block

    def _reference(self, context: Context) -> str:
        stated = str(self.own("reference", context.acquisition))
        return nucleus(context.acquisition.nucleus).label_of(stated)

    def _scaled(self, amplitude: Quantity, context: Context) -> Quantity:
        if self.quantity == "ratio":
            reference = self._reference(context)
            doc = f"amplitude of {amplitude.label} over that of {reference}"
            return concentration(amplitude, "1", doc, _SD_OF_RATIO, reference=reference)
        doc = (
            f"{amplitude.label} in mmol per {_PER[self.quantity]}, by the water reference; its SD "
            "holds the errors of the fit and of the water, not those of what is assumed"
        )
        return concentration(amplitude, _UNITS[self.quantity], doc, _SD_BY_WATER)

    def _check_reference(self, context: Context, labels: list[str]) -> None:
        reference = self._reference(context)
        if reference not in labels:
            raise InputError(
                f"stage 'scale': reference = {reference!r} is not quantified; there are "
                f"{', '.join(labels)}"
            )
        kept = {q.name for q in context.written if q.role == Role.COMBINATION}
        kept |= {q.reference for q in context.written if q.role == Role.RATIO}
        if reference not in kept:
            raise InputError(_without_covariance(reference))

    def _check_water(self, context: Context) -> None:
        if not context.has_water:
            raise InputError(
                f"stage 'scale': quantity = {self.quantity!r} needs a water reference: give "
                '--water FILE, or set quantity = "ratio" or "raw"'
            )
        if context.acquisition.points < LEAST_SAMPLES:
            raise InputError(
                f"stage 'scale': the water reference has {context.acquisition.points} points, "
                f"{LEAST_SAMPLES} are needed to find its amplitude"
            )

    def _factors(self, context: Context) -> WaterScaling:
        table = self.table or shipped_table()
        if table.nucleus != context.acquisition.nucleus:
            raise InputError(
                f"stage 'scale': relaxation table {table.name!r} is of {table.nucleus}, the scan "
                f"of {context.acquisition.nucleus}; give a table for it, or set quantity = "
                '"ratio" or "raw"'
            )
        table.check_field(context.acquisition.spectrometer_frequency)
        scan, water = self._timing(context)
        labels = [q.name for q in amplitudes(context)]
        proton, singlets = self._proton(context)
        classes, assumed = self._tissue(context, table)
        return WaterScaling(
            quantity=self.quantity,
            attenuations={name: table.row(name).attenuation(*scan) for name in labels},
            water_attenuations={name: table.water[name].attenuation(*water) for name in classes
                                if name not in self.without_water},
            classes=classes,
            fractions=assumed,
            table=table,
            timing=(scan, water),
            proton=proton,
            singlets=singlets,
            gain=self.water_gain,
            samples_before=context.acquisition.start_time / context.acquisition.dwell_time,
            least_tissue=self.least_tissue,
        )  # fmt: skip

    def _timing(self, context: Context) -> tuple[_Timing, _Timing]:
        """Echo time, repetition time (s) and flip angle (degrees) of the scan and of the water."""
        known = {
            "echo_time": context.acquisition.echo_time,
            "repetition_time": context.acquisition.repetition_time,
            "water_echo_time": context.water_echo_time,
            "water_repetition_time": context.water_repetition_time,
        }
        stated = {name: getattr(self, name) for name in known}
        found = {name: known[name] if stated[name] is None else stated[name] for name in known}
        times = {name: float(value) for name, value in found.items() if value is not None}
        missing = [name for name in found if name not in times]
        if missing:
            raise InputError(
                f"stage 'scale': the files do not say {', '.join(missing)}, which relaxation is "
                "corrected by; state them in the stage, in s"
            )
        scan = (times["echo_time"], times["repetition_time"], self.flip_angle)
        water = (times["water_echo_time"], times["water_repetition_time"], self.water_flip_angle)
        return scan, water

    def _tissue(
        self, context: Context, table: RelaxationTable
    ) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
        """Tissue classes, and their fractions where they are assumed alike in every voxel."""
        if isinstance(self.tissue, str):
            classes, fractions = context.tissue_classes, None
        else:
            classes, fractions = tuple(self.tissue), tuple(self.tissue.values())
        if not classes:
            raise InputError(
                f"stage 'scale': quantity = {self.quantity!r} needs tissue fractions: give "
                "--tissue FILE, or state what to assume, e.g. tissue = { gm = 0.6, wm = 0.4 }"
            )
        unknown = [c for c in classes if c not in table.water and c not in self.without_water]
        if unknown:
            raise InputError(
                f"stage 'scale': relaxation table {table.name!r} has no water of tissue "
                f"{', '.join(unknown)}; it has {', '.join(table.water)}. Name classes without "
                "water in without_water"
            )
        holding = [c for c in classes if c in table.water and table.water[c].metabolites]
        if not set(holding) - set(self.without_water):
            raise InputError(
                f"stage 'scale': none of the tissue classes {', '.join(classes)} holds metabolites"
            )
        return classes, fractions

    def _proton(self, context: Context) -> tuple[float, Mapping[str, float]]:
        if self.proton_amplitude is not None:
            return self.proton_amplitude, {}
        if context.basis is None:
            raise InputError("stage 'scale' needs a basis: give --basis FILE, FOLDER or NAME")
        singlets = proton_amplitudes(context.basis)
        if not singlets:
            raise InputError(
                f"{context.basis.source}: holds none of "
                f"{', '.join(context.basis.nucleus.unit_singlets)}, whose singlets say "
                "what the basis set's unit is; state the amplitude of one proton in stage 'scale' "
                "with proton_amplitude"
            )
        first, *_ = found = list(singlets.values())
        if max(found) > (1 + _MOST_DISAGREEMENT) * min(found):
            raise InputError(
                f"{context.basis.source}: the singlets disagree on the amplitude of one proton ("
                f"{', '.join(f'{n} {v:.4g}' for n, v in singlets.items())}), so the basis set has "
                "no common unit; state proton_amplitude in stage 'scale' if it has"
            )
        return first, singlets


def amplitudes(context: Context) -> list[Quantity]:
    """The metabolites and sums that the stages before write, as their main estimator has them."""
    return [q for q in context.written if q.role in _SCALED and q.estimator == MAIN]


@dataclass(frozen=True, eq=False)
class WaterScaling:
    """Everything about concentrations by water that does not depend on a voxel.

    ``timing`` is echo time, repetition time (s) and flip angle (degrees) of the scan and of the
    water reference; ``samples_before`` lie between time zero and the first sample of both;
    ``fractions`` those to assume in every voxel, ``None`` where maps say.
    """

    quantity: str
    attenuations: Mapping[str, float]
    water_attenuations: Mapping[str, float]
    classes: tuple[str, ...]
    fractions: tuple[float, ...] | None
    table: RelaxationTable
    timing: tuple[_Timing, _Timing]
    proton: float
    singlets: Mapping[str, float]
    gain: float
    samples_before: float
    least_tissue: float

    def of_block(self, block: Block) -> None:
        """Write the concentrations of a block, and why a voxel has none."""
        assert block.water is not None
        reference = mean_reference(block.water, block.water.shape[-1])
        water = water_amplitude(reference, self.samples_before)
        amplitude, spread = water.amplitude * self.gain, water.sd * self.gain
        per_signal, reason = self._per_signal(self._fractions_of(block))
        reason = torch.where(amplitude.isnan(), NO_WATER, reason)
        reason = torch.where(saturated(reference), SATURATED, reason)
        scale = torch.where(reason == 0, per_signal / amplitude, torch.nan)
        block.measures[WATER_AMPLITUDE.name] = water.amplitude
        block.measures[NOT_SCALED.name] = reason
        for label, attenuation in self.attenuations.items():
            name, factor = concentration_name(label), scale / attenuation
            value = factor * block.estimate[label]
            own = factor * block.sd[label]
            block.estimate[name] = value
            block.sd[name] = torch.hypot(own, value * spread / amplitude)

    def described(self) -> dict[str, Any]:
        """Every assumption by name."""
        (echo, repetition, flip), (water_echo, water_repetition, water_flip) = self.timing
        return {
            "RelaxationTable": self.table.name,
            "Sources": dict(self.table.sources),
            "EchoTime": echo,
            "RepetitionTime": repetition,
            "FlipAngle": flip,
            "WaterEchoTime": water_echo,
            "WaterRepetitionTime": water_repetition,
            "WaterFlipAngle": water_flip,
            "WaterMolality": self.table.water_molality,
            "WaterProtons": self.table.water_protons,
            "WaterGain": self.gain,
            "Water": {
                name: {**self.table.water[name].model_dump(), "attenuation": attenuation}
                for name, attenuation in self.water_attenuations.items()
            },
            "Metabolites": {
                name: {**self.table.row(name).model_dump(), "attenuation": attenuation}
                for name, attenuation in self.attenuations.items()
            },
            "TissueFractions": (
                "of the maps of each voxel"
                if self.fractions is None
                else dict(zip(self.classes, self.fractions, strict=True))
            ),
            "LeastTissue": self.least_tissue,
            "BasisProtonAmplitude": self.proton,
            "BasisProtonAmplitudeMeasuredOn": dict(self.singlets) or "stated",
        }

    def _fractions_of(self, block: Block) -> Tensor:
        """``(voxel, class)`` float64."""
        if self.fractions is not None:
            fractions = torch.tensor(self.fractions, dtype=torch.float64, device=block.fids.device)
            return fractions.expand(len(block.fids), -1)
        assert block.tissue is not None
        return block.tissue.to(torch.float64).clamp_min(0)

    def _per_signal(self, fractions: Tensor) -> tuple[Tensor, Tensor]:
        """Concentration for a metabolite's amplitude equal to the water's, and why there is none.

        Metabolite and water then have to be corrected for the attenuation of the metabolite only.
        """

        def row(values: Mapping[str, float]) -> Tensor:
            listed = [values.get(name, 0.0) for name in self.classes]
            return torch.tensor(listed, dtype=torch.float64, device=fractions.device)

        water = {name: self.table.water[name] for name in self.water_attenuations}
        content = {name: c.content for name, c in water.items()}
        seen = {name: content[name] * a for name, a in self.water_attenuations.items()}
        holding = {name: 1.0 for name, c in water.items() if c.metabolites}
        per = {n: content[n] for n in holding} if self.quantity == "molal" else holding
        share = fractions @ row(holding) / fractions.sum(1)
        reason = torch.where(share < self.least_tissue, LITTLE_TISSUE, 0.0)
        reason = torch.where(torch.isfinite(share), reason, NO_TISSUE)
        millimolal = 1e3 * self.table.water_molality * self.table.water_protons
        ratio = (fractions @ row(seen)) / (fractions @ row(per))
        return self.proton * millimolal * ratio, reason.to(torch.float64)


def _write_ratios(block: Block, labels: list[str], reference: str) -> None:
    """Ratios with the SD of the delta method, and which voxels have no reference."""
    below, below_sd = block.estimate[reference], block.sd[reference]
    # Without noise there is no SD; then any amount is an amount.
    least = torch.nan_to_num(_LEAST_REFERENCE_SDS * below_sd)
    missing = ~(below > least)
    block.measures[NOT_SCALED.name] = torch.where(missing, NO_REFERENCE, 0.0)
    known = torch.where(missing, torch.nan, below)
    for label in labels:
        ratio = block.estimate[label] / known
        covariance = _covariance(block, label, reference)
        variance = (
            block.sd[label].square() - 2 * ratio * covariance + (ratio * below_sd).square()
        ).clamp_min(0)
        name = concentration_name(label)
        block.estimate[name], block.sd[name] = ratio, variance.sqrt() / known


def _covariance(block: Block, label: str, reference: str) -> Tensor:
    if reference not in block.covariance_with:
        raise InputError(_without_covariance(reference))
    return block.covariance_with[reference][label]


def _without_covariance(reference: str) -> str:
    return (
        f"stage 'scale': the covariance with {reference} is not kept, without which ratios to it "
        f"have no SD; set ratio_to = [\"{reference}\"] in stage 'quantify'"
    )


def _nothing(block: Block) -> None:
    """Amplitudes stay as they are."""
