"""What frequency and phase correction may be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from mrsi_engine.networks.model import ModelSource
from mrsi_engine.nuclei import Nucleus
from mrsi_engine.pipeline.ranges import NoiseRange
from mrsi_engine.pipeline.settings import NucleusRange, PpmRange, Settings, setting


class NuisanceSettings(Settings):
    """What is projected out of the window."""

    leading: ClassVar[str] = "kind"

    kind: Literal["baseline", "subspace"] = setting(
        "subspace",
        "`baseline`: a complex polynomial. `subspace`: also the tails of water and lipid lines.",
    )
    baseline_order: int = setting(2, "Of the polynomial.", ge=0, le=10)
    water_ppm: NucleusRange = setting(
        None,
        "Where the tails of water lines come from, [low, high]; that of the nucleus, if it has "
        "such, where not given.",
        unit="ppm",
    )
    lipid_ppm: NucleusRange = setting(None, "The same of lipid lines.", unit="ppm")


class FpcSettings(NoiseRange):
    """Settings of frequency and phase correction."""

    of_nucleus: ClassVar[Mapping[str, Callable[[Nucleus], Any]]] = {
        **NoiseRange.of_nucleus,
        "window_ppm": lambda n: n.alignment_for("stage 'fpc'").template,
        "nuisance.water_ppm": lambda n: None if n.water is None else n.water.tails,
        "nuisance.lipid_ppm": lambda n: None if n.lipids is None else n.lipids.tails,
    }
    moved: ClassVar[Mapping[str, str]] = {
        "baseline_order": "nuisance.baseline_order",
        "water_ppm": "nuisance.water_ppm",
        "lipid_ppm": "nuisance.lipid_ppm",
    }

    method: Literal["robust", "registration", "correlation", "creatine", "water", "network"] = (
        setting(
            "robust",
            "`robust`: registration with amplitude and damping, without what nuisance takes out. "
            "`registration`: spectral registration (SR; within a window SRF). `correlation`: the "
            "peak of the cross-correlation (Corr, CorrF). `creatine`: a Lorentzian line at 3.03 "
            "ppm (CrR within the whole spectrum, CrRF within a window of its own). `water`: the "
            "line of the unsuppressed water reference, voxel by voxel. `network`: `robust`, whose "
            "search is a network's guess and up to four steps from it; where those lead to no "
            "match, the search itself.",
        )
    )
    model: ModelSource = setting(
        "fpc-press-3t-te30",
        "Of `network`: a folder that `mrsi train` wrote, or the name of a shipped model.",
    )
    window_ppm: PpmRange | Literal[False] | None = setting(
        None,
        "What counts, [low, high]; that of the nucleus if not given, `false` is the whole "
        "spectrum.",
        unit="ppm",
    )
    nuisance: NuisanceSettings = setting(
        NuisanceSettings(), "What `robust` and `network` project out of the window."
    )
    seconds: float = setting(0.3, "From the start of the FID that are looked at.", unit="s", gt=0)
    max_shift_hz: float = setting(60.0, "Largest shift looked for.", unit="Hz", gt=0, le=1000)
    template_passes: int = setting(
        2, "Times the template is made anew as the mean of all signals aligned to it.", ge=0, le=10
    )
    frame: Literal["creatine", "template"] = setting(
        "creatine",
        "`creatine` puts the template's creatine at 3.027 ppm and phase 0; `template` leaves it.",
    )
    reference: Literal["highest-peak", "k-means"] = setting(
        "highest-peak",
        "The first template: the signal with the highest peak over its noise, or the choice by "
        "k-means (Shamaei et al. 2023) among 256 signals spread evenly over the scan.",
    )
    smooth: bool = setting(
        False,
        "Combine each voxel's shift with a polynomial of its place fitted to the scan, by their "
        "precisions. Voxels whose own shift is lost in noise get that of their surroundings, those "
        "measured well keep theirs.",
    )
    smooth_order: int = setting(6, "Total degree of that polynomial.", ge=1, le=12)

    @property
    def uses_template(self) -> bool:
        """Whether signals are compared with a template made from them."""
        return self.method in ("robust", "registration", "correlation", "network")
