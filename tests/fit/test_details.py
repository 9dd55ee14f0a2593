"""A fit taken apart, with every feature of the model on: the parts make up the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.fit.details import FitDetails, fit_in_detail
from mrsi_engine.pipeline.pipeline import Pipeline, prepare_pipeline
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.spectra.basis import Basis
from tests.scenes import GREY_MATTER, Lineshape, clean_fid, noise, press_basis, run_stage

EVERYTHING = {
    "lineshape": "voigt",
    "macromolecules": {"lineshape": "own"},
    "baseline": {"kind": "spline", "stiffness": "adaptive"},
    "metabolite_shift_sd_hz": 0.5,
    "first_order_phase": {"delay_ms": 0.1, "sd_ms": 0.02},
    "skip_points": 2,
    "acquired_points": 900,
    "amplitudes": ["map", "free"],
}


def taken_apart(basis: Basis, settings: dict[str, Any]) -> tuple[FitDetails, Block]:
    """Two noisy spectra fitted with ``settings``, and the same ones as a run writes them."""
    fid = clean_fid(basis, GREY_MATTER, Lineshape())
    fids = fid + noise(np.random.default_rng(3), 2, len(fid), 18.0)
    pipeline = Pipeline.from_settings(
        {"name": "one", "stages": [{"stage": "quantify", **settings}]}
    )
    context = Context(basis.acquisition, basis)
    block = Block(torch.from_numpy(fids.astype(np.complex64)))
    details = fit_in_detail(prepare_pipeline(pipeline, context), block)
    return details, run_stage(pipeline.stages[0], basis, fids, keep_signals=True)


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_the_parts_make_up_the_whole(settings: dict[str, Any]) -> None:
    basis = press_basis()
    details, block = taken_apart(basis, settings)
    assert details.names == basis.names
    fit = block.signals["fit"].numpy()
    scale = np.abs(fit).max()
    assert np.abs(details.fit - fit).max() < 1e-5 * scale
    assert np.abs(details.components.sum(1) + details.baseline - fit).max() < 1e-4 * scale
    assert details.baseline.any() == ("baseline" in settings)
    sd = np.sqrt(np.diagonal(details.covariance, axis1=1, axis2=2))
    written = np.stack([block.sd[name].numpy() for name in basis.names], axis=1)
    np.testing.assert_allclose(sd, written, rtol=1e-3)
    if not settings:
        # Lineshapes are 1 in the first sample, so each part is its own metabolite there.
        for column, name in enumerate(basis.names):
            first = np.abs(details.components[:, column, 0])
            expected = np.abs(block.estimate[name].numpy() * basis[name][0])
            np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-5 * scale)


def test_amplitudes_the_data_do_not_tell_apart_have_no_covariance() -> None:
    few = press_basis().select(["Cr", "NAA", "Ins"])
    twice = Basis((*few.names, "Twin"), np.vstack([few.fids, few["NAA"]]), few.acquisition)
    details, _ = taken_apart(twice, {})
    alone = [name in ("Cr", "Ins") for name in details.names]
    assert np.array_equal(np.isfinite(details.correlation[0]), np.logical_and.outer(alone, alone))


def test_a_pipeline_without_a_fit_is_refused() -> None:
    pipeline = Pipeline.from_settings({"name": "cleaning", "stages": [{"stage": "water_removal"}]})
    basis = press_basis()
    block = Block(torch.from_numpy(basis.fids[:1].astype(np.complex64)))
    with pytest.raises(InputError, match=r"cleaning: none of its stages \(water_removal\) fits"):
        fit_in_detail(prepare_pipeline(pipeline, Context(basis.acquisition, basis)), block)
