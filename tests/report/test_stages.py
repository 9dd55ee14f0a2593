"""The section on what each stage did: every stage, what it wrote, and why one was left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from mrsi_engine.conventions import Status
from mrsi_engine.fpc import quantities as fpc
from mrsi_engine.pipeline.stage import Context, Stage, State
from mrsi_engine.pipeline.trace import StageTrace
from mrsi_engine.quantities import amplitude
from mrsi_engine.report.before_after import before_and_after
from mrsi_engine.report.examples import example_voxels
from mrsi_engine.report.html import write_report
from mrsi_engine.report.stages import stages_content
from mrsi_engine.stages.coil_combination import CoilCombination
from mrsi_engine.stages.denoise import Denoise
from mrsi_engine.stages.eddy_current import EddyCurrent
from mrsi_engine.stages.fpc import FrequencyPhaseCorrection
from mrsi_engine.stages.water_removal import METABOLITE_CHANGE, WATER_RESIDUAL, WaterRemoval
from tests.report.synthetic import ACQUISITION, brain_result, with_measure, with_parameter
from tests.report.test_html import Page


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    """A brain whose pipeline also corrected signals, with what the stages write."""
    brain = brain_result((6, 6, 2), signals=True)
    rng = np.random.default_rng(0)
    for quantity in (fpc.SHIFT, fpc.PHASE):
        fitted = brain.sel(parameter=quantity.name.removeprefix("fpc_"))
        brain = with_parameter(brain, quantity, fitted["estimate"], fitted["sd"])
    for quantity in (fpc.APPLIED, *fpc.SIMILARITY, WATER_RESIDUAL, METABOLITE_CHANGE):
        values = 1.0 if quantity is fpc.APPLIED else rng.uniform(0.2, 0.9, brain.sizes["voxel"])
        brain = with_measure(brain, quantity, values)
    return brain


def trace(
    stage: Stage, index: int, before: np.ndarray, after: np.ndarray, state: State | None = None
) -> StageTrace:
    context = Context(ACQUISITION, state=state or {})
    declaration = stage.declare(context)
    fids = (torch.from_numpy(f.astype(np.complex64)) for f in (before, after))
    return StageTrace(index, stage, context, *fids, (), declaration)


@pytest.fixture(scope="module")
def traces(result: xr.Dataset) -> list[StageTrace]:
    clean = result["corrected"].values[list(example_voxels(result))]
    wet = clean + 300 * np.exp((2j * np.pi * ACQUISITION.frequency_of(4.7) - 15) * ACQUISITION.time)
    matrices = {
        f"similarity_matrix_{when}": torch.rand(5, 5, generator=torch.manual_seed(0))
        for when in ("before", "after")
    }
    skipped = trace(EddyCurrent(optional=True), 0, wet, wet)
    return [
        replace(skipped, skipped=EddyCurrent().lacks(skipped.context)),
        trace(FrequencyPhaseCorrection(), 1, 1j * wet, wet, matrices),
        trace(WaterRemoval(), 2, wet, clean),
        replace(trace(Denoise(), 3, clean, 0.9 * clean), noise_sd=torch.tensor([0.5, 0.5, 0.5])),
    ]


@pytest.fixture(scope="module")
def page(
    result: xr.Dataset, traces: list[StageTrace], tmp_path_factory: pytest.TempPathFactory
) -> Page:
    few = result.sel(parameter=["NAA", "shift", "phase", "fpc_shift", "fpc_phase"])
    few.attrs["pipeline"] = {"stages": [{"stage": "denoise"}]}
    return Page(write_report(few, tmp_path_factory.mktemp("s") / "r.html", traces=traces))


def test_every_stage_has_its_place(page: Page) -> None:
    assert {f"stage-{n}" for n in (1, 2, 3, 4)} <= page.ids()
    alts = [str(a["alt"]) for tag, a in page.tags if tag == "img"]
    for name in ("fpc", "water_removal", "denoise"):
        assert f"Before and after stage {name}" in alts
    assert "Before and after stage eddy_current" not in alts
    assert alts.count("Similarity matrices before and after stage fpc") == 1
    assert "Similarity of each of 5 signals" in page.text
    assert "Skipped: the scan has no water reference." in page.text
    assert page.open == []


def test_every_quantity_is_shown_once(page: Page) -> None:
    alts = [str(a["alt"]) for tag, a in page.tags if tag == "img"]
    for title in (
        "FPC shift", "FPC phase", "Similarity before", "Similarity", "Water residual",
        "Metabolite change",
    ):  # fmt: skip
        assert alts.count(f"{title} map") == 1, title
    assert "FPC applied 1 everywhere" in page.text
    assert "CRLB of FPC shift 0.05 Hz everywhere Cramér-Rao lower bound" in page.text
    assert "what is left holds noise, and macromolecules and metabolites near water." in page.text


def test_before_and_after_share_a_scale(page: Page) -> None:
    def ticks(title: str) -> list[str]:
        after = page.source.split(f"<span>{title}</span>")[1].split('class="scale"')[1]
        return re.findall(r"<span>(.*?)</span>", after)[:3]

    assert ticks("Similarity before") == ticks("Similarity")
    assert ticks("FPC shift") != ticks("FPC phase")


def test_denoising_is_owned_up_to(page: Page) -> None:
    assert "takes noise away" in page.text
    assert "(SD 0.5 per real channel in the voxels drawn)" in page.text
    assert "The signals were denoised before the fit" in page.text


def test_the_fit_and_what_follows_are_no_cleaning(
    result: xr.Dataset, traces: list[StageTrace]
) -> None:
    fitted = amplitude("NAA", "amplitude")
    declaration = replace(traces[2].declaration, parameters=(fitted,))
    fit = replace(traces[2], declaration=declaration)
    content = stages_content(result, [traces[0], fit, traces[3]])
    assert [stage.name for stage in content["stages"]] == ["eddy_current"]
    assert stages_content(result, ()) == {"stages": [], "gain": None, "written": set()}


def test_few_voxels_get_numbers(result: xr.Dataset, traces: list[StageTrace]) -> None:
    one = result.isel(voxel=[5])
    single = [replace(t, before=t.before[:1], after=t.after[:1]) for t in traces[2:]]
    content = stages_content(one, single)
    water = content["stages"][0]
    assert water.pictures == ()
    residual = float(one["quality"].sel(measure="water_residual")[0])
    title, value, doc = water.values[0]
    assert (title, float(value)) == ("Water residual", pytest.approx(residual, rel=0.01))
    assert doc.startswith("Signal energy in 4.2-5.1 ppm")
    assert [row.step for row in content["gain"].rows][-1] == "4. denoise"


def test_spectra_stand_in_the_phase_of_the_clean_one(
    result: xr.Dataset, traces: list[StageTrace]
) -> None:
    """The fit's phase makes NAA upright after the stage; the quarter turn before it is seen."""
    rows = before_and_after(result, traces[1], traces[2], (1.0, 4.2))
    assert [row.title.split(":")[0] for row in rows] == [
        "Best voxel", "Median voxel", "Worst voxel",
    ]  # fmt: skip
    for row in rows:
        near = (row.ppm > 1.9) & (row.ppm < 2.1)
        assert row.after.shape == row.before.shape == (1, len(row.ppm))
        after, before = row.after[0, near], row.before[0, near]
        assert after.max() > 2 * abs(after.min())
        assert before.max() < 0.8 * after.max()


def test_one_coil_is_brought_to_the_height_of_all(result: xr.Dataset) -> None:
    """Else a combination of another scale could not be compared with it."""
    clean = result["corrected"].values[list(example_voxels(result))]
    weights = np.array([0.1, 0.02j])[:, None]
    combined = trace(CoilCombination(), 0, clean[:, None] * weights, clean)
    combined = replace(combined, context=replace(combined.context, dimensions=("coil",)))
    for row in before_and_after(result, combined, combined, (1.0, 4.2)):
        np.testing.assert_allclose(row.before, row.after, atol=1e-3 * row.after.max())
        assert row.note == "strongest coil, scaled to the combination"


def test_of_many_transients_some_are_drawn(result: xr.Dataset) -> None:
    clean = result["corrected"].values[list(example_voxels(result))][:, None]
    mean = trace(WaterRemoval(), 0, clean.repeat(40, axis=1), clean[:, 0])
    mean = replace(mean, context=replace(mean.context, dimensions=("dynamic",)))
    (first, *_) = before_and_after(result, mean, mean, (1.0, 4.2))
    assert (len(first.before), len(first.after)) == (16, 1)
    assert first.note == "16 transients, broadened by 5 Hz"


def test_where_nothing_is_fitted_voxels_are_spread_over_the_mask() -> None:
    result = brain_result((6, 6, 2))
    result["status"][:] = Status.CORRECTED
    result["quality"][:] = np.nan
    assert list(example_voxels(result)) == [8, 16, 24]
    assert example_voxels(result.isel(voxel=[5])) == {0: "Example 1"}
    result["status"][:] = Status.NO_FIT
    assert example_voxels(result) == {}


def test_one_voxel_needs_no_rank() -> None:
    assert example_voxels(brain_result((6, 6, 2)).isel(voxel=[5])) == {0: "Voxel"}


def test_older_results_have_no_such_section(tmp_path: Path) -> None:
    few = brain_result((6, 6, 2)).sel(parameter=["NAA"])
    page = Page(write_report(few, tmp_path / "r.html", remarks=["No spectra are drawn: gone"]))
    assert "stages" not in page.ids()
    assert "No spectra are drawn: gone" in page.text
