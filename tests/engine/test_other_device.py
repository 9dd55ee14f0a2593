"""Every stage and network makes its tensors where its input lies, as a GPU wants it.

Run on a device that is a CPU under another name, it must not only work but give the same numbers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mrsi_engine.engine.procedure import Procedure, procedure_for
from mrsi_engine.engine.voxels import ScanLayout, Voxels
from mrsi_engine.io.result_schema import BlockArrays
from mrsi_engine.kernels.alignment import Alignment
from mrsi_engine.kernels.projection import Projection
from mrsi_engine.kernels.refinement import Refinement
from mrsi_engine.kernels.registration import Registration
from mrsi_engine.kernels.registration import Solver as RegistrationSolver
from mrsi_engine.networks.fpc import TEMPLATE, Corrector
from mrsi_engine.networks.model import load_model
from mrsi_engine.networks.quantifier import Quantifier
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Stage
from mrsi_engine.runs.bases import BasisChoice, load_basis
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.testing.pretend_device import THERE, pretend_device
from tests.scenes import GREY_MATTER, Lineshape, clean_fid, noise, sd_for_snr
from tests.small_scans import CLASSES, scan, single_voxel, small_basis

#: Where tensors lie does not change from one iteration to the next.
ITERATIONS = 2
QUANTIFY = {"stage": "quantify", "window_ppm": [0.5, 4.0], "max_iterations": ITERATIONS}
WATER = {"stage": "water_removal", "components": 6}


def cut(voxels: Voxels, rows: slice) -> Voxels:
    places = None if voxels.coordinates is None else voxels.coordinates[rows]
    beside = {name: values[rows] for name, values in voxels.companions.items()}
    return Voxels(voxels.fids[rows], beside, places)


def done(procedure: Procedure, voxels: Voxels) -> BlockArrays:
    """The voxels after all passes over them."""
    for steps in procedure.passes:
        found: dict[str, torch.Tensor] = {}
        for step in range(steps):
            summary = procedure.summarise(voxels, step, found)
            assert {t.device.type for t in (summary or {}).values()} == {"cpu"}
            found = {**found, **procedure.finish(summary, step, found)}
        procedure = replace(procedure, states=(*procedure.states, found))
    arrays, _ = procedure.apply(voxels)
    return arrays


def assert_the_same_there(
    pipeline: Pipeline, voxels: Voxels, layout: ScanLayout, basis: Basis | None = None, **more: Any
) -> None:
    basis = small_basis() if basis is None else basis
    procedure = procedure_for(basis.acquisition, pipeline, basis, layout=layout, **more)
    here = done(replace(procedure, device="cpu"), voxels)
    with pretend_device():
        there = done(replace(procedure, device=str(THERE)), voxels)
    for name, values in here.values().items():
        # Conjugates are made there that are only marked here, which rounds otherwise.
        least = 1e-5 * np.nanmax(np.abs(values), axis=0, initial=0)
        np.testing.assert_allclose(
            there.values()[name], values, rtol=1e-3, atol=least.max(initial=0)
        )
    assert (here.status[voxels.quantifiable] != 0).any()


def shipped(name: str) -> Pipeline:
    """A ready-made pipeline that iterates little."""
    settings = Pipeline.load(name).settings()
    for table in settings["stages"]:
        if "max_iterations" in table:
            table["max_iterations"] = ITERATIONS
    return Pipeline.from_settings(settings)


#: Voxels enough where none learns from others.
FEW = slice(20, 28)
TIMES = {"water": {"echo_time": 0.03, "repetition_time": 1.5}}
FULL = ScanLayout((), ("water", "tissue", "scalp"), {"tissue": CLASSES}, TIMES)
COILS = ScanLayout((("coil", 3), ("dynamic", 4)), ("water",))


def test_the_default_pipeline() -> None:
    assert_the_same_there(shipped("brain-1h-3t"), scan(), FULL)


def test_signals_that_are_kept() -> None:
    signals = {"keep": ("corrected", "fit", "baseline")}
    assert_the_same_there(shipped("minimal"), cut(scan(), FEW), FULL, **signals)


def test_the_pipeline_of_single_voxels() -> None:
    assert_the_same_there(shipped("svs"), single_voxel(), COILS)


VARIANTS: dict[str, list[dict[str, Any]]] = {
    "fpc registration": [{"stage": "fpc", "method": "registration"}],
    "fpc correlation": [{"stage": "fpc", "method": "correlation", "frame": "template"}],
    "fpc creatine": [{"stage": "fpc", "method": "creatine"}],
    "fpc water": [{"stage": "fpc", "method": "water"}],
    "fpc smooth": [
        {
            "stage": "fpc",
            "reference": "k-means",
            "nuisance": {"kind": "baseline"},
            "smooth": True,
            "smooth_order": 2,
        }
    ],
    "casorati": [{"stage": "water_removal", "method": "casorati"}],
    "lipid hsvd": [{"stage": "lipid_removal", "method": "hsvd"}],
    "scalp found": [WATER, {"stage": "lipid_removal", "scalp": "found"}],
    "rank": [{"stage": "denoise", "rank": 3}],
    "patch": [{"stage": "denoise", "patch": 3}],
    "first order": [{"stage": "first_order_phase", "delay": 1e-3}],
    "predicted": [{"stage": "first_order_phase", "delay": 1e-3, "method": "predict"}],
    "estimators": [
        {
            **QUANTIFY,
            "amplitudes": ["map", "free", "nonnegative"],
            "priors": {"prior": [{"of": "NAAG", "to": "NAA", "mean": 0.15, "sd": 0.15}]},
            "errors": "residual",
        }
    ],
    "gaussian": [{**QUANTIFY, "lineshape": "gaussian", "baseline": {"kind": "polynomial"}}],
    "lines": [
        {
            **QUANTIFY,
            "macromolecules": {"source": "lines", "lineshape": "own"},
            "lipids": {"source": "lines"},
            "lineshape": "voigt",
        }
    ],
    "late": [{**QUANTIFY, "first_order_phase": {"sd_ms": 0.1}, "metabolite_shift_sd_hz": 0.5}],
    "molar": [
        QUANTIFY,
        {"stage": "scale", "quantity": "molar", "repetition_time": 1.5},
        {"stage": "quality_control"},
    ],
    "ratio": [QUANTIFY, {"stage": "scale", "quantity": "ratio"}],
}


@pytest.mark.parametrize("stages", VARIANTS.values(), ids=VARIANTS.keys())
def test_variants_of_stages(stages: list[dict[str, Any]]) -> None:
    passes_over_the_scan = stages[0]["stage"] != "quantify"
    voxels = scan() if passes_over_the_scan else cut(scan(), FEW)
    assert_the_same_there(Pipeline(name="p", stages=stages), voxels, FULL)


def test_the_shipped_network() -> None:
    model = load_model("press-3t-te30")
    fids = scan().fids[FEW]
    axis = model.card.axis
    fids = np.pad(fids, ((0, 0), (0, axis.points - fids.shape[1])))
    here = Quantifier.of(model).predict(fids)
    with pretend_device():
        quantifier = Quantifier.of(model, THERE)
        there = quantifier.predict(fids)
        opinions = quantifier.opinions(torch.from_numpy(fids).to(THERE))
        inside = quantifier.inside_ranges(there.theta)
        assert {t.device for t in (opinions.novelty, inside, there.amplitudes)} == {THERE}
        np.testing.assert_allclose(there.theta.cpu(), here.theta, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(there.amplitudes.cpu(), here.amplitudes, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("basis_cache")
def test_networks_in_the_default_pipeline() -> None:
    axis = load_model("press-3t-te30").card.axis.acquisition
    basis = load_basis(BasisChoice("press-3t-te30"), axis)
    spins = [Lineshape(0.1 * n, 1.5 * n, 6.0) for n in range(4)]
    fids = np.stack([clean_fid(basis, GREY_MATTER, spin) for spin in spins])
    fids += noise(
        np.random.default_rng(2), len(fids), axis.points, sd_for_snr(basis, fids[0], 40.0)
    )
    stages = [
        {"stage": "fpc", "method": "network"},
        shipped("brain-1h-3t").settings()["stages"][-2],
    ]
    assert_the_same_there(
        Pipeline(name="p", stages=stages), Voxels(fids.astype(np.complex64)), ScanLayout(), basis
    )


def test_no_stage_is_forgotten() -> None:
    known = {n for n, s in Stage.registry.items() if s.__module__.startswith("mrsi_engine.")}
    pipelines = ("brain-1h-3t", "minimal", "svs")
    used = {s.stage for name in pipelines for s in Pipeline.load(name).stages}
    used |= {table["stage"] for tables in VARIANTS.values() for table in tables}
    assert used == known


def test_the_shipped_fpc_network() -> None:
    model = load_model("fpc-press-3t-te30")
    axis, fids = model.card.axis, scan().fids[FEW]
    signals = torch.from_numpy(np.pad(fids, ((0, 0), (0, axis.points - fids.shape[1]))))
    noise, template = torch.full((len(fids),), 10.0), model.tensors[TEMPLATE]
    seen = Projection.build(600, axis.dwell_time, (100.0, 350.0), 2)

    def aligned(network: Corrector, device: torch.device) -> Alignment:
        guess, _ = Corrector.predict.__wrapped__(network, signals.to(device))
        ready = Registration.build(template, seen).to(device)
        refinement = Refinement.build(ready, template, RegistrationSolver())
        return refinement.align(signals.to(device), noise.to(device), guess)

    with torch.no_grad():
        here = aligned(Corrector.of(model), torch.device("cpu"))
        with pretend_device():
            there = aligned(Corrector.of(load_model(model.source), THERE), THERE)
            assert there.shift.device == there.searched.device == THERE
            np.testing.assert_allclose(there.shift.cpu(), here.shift, rtol=1e-3, atol=1e-3)
