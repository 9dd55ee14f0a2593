"""A stage of anybody's declares a quantity once, and it is in maps, table and report."""

import json
from typing import ClassVar

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import write_scan
from scripted import Moments

from mrsi_engine.conventions import Status
from mrsi_engine.engine.driver import run
from mrsi_engine.engine.plan import plan
from mrsi_engine.errors import InputError
from mrsi_engine.io.result_quantities import total_of
from mrsi_engine.io.result_store import open_result
from mrsi_engine.io.signals import export_signals
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Stage
from mrsi_engine.quantities import (
    Declaration,
    Role,
    concentration,
    lineshape,
    measure_of,
    property_of,
    quality,
    reason,
    signal,
)
from mrsi_engine.report.html import write_report
from mrsi_engine.report.tables import metabolite_table
from mrsi_engine.runs.reporting import export

QUIET = np.setdiff1d(np.arange(100), [3, 17, 50])


class Relaxation(Stage):
    """A T2 and a measure of every amplitude, a shift that says what it adds to, and a signal."""

    stage: ClassVar[str] = "test_relaxation"
    processing_method: ClassVar[str] = "Relaxation measurement"
    adds_to: str = ""

    def declare(self, context):
        one = context.written[0]
        t2 = property_of(one, "t2", "ms", "transverse relaxation time", "spread of T2", title="T2")
        share = measure_of(one, "share", "%", "share of the signal", title="Share", fill=0.0)
        shift = lineshape("resp_shift", "Hz", "shift by respiration", adds_to=self.adds_to)
        slow = signal("slow", "the part that decays slowly")
        return Declaration((t2, shift), (share,), (slow,))

    def build(self, context):
        def apply(block):
            for table, name, value in (
                (block.estimate, "t2_mean", 120.0),
                (block.sd, "t2_mean", 6.0),
                (block.estimate, "resp_shift", 50.0),
                (block.sd, "resp_shift", 1.0),
                (block.measures, "share_mean", 25.0),
            ):
                table[name] = block.fids.real.new_full((len(block.fids),), value)
            if block.keep_signals:
                block.signals["slow"] = block.fids / 4
            block.status[:] = Status.LEAST_SQUARES

        return apply


def result_of(scan, out, *stages, keep=()):
    pipeline = Pipeline(name="own", stages=stages)
    run(plan(scan.path, pipeline, None, out, block_size=30, keep=keep), workers=0)
    return open_result(out)


def read(folder, entities):
    (path,) = folder.glob(f"*_space-orig_{entities}_mrsi.nii.gz")
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    return nib.load(path).get_fdata(), json.loads(sidecar.read_text())


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    scan = write_scan(folder / "scan.zarr", bad={3: np.nan, 17: 0, 50: np.inf})
    return result_of(scan, folder / "out", Moments(), Relaxation(), keep=("slow",)).load()


@pytest.fixture(scope="module")
def exported(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export(result, folder, "nan")
    return folder


def test_one_declaration_is_a_map_with_its_meaning(exported):
    values, said = read(exported / "maps", "met-mean_desc-t2")
    assert (values[np.isfinite(values)] == 120).all()
    assert np.isfinite(values).sum() == len(QUIET)
    known = ("Role", "Of", "Units", "Definition", "Estimator", "Stage", "Statistic", "NoFit")
    assert [said[name] for name in known] == [
        "property", "mean", "ms", "transverse relaxation time", "main", "test_relaxation",
        "estimate", "NaN",
    ]  # fmt: skip
    values, said = read(exported / "maps", "met-mean_desc-t2sd")
    assert (values[np.isfinite(values)] == 6).all()
    assert (said["Statistic"], said["SD"]) == ("standard deviation", "spread of T2")
    values, said = read(exported / "maps", "met-mean_desc-share")
    assert (values[np.isfinite(values)] == 25).all()
    assert (said["Role"], said["Of"], said["Units"]) == ("quality", "mean", "%")


def test_one_declaration_fills_maps_for_others(result, tmp_path):
    export(result, tmp_path / "e", "mrsiprep")
    values, said = read(tmp_path / "e" / "maps", "met-mean_desc-share")
    assert np.isfinite(values).all()
    assert said["NoFit"] == 0
    values, said = read(tmp_path / "e" / "maps", "met-mean_desc-t2")
    assert np.isnan(values).any()
    assert said["NoFit"] == "NaN"


def test_one_declaration_is_a_column(exported):
    table = pq.read_table(exported / "voxels.parquet")
    assert (table["t2_mean"].to_numpy()[QUIET] == 120).all()
    assert (table["share_mean"].to_numpy()[QUIET] == 25).all()
    said = {k.decode(): v.decode() for k, v in table.field("t2_mean").metadata.items()}
    assert said == {
        "unit": "ms",
        "description": "transverse relaxation time",
        "role": "property",
        "of": "mean",
        "estimator": "main",
        "stage": "test_relaxation",
    }
    assert table.field("t2_mean_sd").metadata[b"description"] == b"spread of T2"
    assert "t2_mean_crlb" not in table.column_names


def test_one_declaration_is_a_row_and_a_map_of_the_report(result, tmp_path):
    rows = {row.label: row for row in metabolite_table(result)}
    t2, share = rows["t2_mean"], rows["share_mean"]
    assert (t2.title, t2.unit, t2.role, t2.median) == ("T2 of Mean", "ms", Role.PROPERTY, 120)
    assert (t2.crlb, t2.reliable_percent) == (5, 100)
    assert (share.title, share.unit, share.median) == ("Share of Mean", "%", 25)
    assert np.isnan(share.crlb)
    page = write_report(result, tmp_path / "r.html").read_text()
    for title, section in (
        ("T2 of Mean", "Other properties of metabolites"),
        ("Share of Mean", "Measures of metabolites"),
    ):
        assert page.index(section) < page.index(f">{title}</a>")
        assert f'alt="{title} map"' in page
    assert "Ratios of amplitudes" not in page, "a section without rows"


def test_one_declaration_is_a_signal_on_request(result, tmp_path):
    (path,) = export_signals(result, tmp_path / "s")
    assert path.name.endswith("_space-orig_desc-slow_mrsi.nii.gz")
    extension = json.loads(nib.load(path).header.extensions[0].get_content())
    methods = [entry["Method"] for entry in extension["ProcessingApplied"]]
    assert methods == ["test_moments", "Relaxation measurement", "Export"]


def test_only_a_shift_that_says_so_moves_the_total(scan, tmp_path):
    silent = result_of(scan, tmp_path / "silent", Moments(), Relaxation())
    with pytest.raises(InputError, match="no stage of its pipeline found any shift"):
        total_of(silent, "b0shift")
    export(silent, tmp_path / "e", "nan")
    assert (read(tmp_path / "e" / "maps", "desc-respshift")[1]["Role"]) == "lineshape"
    adding = result_of(scan, tmp_path / "adding", Moments(), Relaxation(adds_to="b0shift"))
    assert (total_of(adding, "b0shift")["estimate"][QUIET] == 50).all()


class Clashing(Stage):
    """A quantity whose map or column another one has."""

    stage: ClassVar[str] = "test_clashing"
    what: str = "map"

    def declare(self, context):
        name = {"map": "ener_gy", "every": "brain_mask", "column": "mean_sd"}[self.what]
        return Declaration(measures=(quality(name, "1", "something else"),))

    def build(self, context):
        raise AssertionError("found before anything is built")


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("map", r"the map 'desc-energy' would be that of 'energy' of stage 'test_moments' and of "
         r"'ener_gy' of stage 'test_clashing'; declare one of them with another name"),
        ("every", "the map 'desc-brainmask' would be that of what every result has and of"),
        ("column", "the column 'mean_sd' would be that of 'mean' of stage 'test_moments' and of"),
    ],
)  # fmt: skip
def test_two_of_one_name_are_found_before_the_run(scan, tmp_path, what, match):
    pipeline = Pipeline(name="clash", stages=(Moments(), Clashing(what=what)))
    with pytest.raises(InputError, match=match):
        plan(scan.path, pipeline, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class OwnScale(Stage):
    """Concentrations of one's own, with a code of one's own or none for those that are missing."""

    stage: ClassVar[str] = "test_own_scale"
    explained: bool = True

    def declare(self, context):
        doc = "amount by a phantom"
        scaled = concentration(context.written[0], "mmol/L", doc, "of the fit alone")
        reasons = (reason("no_phantom", "0 there is one, 1 none", "No phantom"),)
        return Declaration((scaled,), reasons if self.explained else ())

    def assumptions(self, context):
        return {"Phantom": "replaced by a number"}

    def build(self, context):
        def apply(block):
            value = block.estimate["mean"].clone()
            value[0] = np.nan
            block.estimate["mean_conc"] = block.sd["mean_conc"] = value
            block.measures["no_phantom"] = value.isnan().double()

        return apply


@pytest.mark.parametrize("explained", [True, False])
def test_concentrations_of_another_stage_say_what_they_rest_on(scan, tmp_path, explained):
    result = result_of(scan, tmp_path / "out", Moments(), OwnScale(explained=explained))
    export(result, tmp_path / "e", "nan")
    _, said = read(tmp_path / "e" / "maps", "met-mean_desc-conc")
    assert said["Assumptions"] == {"Phantom": "replaced by a number"}
    page = write_report(result, tmp_path / "r.html").read_text()
    blocks = 4
    assert ("NotScaled" in said) == explained == (f"{blocks} voxels fitted but without" in page)
    if explained:
        assert said["NotScaled"]["Definition"] == "0 there is one, 1 none"
        assert said["NotScaled"]["Voxels"] == {"0": len(QUIET) - blocks, "1": blocks}
