"""The quantify stage: what it declares, writes and refuses."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsi_engine.conventions import Acquisition, Status
from mrsi_engine.errors import InputError
from mrsi_engine.fit.groups import (
    BaselineSettings,
    DelaySettings,
    LipidSettings,
    MacromoleculeSettings,
)
from mrsi_engine.pipeline.stage import Context
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.stages.quantify import Quantify
from tests.scenes import (
    GREY_MATTER,
    Lineshape,
    clean_fid,
    noise,
    press_basis,
    run_stage,
    sd_for_snr,
)


def context(basis: Basis | None = None) -> Context:
    basis = basis or press_basis()
    return Context(basis.acquisition, basis)


def parameters(stage: Quantify, basis: Basis | None = None) -> dict[str, str]:
    """Names of declared parameters and their kinds."""
    return {q.name: q.role for q in stage.declare(context(basis)).parameters}


def test_declares_metabolites_macromolecules_sums_and_lineshape():
    declared = parameters(Quantify())
    by_kind = {k: [n for n, kind in declared.items() if kind == k] for k in declared.values()}
    assert by_kind["metabolite"] == list(press_basis().metabolites)
    assert by_kind["macromolecule"] == ["MM"]
    assert by_kind["combination"] == ["NAANAAG", "CrPCr", "GPCPCh", "GluGln"]
    assert by_kind["lineshape"] == ["phase", "shift", "lorentzian"]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (Quantify(lineshape="gaussian"), ["phase", "shift", "gaussian"]),
        (Quantify(lineshape="voigt"), ["phase", "shift", "lorentzian", "gaussian"]),
        (
            Quantify(macromolecules={"lineshape": "own"}),
            ["phase", "shift", "lorentzian", "shift_mm", "lorentzian_mm"],
        ),
        (
            Quantify(macromolecules={"lineshape": "own", "max_offset_hz": 0}),
            ["phase", "shift", "lorentzian", "lorentzian_mm"],
        ),
        (
            Quantify(macromolecules={"lineshape": "own", "source": "none"}),
            ["phase", "shift", "lorentzian"],
        ),
    ],
)
def test_declares_the_lineshape_that_is_fitted(stage, expected):
    assert [n for n, kind in parameters(stage).items() if kind == "lineshape"] == expected


def test_titles_and_units():
    declared = {q.name: q for q in Quantify().declare(context()).parameters}
    assert declared["NAANAAG"].label == "tNAA"
    assert declared["shift"].units == "Hz"
    assert declared["lorentzian"].units == "1/s"
    assert all(q.doc and q.units for q in declared.values())


@pytest.mark.parametrize(
    ("choice", "present"),
    [("basis", {"MM"}), ("none", set()), ("pattern", {"MM"}), ("lines", {"MM09", "MM20"})],
)
def test_macromolecules_as_asked_for(choice, present):
    found = {n for n, kind in parameters(Quantify(macromolecules={"source": choice})).items()
             if kind == "macromolecule"}  # fmt: skip
    assert present <= found
    assert bool(found) == bool(present)


@pytest.mark.parametrize(("choice", "present"), [("none", 0), ("lines", 4), ("basis", 1)])
def test_lipids_are_apart_from_macromolecules(choice, present):
    lipid = press_basis().extended(("Lip13",), press_basis()["MM"][None])
    found = parameters(Quantify(lipids={"source": choice}), lipid)
    assert "MM" in found
    assert sum(name.startswith("Lip") for name in found) == present


def test_left_out_metabolites_are_gone():
    declared = parameters(Quantify(leave_out=("PCr", "mIns")))
    assert not {"PCr", "Ins", "CrPCr"} & set(declared)
    assert "Cr" in declared


def mean_estimate(stage: Quantify, name: str, truth: Lineshape) -> float:
    basis = press_basis()
    fid = clean_fid(basis, GREY_MATTER, truth)
    return run_stage(stage, basis, fid[None]).estimate[name].item()


def test_units_of_the_lineshape_are_those_declared():
    truth = Lineshape(lorentzian=7.0, gaussian=11.0, shift=-3.0, phase=-0.7)
    stage = Quantify(lineshape="voigt")
    for name, value in {"lorentzian": 7, "gaussian": 11, "shift": -3, "phase": -0.7}.items():
        assert mean_estimate(stage, name, truth) == pytest.approx(value, rel=1e-3)


def test_macromolecule_offset_is_against_the_metabolites():
    truth = Lineshape(shift=4.0, shift_mm=2.0, lorentzian=6.0, lorentzian_mm=25.0)
    stage = Quantify(macromolecules={"lineshape": "own"})
    for name, value in {
        "shift": 4.0,
        "shift_mm": 2.0,
        "lorentzian": 6.0,
        "lorentzian_mm": 25.0,
    }.items():
        assert mean_estimate(stage, name, truth) == pytest.approx(value, rel=5e-3)


# --- refusals ------------------------------------------------------------------------------------


def refusal(stage: Quantify, basis: Basis | None = None) -> str:
    with pytest.raises(InputError) as caught:
        stage.check(context(basis))
    return str(caught.value)


def test_accepts_a_brain_scan():
    assert Quantify().check(context()) == Quantify()


def test_needs_a_basis():
    with pytest.raises(InputError, match="needs a basis: give --basis"):
        Quantify().check(Context(press_basis().acquisition))


def test_refuses_a_basis_that_is_not_on_the_scans_axis():
    scan = press_basis(512, 0.5e-3).acquisition
    with pytest.raises(InputError, match=r"1024 points of 0.00025 s, the scan 512 of 0.0005 s"):
        Quantify().check(Context(scan, press_basis()))


def test_refuses_a_window_outside_the_spectrum():
    message = refusal(Quantify(window_ppm=(-20.0, 4.0)))
    assert "window_ppm = [-20.0, 4.0]" in message
    assert "leaves the spectral width of 4000 Hz" in message


def test_refuses_a_noise_range_that_holds_too_little():
    message = refusal(Quantify(noise_ppm=(-11.5, 20.8)))
    assert "5 points of the spectrum" in message
    assert "State a narrower range" in message


def test_refuses_to_leave_out_what_is_not_there():
    assert "no metabolite ['Xyz']" in refusal(Quantify(leave_out=("Xyz",)))


def test_refuses_to_leave_out_everything():
    stage = Quantify(leave_out=press_basis().metabolites)
    assert "leaves no metabolite to fit" in refusal(stage)


def test_refuses_more_parameters_than_data():
    message = refusal(Quantify(baseline={"kind": "spline", "splines_per_ppm": 50}))
    assert "126 complex points lie in window_ppm" in message
    assert "lower splines_per_ppm" in message
    assert "too few for 21 amplitudes" in refusal(Quantify(window_ppm=(2.0, 2.3)))


def test_refuses_the_3t_pattern_at_another_field():
    axis = Acquisition(1024, 0.2e-3, 297.2)
    line = np.exp((2j * np.pi * axis.frequency_of(2.0) - 5) * axis.time)
    basis = Basis(("NAA",), line[None], axis)
    message = refusal(Quantify(macromolecules={"source": "pattern"}), basis)
    assert "3 T" in message


# --- any settings --------------------------------------------------------------------------------

ANY = st.builds(
    Quantify,
    window_ppm=st.tuples(st.floats(-0.5, 1.8), st.floats(3.3, 4.4)),
    amplitudes=st.sampled_from(["free", "nonnegative", "map", ("nonnegative", "map", "free")]),
    lineshape=st.sampled_from(["lorentzian", "gaussian", "voigt"]),
    macromolecules=st.builds(
        MacromoleculeSettings,
        source=st.sampled_from(["basis", "none", "pattern", "lines"]),
        lineshape=st.sampled_from(["shared", "own"]),
        lines=st.sampled_from(["gaussian", "lorentzian"]),
        max_offset_hz=st.floats(0, 20),
    ),
    leave_out=st.sets(st.sampled_from(["NAA", "PCr", "Cr", "Glu", "sIns", "Asp"])).map(tuple),
    lipids=st.builds(
        LipidSettings,
        source=st.sampled_from(["basis", "none", "lines"]),
        lineshape=st.sampled_from(["shared", "own"]),
    ),
    baseline=st.builds(
        BaselineSettings,
        kind=st.sampled_from(["none", "spline", "polynomial"]),
        splines_per_ppm=st.floats(0.1, 8),
        stiffness=st.sampled_from([0.0, 1e-3, 1.0, 1e6, "adaptive"]),
        order=st.integers(0, 4),
    ),
    metabolite_shift_sd_hz=st.sampled_from([0.0, 0.0, 0.5]),
    first_order_phase=st.builds(
        DelaySettings,
        delay_ms=st.sampled_from([0.0, 0.05]),
        sd_ms=st.sampled_from([0.0, 0.05]),
    ),
    skip_points=st.integers(0, 5),
    acquired_points=st.sampled_from([None, 450, 512]),
    errors=st.sampled_from(["noise", "residual"]),
    ratio_to=st.sampled_from([(), ("Ins",), ("Ins", "GPCPCh")]),
    max_shift_hz=st.floats(0.1, 60),
    max_damping=st.floats(0.1, 150),
    noise_ppm=st.tuples(st.floats(-5, -0.5), st.floats(5, 12)),
    max_iterations=st.integers(1, 40),
)


@cache
def spectra() -> np.ndarray:
    basis = press_basis(512, 0.4e-3)
    fid = clean_fid(basis, GREY_MATTER, Lineshape())
    return fid + noise(np.random.default_rng(0), 6, 512, sd_for_snr(basis, fid, 30.0))


@given(stage=ANY)
@settings(max_examples=40, deadline=None)
def test_any_settings_write_what_they_declare_and_finite(stage):
    basis = press_basis(512, 0.4e-3)
    known = context(basis)
    declared = stage.check(known).declare(known)
    block = run_stage(stage, basis, spectra(), keep_signals=True)
    names = [q.name for q in declared.parameters]
    assert list(block.estimate) == list(block.sd) == names
    assert list(block.measures) == [q.name for q in declared.measures]
    assert sorted(block.signals) == sorted(q.name for q in declared.signals)
    assert (block.status == Status.LEAST_SQUARES).all()
    for name in names:
        # A ratio to an amplitude that is on its bound is not known.
        unknown = "_per_" in name and (block.estimate[name.split("_per_")[1]] == 0)
        assert (block.estimate[name].isfinite() | unknown).all(), name
        assert not (block.sd[name] < 0).any(), name
    for name, share in block.measures.items():
        if name.startswith("data_share"):
            assert (((share >= 0) & (share <= 1)) | share.isnan()).all(), name
    for name, signal in block.signals.items():
        assert torch.isfinite(torch.view_as_real(signal)).all(), name
    if stage.estimators[0] == "nonnegative":
        assert all((block.estimate[n] >= 0).all() for n in basis.names if n in names)
    step = 1 / basis.acquisition.duration
    assert (block.estimate["shift"].abs() <= stage.max_shift_hz + step).all()
    if "lorentzian" in names:
        assert (block.estimate["lorentzian"] <= stage.max_damping).all()
    assert block.measures["iterations"].max() <= stage.max_iterations


def test_metabolites_alone_with_lipids_of_the_basis():
    basis = press_basis().select(press_basis().metabolites)
    lipids = with_macromolecules(basis, "lines", lipids=True)
    declared = parameters(Quantify(), lipids)
    assert declared["Lip13a"] == "macromolecule"
