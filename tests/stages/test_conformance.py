"""Every shipped stage, in each of its methods, owes to the engine what any stage does."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from mrsi_engine.engine.voxels import Voxels
from mrsi_engine.pipeline.pipeline import Pipeline, prepare_pipeline
from mrsi_engine.pipeline.registry import every_stage, is_shipped
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.testing import StageCase, StageTests
from mrsi_engine.testing.stages import rows_of
from tests.small_scans import CLASSES, scan, single_voxel, small_basis

FIT = {"stage": "quantify", "window_ppm": [0.5, 4.0], "max_iterations": 2}
#: Iterations that two devices would round apart are few.
AUTO = {**FIT, "method": "auto", "baseline": {"kind": "spline", "stiffness": "adaptive"}}


@dataclass(frozen=True)
class Scene:
    """Tables of stages, of which the last is tested, and the scan they work on."""

    stages: list[dict[str, Any]]
    transients: bool = False
    context: dict[str, Any] = field(default_factory=dict)


def one(stage: str, **settings: Any) -> Scene:
    return Scene([{"stage": stage, **settings}])


def transients(stage: str, *dimensions: str, **settings: Any) -> Scene:
    return Scene([{"stage": stage, **settings}], True, {"dimensions": dimensions})


TIMED = {"timing": {"water": {"echo_time": 0.03, "repetition_time": 1.5}}}
SCENES = {
    "averaging": transients("averaging", "dynamic"),
    "averaging of all": transients("averaging", "dynamic", reject=False),
    "averaging passed over": one("averaging", optional=True),
    "coil_combination": transients("coil_combination", "coil", "dynamic"),
    "denoise": one("denoise"),
    "denoise in patches": one("denoise", patch=3, courses=12),
    "eddy_current": one("eddy_current"),
    "eddy_current of transients": transients("eddy_current", "dynamic"),
    "first_order_phase": one("first_order_phase", delay=2e-4),
    "first_order_phase by prediction": one("first_order_phase", delay=1e-3, method="predict"),
    "fpc": one("fpc", max_shift_hz=20),
    "fpc of transients": transients("fpc", "dynamic", max_shift_hz=20),
    "fpc by registration": one("fpc", method="registration", max_shift_hz=20),
    "fpc by correlation": one("fpc", method="correlation", reference="k-means"),
    "fpc by creatine": one("fpc", method="creatine"),
    "fpc by water": one("fpc", method="water"),
    "fpc smooth": one("fpc", smooth=True, smooth_order=1, max_shift_hz=20),
    "lipid_removal": one("lipid_removal"),
    "lipid_removal by scalp found": one("lipid_removal", scalp="found"),
    "lipid_removal by HSVD": one("lipid_removal", method="hsvd", components=6),
    "quality_control": Scene([FIT, {"stage": "quality_control"}]),
    "scale to a ratio": Scene([FIT, {"stage": "scale"}]),
    "scale by water": Scene(
        [FIT, {"stage": "scale", "quantity": "molar", "repetition_time": 1.5}], context=TIMED
    ),
    "scan_shift": one("scan_shift"),
    "water_removal": one("water_removal", components=6),
    "water_removal from the Casorati matrix": one("water_removal", method="casorati"),
}
FITS = {
    "quantify": one(**FIT),
    "quantify with an adaptive baseline": one(**AUTO),
    "quantify by several": one(**{**FIT, "amplitudes": ["nonnegative", "map"]}),
}


def block_of(voxels: Voxels) -> Block:
    everything = np.ones(len(voxels.fids), bool)
    return voxels.block(everything, torch.device("cpu"), True)


def whole(scene: Scene) -> Block:
    """The scan as the first stage meets it: twelve voxels or all, transients as they are named."""
    if not scene.transients:
        # A fit learns nothing from other voxels.
        few = any(table["stage"] == "quantify" for table in scene.stages)
        return rows_of(block_of(scan()), slice(20, 32) if few else slice(None))
    block = block_of(single_voxel())
    for values in ("fids", "water"):
        given = getattr(block, values).repeat(2, 1, 1, 1)
        if "coil" not in scene.context["dimensions"]:
            given = given[:, 0]
        setattr(block, values, given.contiguous())
    block = Block(block.fids, {"water": block.water}, keep_signals=True)
    block.coordinates = torch.nn.functional.pad(torch.arange(4)[:, None], (0, 2)).int()
    return block


@cache
def case_of(name: str) -> StageCase:
    scene = {**SCENES, **FITS}[name]
    block, basis = whole(scene), small_basis()
    context = Context(
        basis.acquisition,
        basis,
        companions=tuple(block.companions),
        classes={"tissue": CLASSES} if "tissue" in block.companions else {},
        **scene.context,
    )
    *before, tested = Pipeline.from_settings({"name": name, "stages": scene.stages}).stages
    if before:
        earlier = Pipeline(name="before", stages=before)
        block = prepare_pipeline(earlier, context)(block)
    contexts = Pipeline(name=name, stages=(*before, tested)).contexts(context)
    return StageCase(tested, replace(contexts[-1]), block)


class TestShippedStages(StageTests):
    @pytest.fixture(params=SCENES)
    def case(self, request: pytest.FixtureRequest) -> StageCase:
        return case_of(request.param)


class TestFits(StageTests):
    """Of some spectra the normal equations have a condition of 6000, so covariances round more."""

    tolerance = 3e-3

    @pytest.fixture(params=FITS)
    def case(self, request: pytest.FixtureRequest) -> StageCase:
        return case_of(request.param)


def test_no_stage_is_forgotten() -> None:
    shipped = {key for key, kind in every_stage().kinds.items() if is_shipped(kind)}
    assert {scene.stages[-1]["stage"] for scene in (*SCENES.values(), *FITS.values())} == shipped
