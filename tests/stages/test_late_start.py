"""Fits of FIDs whose first sample comes after time zero: amplitudes are those at time zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.water_reference import water_amplitude
from mrsi_engine.networks.model import shipped_model_for
from mrsi_engine.pipeline.stage import Context
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.proton_amplitudes import proton_amplitudes
from mrsi_engine.stages.first_order_phase import FirstOrderPhase
from mrsi_engine.stages.quantify import Quantify
from tests.scenes import GREY_MATTER, Lineshape, clean_fid, noise, press_basis, run_stage

DWELL, POINTS = 0.4e-3, 768
SUMS = {"CrPCr": ("Cr", "PCr"), "GPCPCh": ("GPC", "PCh"), "GluGln": ("Glu", "Gln")}
TRUTH = Lineshape(phase=0.4, shift=6.3, lorentzian=14.0)


def begun_late(samples: float) -> Basis:
    """The basis that a scan needs whose first sample comes some dwell times after time zero."""
    early = press_basis(POINTS + 16, DWELL)
    axis = replace(early.acquisition.with_points(POINTS), start_time=samples * DWELL)
    return early.matched_to(axis)


@pytest.mark.parametrize("samples", [2, 4.37])
@pytest.mark.parametrize("settings", [{}, {"lineshape": "voigt"}, {"creatine_ch2": "free"}])
def test_amplitudes_are_those_at_time_zero(samples: float, settings: dict) -> None:
    basis = begun_late(samples)
    fid = clean_fid(basis, GREY_MATTER, TRUTH)
    fids = fid + noise(np.random.default_rng(3), 32, POINTS, np.abs(fid).max() / 300)
    found = run_stage(Quantify(**settings), basis, fids)
    for name in ("NAA", "Ins", *SUMS):
        truth = sum(GREY_MATTER[member] for member in SUMS.get(name, (name,)))
        # Four SDs of the mean of 32 draws, and what the ridge of two dampings leaves.
        tolerance = 4 * float(found.sd[name].mean()) / np.sqrt(32) + 0.01 * truth
        assert float(found.estimate[name].mean()) == pytest.approx(truth, abs=tolerance)
    assert float(found.estimate["phase"].median()) == pytest.approx(0.4, abs=0.02)
    assert float(found.estimate["shift"].median()) == pytest.approx(6.3, abs=0.1)
    assert float(found.measures["fit_quality"].median()) == pytest.approx(1, abs=0.1)


def test_no_shipped_network_is_for_a_late_start() -> None:
    late = begun_late(2)
    assert shipped_model_for(late.acquisition, late) is None


def test_water_amplitude_is_continued_to_time_zero() -> None:
    samples = torch.arange(4, 400, dtype=torch.float64)
    fids = 50 * torch.exp((-0.01 + 0.03j) * samples)[None].to(torch.complex64)
    assert float(water_amplitude(fids, 4).amplitude) == pytest.approx(50, rel=1e-3)
    assert float(water_amplitude(fids).amplitude) == pytest.approx(50 * np.exp(-0.04), rel=1e-3)


def test_protons_of_a_basis_count_at_time_zero() -> None:
    early = proton_amplitudes(press_basis(POINTS, DWELL))
    late = proton_amplitudes(begun_late(5))
    for name, value in early.items():
        assert late[name] == pytest.approx(value, rel=5e-3)


def test_undoing_a_delay_that_the_header_states_is_refused() -> None:
    late = begun_late(2)
    with pytest.raises(InputError, match=r"0\.8 ms after time zero.*count twice"):
        FirstOrderPhase(delay=8e-4).check(Context(late.acquisition, late))
