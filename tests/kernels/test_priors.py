"""What priors add to the fit of a voxel, and how much of an estimate they are."""

from __future__ import annotations

import pytest
import torch

from mrsi_engine.kernels.priors import Priors, ScaledPriors

#: The first of three amplitudes is 4 +- 2; the second over the sum of the others is 0.5 +- 0.1.
PRIORS = Priors(
    torch.tensor([[1.0, 0, 0], [-0.5, 1, -0.5]]).double(),
    torch.tensor([4.0, 0.0]).double(),
    torch.tensor([2.0, 0.1]).double(),
    torch.tensor([[0.0, 0, 0], [1, 0, 1]]).double(),
)


def scaled(amplitudes: list[float], reference_sd: float = 0.0, size: float = 1.0) -> ScaledPriors:
    sd = torch.tensor([[torch.nan, reference_sd]]).double()
    one = torch.ones(1).double()
    return PRIORS.scaled(torch.tensor([amplitudes]).double(), sd, size * one, 0.3 * one)


def test_cost_is_the_squared_distance_in_units_of_the_noise():
    amplitudes = torch.tensor([[5.0, 3.0, 2.0]]).double()
    cost = scaled([6.0, 9.0, 4.0]).cost(amplitudes).item()
    amount, ratio = (5.0 - 4.0) / 2.0, (3.0 - 0.5 * 7.0) / (0.1 * 10.0)
    assert cost == pytest.approx(0.3**2 * (amount**2 + ratio**2))


def test_sizes_of_the_data_do_not_matter_to_ratios_and_scale_amounts():
    other = scaled([0.6, 0.9, 0.4], size=10.0)
    assert other.spread[0].tolist() == pytest.approx([0.2, 0.1])
    cost = other.cost(torch.tensor([[0.5, 0.3, 0.2]]).double()).item()
    assert cost == pytest.approx(scaled([6.0, 9.0, 4.0]).cost(
        torch.tensor([[5.0, 3.0, 2.0]]).double()).item())  # fmt: skip


@pytest.mark.parametrize("reference", [[0.1, 0.0, 0.1], [-3.0, 0.0, 0.0], [torch.nan, 0.0, 1.0]])
def test_a_reference_in_the_noise_does_not_sharpen_a_prior(reference):
    assert scaled(reference, reference_sd=5.0).spread[0, 1].item() == pytest.approx(0.5)


def test_data_share_goes_from_all_prior_to_all_data():
    prior = Priors(
        torch.ones(1, 1).double(),
        torch.zeros(1).double(),
        torch.tensor([2.0]).double(),
        torch.zeros(1, 1).double(),
    )
    for sd in (1e-4, 1.0, 1e4):
        # Information of prior and data adds up.
        posterior = 1 / (1 / sd**2 + 1 / 2.0**2)
        share = prior.data_share(
            torch.tensor([[[posterior]]]).double(), torch.full((1, 1), 2.0).double()
        )
        assert share.item() == pytest.approx(2.0**2 / (sd**2 + 2.0**2), abs=1e-7)
    unknown = prior.data_share(torch.full((1, 1, 1), torch.nan).double(), torch.ones(1, 1))
    assert unknown.isnan().all()
