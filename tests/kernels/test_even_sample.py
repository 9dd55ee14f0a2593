"""A sample that lies evenly in the scan and does not depend on blocks."""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch

from mrsi_engine.kernels.even_sample import combine_samples, sample_evenly


def scan(x: int, y: int, z: int) -> torch.Tensor:
    """Places ``(signal, 4)`` of all voxels of a box."""
    grid = torch.meshgrid(*(torch.arange(n) for n in (z, y, x)), indexing="ij")
    return torch.stack([grid[2], grid[1], grid[0], torch.zeros_like(grid[0])], -1).flatten(0, 2)


def drawn(place: torch.Tensor, count: int, size: int):
    fids = torch.arange(len(place), dtype=torch.float32)[:, None].to(torch.complex64)
    parts = [
        sample_evenly(fids[i : i + size], fids[i : i + size, 0].real, place[i : i + size], count)
        for i in range(0, len(place), size)
    ]
    return reduce(lambda a, b: combine_samples(a, b, count), parts)


def test_blocks_do_not_matter():
    place = scan(9, 8, 5)
    whole, few = drawn(place, 64, 1000).by_place(), drawn(place, 64, 7).by_place()
    assert torch.equal(whole.fids, few.fids)
    assert torch.equal(whole.place, few.place)
    # Signals are numbered slice by slice, as the sample is sorted.
    assert (whole.noise_sd.diff() > 0).all()


def test_every_signal_of_a_small_scan_is_drawn():
    place = scan(4, 3, 2)
    assert torch.equal(drawn(place, 64, 5).by_place().place, place)


def test_it_lies_evenly():
    """Halves of the box along each axis hold nearly as many: chance alone would leave +-8."""
    places = drawn(scan(32, 30, 12), 256, 500).place[:, :3].numpy()
    for axis, length in enumerate((32, 30, 12)):
        assert abs(int((places[:, axis] < length / 2).sum()) - 128) <= 12
    cells = np.unique(places // np.array([8, 10, 6]), axis=0)
    assert len(cells) == 4 * 3 * 2
