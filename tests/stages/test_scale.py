"""Concentrations against known truth, ratios with their SD, and everything that is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.io.basis_files import read_basis
from mrsi_engine.pipeline.pipeline import Pipeline, prepare_pipeline
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.quantities import CRLB, amplitude, ratio
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.proton_amplitudes import proton_amplitudes
from mrsi_engine.spectra.relaxation import shipped_table
from mrsi_engine.spectra.simulation import simulate_basis
from mrsi_engine.stages.eddy_current import EddyCurrent
from mrsi_engine.stages.quantify import Quantify
from mrsi_engine.stages.scale import (
    LITTLE_TISSUE,
    NO_REFERENCE,
    NO_TISSUE,
    NO_WATER,
    Scale,
)

BASES = Path(__file__).resolve().parents[3] / "shared" / "data" / "basis_slaser_3t"
TIMES = {"echo_time": 0.03, "repetition_time": 1.5}
AXIS = Acquisition(1024, 0.4e-3, 123.25, **TIMES)
CLASSES = ("gm", "wm", "csf")

#: Kept apart from the shipped table, so that nothing agrees by chance.
TABLE = """
name = "test"
spectrometer_frequency = [100, 150]
[water]
gm = { content = 0.8, t1 = 1.4, t2 = 0.09 }
wm = { content = 0.7, t1 = 0.9, t2 = 0.07 }
csf = { content = 1.0, t1 = 4.0, t2 = 0.6, metabolites = false }
[metabolites]
default = { t1 = 1.2, t2 = 0.15 }
NAA = { t1 = 1.5, t2 = 0.28 }
Ins = { t1 = 1.1, t2 = 0.2 }
[sources]
all = "invented"
"""
WATER = {"gm": (0.8, 1.4, 0.09), "wm": (0.7, 0.9, 0.07), "csf": (1.0, 4.0, 0.6)}
TRUE = {"NAA": 12.0, "Cr": 5.0, "PCr": 4.0, "GPC": 1.6, "Ins": 6.0, "Glu": 10.0}
METABOLITE_TIMES = {"NAA": (1.5, 0.28), "Ins": (1.1, 0.2)}


@pytest.fixture(scope="module")
def basis() -> Basis:
    return simulate_basis(
        "press",
        echo_time=0.03,
        spectrometer_frequency=AXIS.spectrometer_frequency,
        points=AXIS.points,
        dwell_time=AXIS.dwell_time,
        metabolites=tuple(TRUE),
    )


@pytest.fixture
def table(tmp_path) -> str:
    path = tmp_path / "table.toml"
    path.write_text(TABLE)
    return str(path)


def white(*shape: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*shape, 2)).view(complex)[..., 0]


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.complex64))


def left(t1: float, t2: float, echo: float, repetition: float) -> float:
    return (1 - math.exp(-repetition / t1)) * math.exp(-echo / t2)


def phantom(basis: Basis, voxels: int, noise: float = 0.02) -> Block:
    """Voxels of known concentration (mmol/kg of tissue water), as a scanner would see them.

    The signal of a mmol of protons, the tissue and the lines differ from voxel to voxel; the water
    is measured at another TE and TR.
    """
    rng = np.random.default_rng(1)
    tissue = rng.dirichlet([2, 2, 1], voxels)
    per_proton = rng.uniform(0.5, 2, (voxels, 1))
    litres_of_water = tissue * [WATER[c][0] for c in CLASSES]
    seen = litres_of_water @ [left(*WATER[c][1:], 0.02, 5.0) for c in CLASSES]
    water = 2 * 55.51e3 * per_proton * seen[:, None]
    kilograms = litres_of_water[:, :2].sum(1, keepdims=True)
    attenuated = {
        name: amount * left(*METABOLITE_TIMES.get(name, (1.2, 0.15)), 0.03, 1.5)
        for name, amount in TRUE.items()
    }
    signal = np.array([attenuated[name] for name in basis.names]) @ basis.fids
    turn = 2j * np.pi * rng.uniform(-3, 3, (voxels, 1)) - rng.uniform(5, 20, (voxels, 1))
    fids = per_proton * kilograms * signal * np.exp(turn * AXIS.time)
    eddy = 2j * np.exp(-AXIS.time / 0.02)
    reference = water * np.exp((turn - 8) * AXIS.time + eddy)
    return Block(
        tensor(fids + noise * white(voxels, AXIS.points, seed=2)),
        {
            "water": tensor(reference + 20 * noise * white(voxels, AXIS.points, seed=3)),
            "tissue": torch.from_numpy(tissue.astype(np.float32)),
        },
    )


def context(basis: Basis | None, **changes: object) -> Context:
    known = Context(
        AXIS,
        basis,
        companions=("water", "tissue"),
        classes={"tissue": CLASSES},
        timing={"water": {"echo_time": 0.02, "repetition_time": 5.0}},
    )
    return replace(known, **changes)


def scaled(basis: Basis, block: Block, stage: Scale, **changes: object) -> Block:
    known = context(basis, **changes)
    pipeline = Pipeline(name="test", stages=(Quantify(), stage)).check(known)
    return prepare_pipeline(pipeline, known)(block)


def test_the_true_concentration_within_its_sd(basis, table):
    voxels = 400
    done = scaled(basis, phantom(basis, voxels), Scale(quantity="molal", table=table))
    for label in ("NAA", "Ins", "Glu", "GPC", "CrPCr"):
        truth = sum(TRUE[n] for n in TRUE if n in label) if label == "CrPCr" else TRUE[label]
        z = (done.estimate[f"{label}_conc"] - truth) / done.sd[f"{label}_conc"]
        assert abs(float(z.mean())) < 4 / math.sqrt(voxels), label
        # The SD of an SD of n draws is 1/sqrt(2n); the fit itself is held to 0.95 to 1.10.
        assert 0.95 - 3 / math.sqrt(2 * voxels) < float(z.std()) < 1.1 + 3 / math.sqrt(2 * voxels)
    assert (done.measures["not_scaled"] == 0).all()


def test_molar_is_per_litre_of_tissue(basis, table):
    block = phantom(basis, 5)
    tissue = block.tissue.double()
    molal, molar = (
        scaled(basis, phantom(basis, 5), Scale(quantity=q, table=table)) for q in ("molal", "molar")
    )
    content = (tissue[:, :2] * torch.tensor([0.8, 0.7])).sum(1) / tissue[:, :2].sum(1)
    torch.testing.assert_close(
        molar.estimate["NAA_conc"], molal.estimate["NAA_conc"] * content, rtol=1e-6, atol=0
    )


@given(gain=st.floats(1e-6, 1e6), unit=st.floats(1e-3, 1e3), scale=st.floats(0.2, 5))
@settings(max_examples=4, deadline=None)
def test_units_of_data_basis_and_fractions_cancel(basis, gain, unit, scale):
    stage = Scale(quantity="molal", tissue={"gm": 0.6, "wm": 0.3})
    plain, changed = phantom(basis, 3), phantom(basis, 3)
    changed.fids, changed.water = changed.fids * gain, changed.water * gain
    fractions = {name: value * scale / 5 for name, value in stage.tissue.items()}
    want = scaled(basis, plain, stage)
    got = scaled(basis.scaled(unit), changed, stage.model_copy(update={"tissue": fractions}))
    for kind in ("estimate", "sd"):
        torch.testing.assert_close(
            getattr(got, kind)["NAA_conc"], getattr(want, kind)["NAA_conc"], rtol=5e-4, atol=0
        )


def test_one_bad_voxel_stops_nothing(basis):
    stage = Scale(quantity="molal", least_tissue=0.3)
    good, block = phantom(basis, 6), phantom(basis, 6)
    block.water[1] = 0
    block.water[2] = tensor(white(AXIS.points, seed=5))
    block.tissue[3] = torch.nan
    block.tissue[4] = torch.tensor([0.1, 0.1, 0.8])
    block.tissue[5] = 0
    want, done = scaled(basis, good, stage), scaled(basis, block, stage)
    reasons = [0, NO_WATER, NO_WATER, NO_TISSUE, LITTLE_TISSUE, NO_TISSUE]
    assert done.measures["not_scaled"].tolist() == reasons
    assert done.estimate["NAA_conc"][1:].isnan().all()
    assert done.sd["NAA_conc"][1:].isnan().all()
    assert done.estimate["NAA_conc"][0] == want.estimate["NAA_conc"][0]
    assert done.estimate["NAA"].isfinite().all()


def ratios(values: np.ndarray, covariance: np.ndarray, stage: Scale) -> Block:
    """The stage on amplitudes ``(voxel, 2)`` of NAA and Cr whose covariance is known."""
    written = (
        *(amplitude(n, "its amount") for n in ("NAA", "Cr")),
        ratio(amplitude("NAA", "its amount"), amplitude("Cr", "its amount"), "NAA over Cr", CRLB),
    )
    block = Block(torch.zeros(len(values), 16, dtype=torch.complex64))
    for i, name in enumerate(("NAA", "Cr")):
        block.estimate[name] = torch.from_numpy(values[:, i].copy())
        block.sd[name] = torch.full_like(block.estimate[name], math.sqrt(covariance[i, i]))
    block.covariance_with["Cr"] = {
        name: torch.full_like(block.estimate[name], covariance[i, 1])
        for i, name in enumerate(("NAA", "Cr"))
    }
    known = context(None, written=written)
    stage.check(known).build(known)(block)
    return block


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.8])
def test_the_sd_of_a_ratio_is_its_spread(correlation):
    sds = np.array([0.3, 0.15])
    covariance = np.outer(sds, sds) * [[1, correlation], [correlation, 1]]
    draws = np.random.default_rng(0).multivariate_normal([10, 8], covariance, 20_000)
    done = ratios(draws, covariance, Scale(reference="Cr"))
    found = done.estimate["NAA_conc"]
    # The delta method is exact to the square of the relative SD of the reference.
    bound = 4 / math.sqrt(2 * len(draws)) + (0.15 / 8) ** 2
    assert abs(float(found.std() / done.sd["NAA_conc"].mean()) - 1) < bound
    torch.testing.assert_close(done.estimate["Cr_conc"], torch.ones(len(draws)).double())
    assert done.sd["Cr_conc"].max() < 1e-7


def test_no_ratio_to_what_may_be_nothing():
    done = ratios(np.array([[3.0, 0.2], [3.0, -4.0], [3.0, 4.0]]), np.eye(2), Scale(reference="Cr"))
    assert done.measures["not_scaled"].tolist() == [NO_REFERENCE, NO_REFERENCE, 0]
    assert done.estimate["NAA_conc"].isnan().tolist() == [True, True, False]


def test_the_true_ratio_within_its_sd(basis):
    voxels = 400
    done = scaled(basis, phantom(basis, voxels), Scale(reference="CrPCr"))
    seen = {n: c * left(*METABOLITE_TIMES.get(n, (1.2, 0.15)), 0.03, 1.5) for n, c in TRUE.items()}
    for label in ("NAA", "Ins", "PCr"):
        ratio = seen[label] / (seen["Cr"] + seen["PCr"])
        z = (done.estimate[f"{label}_conc"] - ratio) / done.sd[f"{label}_conc"]
        assert abs(float(z.mean())) < 4 / math.sqrt(voxels), label
        assert 0.95 - 3 / math.sqrt(2 * voxels) < float(z.std()) < 1.1 + 3 / math.sqrt(2 * voxels)


def test_a_ratio_without_its_covariance_is_refused(basis):
    match = r"covariance with NAA is not kept.* set ratio_to = \[\"NAA\"\]"
    with pytest.raises(InputError, match=match):
        scaled(basis, phantom(basis, 1), Scale(reference="NAA"))
    pipeline = Pipeline(name="t", stages=(Quantify(ratio_to=("NAA",)), Scale(reference="NAA")))
    assert pipeline.check(context(basis)) is pipeline
    block = Block(torch.zeros(1, 16, dtype=torch.complex64))
    block.estimate["Cr"] = block.sd["Cr"] = torch.ones(1)
    known = context(None, written=(amplitude("Cr", "its amount"),))
    with pytest.raises(InputError, match="covariance with Cr is not kept"):
        Scale(reference="Cr").build(known)(block)


def test_raw_leaves_everything_alone(basis):
    block = phantom(basis, 2)
    names = set(scaled(basis, block, Scale(quantity="raw")).estimate)
    assert not any(name.endswith("_conc") for name in names)


def test_every_assumption_is_told(basis, table):
    stages = (Quantify(), Scale(quantity="molal", table=table, water_gain=0.5))
    told = Pipeline(name="test", stages=stages).assumptions(context(basis))["scale"]
    assert told["Water"]["gm"]["t1"] == 1.4
    assert told["Water"]["gm"]["attenuation"] == pytest.approx(left(1.4, 0.09, 0.02, 5.0))
    assert told["Metabolites"]["Glu"]["t2"] == 0.15
    assert told["Sources"] == {"all": "invented"}
    assert told["BasisProtonAmplitude"] == pytest.approx(1, rel=1e-3)
    assert (told["WaterGain"], told["RepetitionTime"], told["WaterEchoTime"]) == (0.5, 1.5, 0.02)


@pytest.mark.parametrize(
    ("setting", "change", "match"),
    [
        (
            {"quantity": "molal"},
            {"companions": ("tissue",)},
            r"needs a water reference: give --water",
        ),
        ({"quantity": "molar"}, {"classes": {}}, r"needs tissue fractions: give --tissue"),
        (
            {"quantity": "molal"},
            {"classes": {"tissue": ("bg", "gm")}},
            r"has no water of tissue bg; it has gm, wm, csf. Name classes without water in without",
        ),
        (
            {"quantity": "molal"},
            {"classes": {"tissue": ("csf",)}},
            "none of .* csf holds metabolites",
        ),
        (
            {"quantity": "molal"},
            {"timing": {"water": {"echo_time": 0.02}}},
            r"do not say water_repetition_time.* state them in the stage",
        ),
        (
            {"quantity": "molal"},
            {"acquisition": replace(AXIS, spectrometer_frequency=297.2)},
            r"'human brain at 3 T' holds for 110 to 140 MHz, the scan has 297.2 MHz; give a table",
        ),
        ({"reference": "Lac"}, {}, r"reference = 'Lac' is not quantified; there are NAA,"),
        ({}, {"dimensions": ("coil",)}, "coil"),
    ],
)
def test_refusals(basis, setting, change, match):
    written = tuple(amplitude(n, "its amount") for n in basis.names)
    with pytest.raises(InputError, match=match):
        Scale(**setting).check(context(basis, **{"written": written, **change}))


def test_there_must_be_something_to_scale(basis):
    with pytest.raises(InputError, match="nothing to scale; put it after a stage 'quantify'"):
        Pipeline(name="test", stages=(Scale(), Quantify())).check(context(basis))


def test_a_basis_without_a_common_unit_is_refused(basis):
    fids = basis.fids.copy()
    fids[basis.names.index("NAA")] *= 2
    written = (amplitude("NAA", "its amount"),)
    stage = Scale(quantity="molal")
    with pytest.raises(InputError, match=r"disagree on the amplitude of one proton \(Cr 1, "):
        stage.check(context(replace(basis, fids=fids), written=written))
    written = (amplitude("Ins", "its amount"),)
    with pytest.raises(InputError, match=r"holds none of Cr, PCr, .* state the amplitude of one"):
        stage.check(context(basis.select(["Ins", "Glu"]), written=written))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name = ", "is not TOML"),
        (TABLE.replace("t1 = 1.4", "t1 = -1"), r"water\.gm\.t1: Input should be greater than 0"),
        (TABLE + "\n[more]\n", r"more: Extra inputs are not permitted"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, match):
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"{path}.*{match}"):
        _from_settings(table=str(path))
    with pytest.raises(InputError, match=r"none.toml cannot be read: No such file"):
        _from_settings(table=str(tmp_path / "none.toml"))


def _from_settings(**scale: object) -> Pipeline:
    stage = {"stage": "scale", "quantity": "molal", **scale}
    return Pipeline.from_settings({"name": "t", "stages": [stage]})


def test_settings_hold_the_table_and_not_its_place(tmp_path, table):
    pipeline = _from_settings(table=table)
    Path(table).unlink()
    again = Pipeline.from_settings(pipeline.settings())
    assert again == pipeline
    assert again.settings()["stages"][0]["table"]["water"]["gm"]["t1"] == 1.4


def test_a_sum_of_unlike_parts_needs_its_own_row():
    table = shipped_table().model_copy(update={"metabolites": {
        name: row for name, row in shipped_table().metabolites.items() if name != "NAANAAG"
    }})  # fmt: skip
    assert table.row("CrPCr") == table.row("Cr")
    assert table.row("Ser") == table.metabolites["default"]
    with pytest.raises(InputError, match=r"NAA and NAAG have different times.* add a row NAANAAG"):
        table.row("NAANAAG")


def test_low_flip_angles_saturate_less():
    row = shipped_table().row("NAA")
    full, low = (row.attenuation(0.001, 0.4, angle) for angle in (90, 40))
    assert full == pytest.approx((1 - math.exp(-0.4 / 1.41)) * math.exp(-0.001 / 0.3005))
    assert low > 1.2 * full
    assert row.attenuation(0, 100, 30) == pytest.approx(math.sin(math.radians(30)))


@pytest.mark.skipif(not BASES.exists(), reason="real basis sets are not beside this checkout")
def test_the_unit_of_a_real_basis_set():
    """This package's FSL-MRS basis gives half a unit a proton, whatever the metabolite."""
    found = proton_amplitudes(read_basis(BASES / "fsl_json"))
    assert set(found) == {"Cr", "PCr", "PCh", "GPC", "NAA"}
    for value in found.values():
        assert value == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("corrected", [True, False])
def test_no_concentration_by_water_that_is_cut_off(basis, corrected):
    block = phantom(basis, 4)
    water = block.companions["water"]
    most = 0.4 * float(water[0].abs().max())
    water[0] = torch.complex(water[0].real.clamp(-most, most), water[0].imag.clamp(-most, most))
    known = context(basis)
    stages = (*([EddyCurrent()] if corrected else []), Quantify(), Scale(quantity="molal"))
    pipeline = Pipeline(name="test", stages=stages).check(known)
    done = prepare_pipeline(pipeline, known)(block)
    assert done.measures["not_scaled"].tolist() == [5, 0, 0, 0]
    assert done.estimate["NAA_conc"].isnan().tolist() == [True, False, False, False]


def test_a_reference_may_be_named_by_its_title(basis):
    stage = Scale(quantity="ratio", reference="tCho")
    assert stage.assumptions(context(basis))["Reference"] == "GPCPCh"
