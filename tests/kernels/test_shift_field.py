"""A smooth field of shifts: found from noisy voxels, and how far it is believed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.shift_field import FieldSums, Grid, ShiftField

LIMIT = 30.0


def grid(shape=(20, 16, 6), order=4) -> tuple[Grid, torch.Tensor]:
    axes = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    place = torch.stack(axes, -1).flatten(0, 2)
    return Grid(place.amin(0).double(), place.amax(0).double(), order), place


def fitted(box: Grid, place, shift, sd, size: int = 10_000) -> ShiftField:
    field = ShiftField.unknown(box, LIMIT)
    for _ in range(2):
        parts = [
            field.summarise(place[i : i + size], shift[i : i + size], sd[i : i + size])
            for i in range(0, len(place), size)
        ]
        sums = parts[0]
        for part in parts[1:]:
            sums = FieldSums(**{name: a + vars(part)[name] for name, a in vars(sums).items()})
        field = field.updated(sums, LIMIT)
    return field


def measured(place, deviation: float, seed: int = 0):
    """Shifts of a polynomial with deviations, measured well or badly: truth, shift, sd."""
    rng = np.random.default_rng(seed)
    x, y, z = (place[:, i].numpy() / 10 - 1 for i in range(3))
    truth = 5 * x - 3 * y**2 + 2 * x * z + deviation * rng.standard_normal(len(place))
    sd = rng.choice([0.2, 6.0], len(place))
    shift = truth + sd * rng.standard_normal(len(place))
    return truth, torch.from_numpy(shift), torch.from_numpy(sd)


@pytest.mark.parametrize("deviation", [0.5, 2.0])
def test_deviation_and_precision_are_found(deviation):
    box, place = grid()
    truth, shift, sd = measured(place, deviation)
    field = fitted(box, place, shift, sd)
    # 1920 voxels, half of them of use: the SD of a variance is 5 % of it.
    assert float(field.variance) == pytest.approx(deviation**2, rel=0.2)
    best, error = field.combined(place, shift, sd, torch.zeros_like(sd))
    pull = (best.numpy() - truth) / error.numpy()
    for which in (sd == 0.2, sd == 6.0):
        assert np.square(pull[which.numpy()]).mean() == pytest.approx(1, abs=0.2)


def test_blocks_do_not_matter():
    box, place = grid()
    _, shift, sd = measured(place, 1.0)
    whole, few = fitted(box, place, shift, sd), fitted(box, place, shift, sd, 111)
    torch.testing.assert_close(few.coefficients, whole.coefficients, rtol=0, atol=1e-9)


def test_false_peaks_are_overruled_and_features_kept():
    box, place = grid()
    truth, shift, sd = measured(place, 0.5)
    shift[:2] = torch.from_numpy(truth[:2]) + 20
    sd[:2] = 0.2
    field = fitted(box, place, shift, sd)
    chance = torch.full_like(sd, 1e-5)
    chance[1] = 1e-30
    best, _ = field.combined(place, shift, sd, chance)
    assert float(best[0]) == pytest.approx(truth[0], abs=2.5)
    assert float(best[1]) == pytest.approx(truth[1] + 20, abs=3.5)


def test_few_voxels_are_left_alone():
    box, place = grid((3, 3, 1), order=2)
    shift, sd = torch.full((9,), 4.0).double(), torch.full((9,), 0.1).double()
    field = fitted(box, place, shift, sd)
    best, _ = field.combined(place, shift, sd, torch.zeros_like(sd))
    torch.testing.assert_close(best, shift, rtol=1e-4, atol=0)


def test_a_slice_has_no_polynomials_across_it():
    thick, slice_place = grid((20, 16, 1), order=3)
    assert thick.values(slice_place).shape[1] == 10
