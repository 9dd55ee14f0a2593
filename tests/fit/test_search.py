"""The ways a voxel can go: the network's word, its start refined, the grid, or no fit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Status
from mrsi_engine.errors import InputError
from mrsi_engine.networks.model import Model, load_model, save_model
from mrsi_engine.networks.quantification import Recipe
from mrsi_engine.networks.simulation import Batch, Simulator
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.runs.bases import BasisChoice, load_basis
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages import Quantify
from tests.scenes import press_basis, run_stage

NAME, VOXELS = "press-3t-te30", 400


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(NAME)


@pytest.fixture(scope="module")
def basis(model: Model, basis_cache: Path) -> Basis:
    assert os.environ["MRSI_ENGINE_CACHE"] == str(basis_cache)
    return load_basis(BasisChoice(NAME), model.card.axis.acquisition)


@pytest.fixture(scope="module")
def drawn(basis: Basis) -> Batch:
    """Signals of the kind the shipped model was trained on, without nuisances."""
    settings = Recipe.load(NAME).simulation
    plain = settings.model_copy(
        update={"noise_sd": (0.5, 4.0), "baseline": 0.0, "residual_water": 0.0, "lipids": 0.0}
    )
    return Simulator(plain, basis).draw(VOXELS, seed=21)


def default_fit(**changes: object) -> Quantify:
    stages = Pipeline.load("brain-1h-3t").stages
    stage = next(s for s in stages if isinstance(s, Quantify))
    return stage.model_copy(update={"max_shift_hz": 50.0, **changes})


def fitted(method: str, basis: Basis, fids: torch.Tensor, **changes: object) -> Block:
    return run_stage(default_fit(method=method, **changes), basis, fids.numpy())


def far_off(found: Block, other: Block) -> torch.Tensor:
    """Largest difference of an amplitude in its bounds, ``(voxel,)``."""
    names = [name for name in other.estimate if name not in ("shift", "lorentzian", "phase")]
    apart = [(found.estimate[n] - other.estimate[n]).abs() / other.sd[n] for n in names]
    return torch.stack(apart).nan_to_num().amax(0)


def moved(fids: torch.Tensor, basis: Basis, hertz: float, damping: float = 0.0) -> torch.Tensor:
    time = torch.as_tensor(basis.acquisition.time, dtype=torch.float32)
    return fids * torch.polar(torch.exp(-damping * time), 2 * torch.pi * hertz * time)


def test_what_it_was_trained_on_ends_where_the_grid_does(basis: Basis, drawn: Batch) -> None:
    auto, grid = (fitted(m, basis, drawn.fids) for m in ("auto", "least-squares"))
    assert (auto.status == Status.NETWORK_REFINED).float().mean() > 0.8
    assert (grid.status == Status.LEAST_SQUARES).all()
    assert set(np.unique(auto.status)) <= {Status.NETWORK_REFINED, Status.LEAST_SQUARES}
    # The promise: 1 % of the bound for 99 % of voxels, of every amplitude at once.
    assert (far_off(auto, grid) < 0.01).float().mean() >= 0.99
    # Those it did not accept are the grid's.
    rest = auto.status == Status.LEAST_SQUARES
    assert (far_off(auto, grid)[rest] < 1e-3).all()


@pytest.mark.parametrize("case", ["+40 Hz", "-40 Hz", "twice as broad", "no NAA", "lipids"])
def test_what_it_was_not_trained_on_misleads_the_network_and_not_the_router(
    case: str, basis: Basis, drawn: Batch
) -> None:
    fids = drawn.fids[:120]
    if case.endswith("Hz"):
        fids = moved(fids, basis, float(case.removesuffix(" Hz")))
    elif case == "lipids":
        fids = fids + moved(torch.full_like(fids, 60.0), basis, 412.0, damping=60.0)
    elif case == "no NAA":
        naa = torch.zeros_like(drawn.amplitudes)
        naa[:, basis.names.index("NAA")] = drawn.amplitudes[:, basis.names.index("NAA")]
        fids = (
            fids
            - Simulator(Recipe.load(NAME).simulation, basis)._model.synthesise(naa, drawn.theta)[
                :120
            ]
        )
    else:
        # Noise stays as it was: only the signal gets broader.
        theta = drawn.theta.clone()
        theta[:, 2] = theta[:, 2] + 60
        model = Simulator(Recipe.load(NAME).simulation, basis)._model
        fids = (
            fids
            + (
                model.synthesise(drawn.amplitudes, theta)
                - model.synthesise(drawn.amplitudes, drawn.theta)
            )[:120]
        )
    alone, auto, grid = (fitted(m, basis, fids) for m in ("network", "auto", "least-squares"))
    wrong = far_off(alone, grid)
    assert wrong.median() > 1 or case == "no NAA"
    assert (far_off(auto, grid) < 0.01).float().mean() >= 0.99


def test_the_networks_own_word_has_the_errors_it_is_made_of(
    basis: Basis, drawn: Batch, model: Model
) -> None:
    found = fitted("network", basis, drawn.fids)
    assert (found.status == Status.NETWORK).all()
    assert (found.measures["iterations"] == 0).all()
    parts = found.measures["crlb_NAA"].square()
    if model.card.members > 1:
        parts = parts + found.measures["epistemic_NAA"].square()
    factor = found.sd["NAA"] / parts.sqrt()
    if model.card.calibration is None:
        torch.testing.assert_close(factor, torch.ones_like(factor))
    else:
        known = torch.tensor(model.card.calibration.factors["NAA"], dtype=torch.float64)
        assert (factor[:, None] - known).abs().amin(1).max() < 1e-6
    # What it does not know is not to be trusted.
    strange = fitted("network", basis, moved(drawn.fids[:50], basis, 40.0))
    assert strange.measures["converged"].mean() < 0.7 < found.measures["converged"].mean()


def test_maps_do_not_depend_on_the_block(basis: Basis, drawn: Batch) -> None:
    fids = drawn.fids[:180].numpy().copy()
    fids[::7] *= np.exp(80j * np.pi * basis.acquisition.time).astype(np.complex64)
    stage = default_fit(method="auto")
    whole = run_stage(stage, basis, fids)
    parts = [run_stage(stage, basis, part) for part in np.split(fids, (37, 130))]
    assert (whole.status == Status.LEAST_SQUARES).sum() >= 26
    assert torch.equal(torch.cat([p.status for p in parts]), whole.status)
    for name in ("NAA", "Ins", "shift"):
        joined = torch.cat([p.estimate[name] for p in parts])
        apart = (joined - whole.estimate[name]).abs() / whole.sd[name]
        assert apart[whole.status == Status.NETWORK_REFINED].max() < 1e-3
        # Far from what the fit is for, it creeps: rounding decides where it ends.
        assert apart.max() < 2e-2
        assert torch.cat([p.sd[name] for p in parts]).allclose(whole.sd[name], rtol=1e-3)


def test_without_a_model_auto_is_the_grid_and_says_so() -> None:
    basis = press_basis()
    context = Context(basis.acquisition, basis)
    stage = Quantify()
    assert stage.check(context).method == "auto"
    assert stage.models(context) == {}
    assert "no shipped model" in stage.assumptions(context)["no_model"]
    assert "novelty" not in [q.name for q in stage.declare(context).measures]
    with pytest.raises(InputError, match=r"no shipped model.*mrsi train"):
        Quantify(method="network").check(context)
    with pytest.raises(InputError, match=r"the model is for dwell_time 0\.0004, the scan has"):
        Quantify(model=NAME).check(context)


def test_the_model_in_use_is_named_with_its_checksum(
    basis: Basis, model: Model, tmp_path: Path
) -> None:
    context, stage = Context(basis.acquisition, basis), Quantify()
    assert stage.models(context) == {NAME: model.checksum}
    weights = {n: w + 1e-6 for n, w in model.encoder.state_dict().items()}
    changed = load_model(NAME)
    changed.encoder.load_state_dict(weights)
    folder = save_model(tmp_path / "model", replace(changed, source="changed"))
    other = Quantify(model=str(folder))
    assert Path(other.model).is_absolute()
    assert other.models(context)[NAME] != model.checksum
    with pytest.raises(InputError, match="no such file"):
        Quantify(model=str(tmp_path / "none")).check(context)


def test_what_the_network_cannot_estimate_is_refused(basis: Basis) -> None:
    context = Context(basis.acquisition, basis)
    with pytest.raises(InputError, match="has to be fitted"):
        Quantify(method="network", amplitudes="map").check(context)
