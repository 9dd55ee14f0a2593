"""The model in the package, on what it was made for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mrsi_engine.networks.fpc import Corrector, FpcRecipe
from mrsi_engine.networks.fpc_signals import MixtureSource
from mrsi_engine.networks.model import load_model, shipped_models
from mrsi_engine.networks.quantifier import Quantifier
from mrsi_engine.networks.recipes import load_recipe
from mrsi_engine.runs.bases import BasisChoice, load_basis
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.phantom import PhantomSettings, make_phantom

NAME, FPC = "press-3t-te30", "fpc-press-3t-te30"


@pytest.fixture(scope="module")
def demo_basis(basis_cache: Path) -> Basis:
    assert os.environ["MRSI_ENGINE_CACHE"] == str(basis_cache)
    return load_basis(BasisChoice(NAME), load_model(NAME).card.axis.acquisition)


def test_shipped_models_are_small_and_of_their_recipe() -> None:
    for name in shipped_models():
        model = load_model(name)
        assert sum(f.stat().st_size for f in Path(model.source).iterdir()) < 1_250_000
        recipe = load_recipe(model.card.name)
        assert type(recipe).model_validate(model.card.recipe) == recipe


def test_it_explains_the_demo_scan_to_the_noise(demo_basis: Basis) -> None:
    model = load_model(NAME).check_scan(demo_basis.acquisition, demo_basis)
    phantom = make_phantom(PhantomSettings(shape=(12, 12, 2), seed=5), demo_basis)
    quantifier, mask = Quantifier.of(model), phantom.mask
    found = quantifier.predict(phantom.fids[mask])
    chi_square = found.chi_square(torch.tensor(phantom.noise_sd))
    assert quantifier.inside_ranges(found.theta).float().mean() > 0.98
    # Noise alone gives 1 with an SD of 1 / sqrt(1024) a voxel; 24 parameters take 1 % of it.
    assert 0.95 < chi_square.median() < 1.02
    naa = demo_basis.names.index("NAA")
    error = found.amplitudes[:, naa].numpy() - phantom.truth["NAA"][mask]
    # A network is biased; `auto` is not, see tests/stages/test_router.py.
    assert abs(error.mean()) < 0.03 * phantom.truth["NAA"][mask].mean()


def test_a_shift_beyond_training_is_seen_in_the_residual(demo_basis: Basis) -> None:
    quantifier = Quantifier.of(load_model(NAME))
    phantom = make_phantom(PhantomSettings(shape=(12, 12, 2), seed=5), demo_basis)
    turn = np.exp(2j * np.pi * 40 * demo_basis.acquisition.time)
    found = quantifier.predict((phantom.fids[phantom.mask] * turn).astype(np.complex64))
    assert found.chi_square(torch.tensor(phantom.noise_sd)).median() > 2


def test_the_fpc_model_is_as_good_as_its_card_says(demo_basis: Basis) -> None:
    model, recipe = load_model(FPC, "fpc"), FpcRecipe.load(FPC)
    assert sum(f.stat().st_size for f in Path(model.source).iterdir()) < 250_000
    made = MixtureSource(recipe.simulation, demo_basis).draw(2000, 12_345)
    shift, phase = Corrector.of(model.check_scan(demo_basis.acquisition)).predict(made.fids)
    apart = torch.exp(1j * (phase - made.phase)).angle()
    for name, error in (("shift", (shift - made.shift).double()), ("phase", apart.double())):
        moments, scores = error - error.mean(), model.card.scores
        counts = 1 / len(error) + 1 / 4096
        # The SD of an SD, of errors with long tails, of these signals and of the card's.
        kurtosis = float(moments.pow(4).mean() / moments.square().mean() ** 2)
        slack = 4 * np.sqrt((kurtosis - 1) / 4 * counts)
        assert error.std().item() == pytest.approx(scores[f"sd {name}"], rel=slack)
        # The SD of a median of magnitudes is 1.2 of it over the root of their number, if normal.
        known = scores[f"median error {name}"]
        assert error.abs().median().item() == pytest.approx(known, rel=4 * 1.2 * np.sqrt(counts))
