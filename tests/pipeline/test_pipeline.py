"""Pipelines from TOML: what is read, what is refused and with which words."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.pipeline import (
    Pipeline,
    pipeline_text,
    prepare_pipeline,
    shipped_pipelines,
)
from mrsi_engine.pipeline.stage import Apply, Block, Context, Stage
from mrsi_engine.quantities import Declaration, quality
from mrsi_engine.stages import Quantify, WaterRemoval
from tests.scenes import press_basis

TEXT = """
name = "mine"
block_size = 512

[[stages]]
stage = "water_removal"
components = 5

[[stages]]
stage = "quantify"
window_ppm = [1.0, 4.0]
"""


def load(tmp_path, text: str) -> Pipeline:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return Pipeline.load(file)


def refusal(tmp_path, text: str) -> str:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert str(tmp_path / "mine.toml") in message
    return message


def test_reads_stages_in_order_with_their_settings(tmp_path):
    pipeline = load(tmp_path, TEXT)
    assert (pipeline.name, pipeline.block_size) == ("mine", 512)
    assert pipeline.stages == (WaterRemoval(components=5), Quantify(window_ppm=(1.0, 4.0)))


@pytest.mark.parametrize("name", shipped_pipelines())
def test_shipped_pipelines_load_and_come_back(name):
    pipeline = Pipeline.load(name)
    assert pipeline.name == name
    assert pipeline.description
    assert Pipeline.from_settings(pipeline.settings()) == pipeline
    assert f'name = "{name}"' in pipeline_text(name)


def test_the_promised_pipelines_are_shipped():
    assert {"brain-1h-3t", "minimal"} <= set(shipped_pipelines())


@pytest.mark.parametrize("name", ["brain-1h-3t", "minimal"])
def test_shipped_pipelines_fit_a_brain_scan(name):
    basis = press_basis()
    context = Context(basis.acquisition, basis)
    pipeline = Pipeline.load(name).check(context)
    names = [q.name for q in pipeline.declare(context).parameters]
    assert {"NAA", "NAANAAG", "shift", "phase"} <= set(names)
    assert len(names) == len(set(names))


def test_settings_are_plain_and_come_back(tmp_path):
    import json

    pipeline = load(tmp_path, TEXT)
    settings = json.loads(json.dumps(pipeline.settings()))
    assert Pipeline.from_settings(settings) == pipeline
    assert settings["stages"][1]["stage"] == "quantify"
    assert settings["stages"][1]["max_shift_hz"] == 20.0


def test_unknown_key_of_a_stage(tmp_path):
    message = refusal(tmp_path, TEXT.replace("window_ppm", "windw_ppm"))
    assert "stage 'quantify': unknown key 'windw_ppm'; allowed are" in message
    assert "window_ppm" in message
    assert "max_shift_hz" in message


def test_unknown_key_of_the_pipeline(tmp_path):
    message = refusal(tmp_path, TEXT.replace("block_size", "blocksize"))
    allowed = "bids, block_size, description, name, nucleus, stages"
    assert f"unknown key 'blocksize'; allowed are {allowed}" in message


def test_unknown_stage(tmp_path):
    message = refusal(tmp_path, TEXT.replace('"quantify"', '"quantfy"'))
    assert "no stage 'quantfy'; there are" in message
    assert "quantify, " in message or "quantify" in message.split("there are")[1]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("amplitudes = 'positive'", ["amplitudes", "'free'", "'nonnegative'"]),
        ("window_ppm = [4.0, 1.0]", ["window_ppm must be [low, high]", "[4.0, 1.0]"]),
        ("window_ppm = [1.0]", ["window_ppm"]),
        ("window_ppm = [1.0, inf]", ["window_ppm", "finite"]),
        ("max_damping = nan", ["max_damping"]),
        ("max_damping = 1000", ["max_damping", "150"]),
        ("max_shift_hz = 0", ["max_shift_hz", "greater than 0"]),
        ("max_iterations = 'many'", ["max_iterations", "integer"]),
        ("baseline.stiffness = -1", ["baseline.stiffness", "greater than or equal to 0"]),
        ("noise_ppm = [3.0, 3.0]", ["noise_ppm must be [low, high]"]),
    ],
)
def test_values_out_of_range_name_the_key(tmp_path, setting, words):
    message = refusal(tmp_path, TEXT.replace("window_ppm = [1.0, 4.0]", setting))
    assert "stage 'quantify'" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = mine", "not valid TOML"),
        ("name = 'mine'", "stages"),
        ("name = 'mine'\nstages = []", "at least one [[stages]] table"),
        ("name = 'mine'\nstages = 3", "at least one [[stages]] table"),
        ("name = 'mine'\n[[stages]]\ncomponents = 3", 'needs a key stage = "..."'),
        (TEXT.replace("512", "0"), "block_size must be at least 1, found 0"),
        (TEXT.replace('name = "mine"', ""), "name"),
    ],
)
def test_malformed_pipelines(tmp_path, text, words):
    assert words in refusal(tmp_path, text)


def test_a_pipeline_that_does_not_exist():
    with pytest.raises(InputError, match=r"nowhere: no such pipeline; shipped are .*minimal"):
        Pipeline.load("nowhere")


def test_settings_cannot_change_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        Quantify().max_damping = 3.0


@pytest.fixture
def doubling():
    """A stage of one's own, registered by being defined."""

    class Doubling(Stage):
        stage: ClassVar[str] = "doubling"
        factor: float = 2.0

        def declare(self, context: Context) -> Declaration:
            return Declaration(measures=(quality("largest", "data units", "largest sample"),))

        def build(self, context: Context) -> Apply:
            def apply(block: Block) -> None:
                block.fids = self.factor * block.fids
                block.measures["largest"] = block.fids.abs().amax(1)

            return apply

    yield Doubling
    del Stage.registry["doubling"]


def test_a_stage_of_ones_own(tmp_path, doubling):
    text = 'name = "own"\n' + 2 * '[[stages]]\nstage = "doubling"\nfactor = 3.0\n'
    pipeline = load(tmp_path, text)
    context = Context(Acquisition(4, 1e-3, 123.0))
    assert pipeline.stages == (doubling(factor=3.0),) * 2
    assert [q.name for q in pipeline.declare(context).measures] == ["largest"] * 2
    block = Block(torch.ones(2, 4, dtype=torch.complex64))
    prepare_pipeline(pipeline, context)(block)
    np.testing.assert_array_equal(block.measures["largest"], [9.0, 9.0])
    assert Pipeline.from_settings(pipeline.settings()) == pipeline


def test_every_stage_is_checked(doubling):
    seen = []

    class Watching(doubling):
        stage: ClassVar[str] = ""

        def check(self, context: Context):
            seen.append(self.factor)
            return self

    stages = (Watching(factor=1.0), Watching(factor=2.0))
    Pipeline(name="p", stages=stages).check(Context(Acquisition(4, 1e-3, 123.0)))
    assert seen == [1.0, 2.0]


def test_stages_say_what_the_standard_calls_them():
    """NIfTI-MRS, table of ``ProcessingApplied``; a stage without a word there goes by its key."""
    tables = [{"stage": name} for name in ("eddy_current", "fpc", "water_removal", "denoise")]
    pipeline = Pipeline.from_settings({"name": "t", "stages": tables})
    assert pipeline.processing_methods() == {
        "eddy_current": "Eddy current correction",
        "fpc": "Frequency and phase correction",
        "water_removal": "Nuisance peak removal",
        "denoise": "denoise",
    }


def test_stages_that_were_passed_over_were_not_applied():
    tables = [
        {"stage": "eddy_current", "optional": True},
        {"stage": "fpc"},
        {"stage": "averaging", "optional": True},
    ]
    pipeline = Pipeline.from_settings({"name": "t", "stages": tables})
    scan = Context(Acquisition(1024, 4e-4, 127.7))
    assert [table["stage"] for table in pipeline.applied(scan)] == ["fpc"]
    wet = Context(scan.acquisition, dimensions=("dynamic",), companions=("water",))
    assert pipeline.applied(wet) == pipeline.settings()["stages"]


def test_a_file_of_an_editor_that_marks_it(tmp_path) -> None:
    file = tmp_path / "marked.toml"
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert Pipeline.load(file).name == "mine"


def test_a_stage_that_writes_stands_once() -> None:
    basis = press_basis()
    twice = Pipeline(name="twice", stages=(Quantify(), Quantify()))
    declared = twice.declare(Context(basis.acquisition, basis))
    with pytest.raises(InputError, match=r"of stage 'quantify' twice: let that stage stand once"):
        declared.check()


def test_a_window_outside_the_spectrum_names_its_ends() -> None:
    basis = press_basis()
    wide = Pipeline(name="wide", stages=(Quantify(window_ppm=(-90.0, 4.0)),))
    with pytest.raises(InputError, match=r"the spectrum reaches from -?\d.* ppm, choose a window"):
        wide.check(Context(basis.acquisition, basis))
