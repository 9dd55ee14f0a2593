"""The k-means choice of a reference signal."""

from __future__ import annotations

import numpy as np
import torch

from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.reference_choice import choose_reference, k_means
from mrsi_engine.spectra.fpc_simulation import RAT_BRAIN, FpcSettings, simulate_transients

BAND = Band.between(
    RAT_BRAIN.points, RAT_BRAIN.dwell_time, *RAT_BRAIN.frequency_of([4.0, 2.5]).tolist()
)


def test_k_means_finds_separate_clusters():
    rng = np.random.default_rng(1)
    centres = np.array([[0.0, 0, 0], [5, 5, 0], [-5, 4, 4]])
    label = rng.integers(0, 3, 600)
    points = torch.from_numpy((centres[label] + rng.normal(0, 0.3, (600, 3))).astype(np.float32))
    found = k_means(points, 3, seed=2)
    together = np.array(
        [
            [(label[i] == label[j]) == bool(found.label[i] == found.label[j]) for j in range(50)]
            for i in range(50)
        ]
    )
    assert together.all()
    order = [
        int((found.centres - torch.tensor(c)).norm(dim=1).argmin())
        for c in centres.astype(np.float32)
    ]
    # The mean of 150 to 250 points of SD 0.3 is known to 0.025 an axis.
    assert float((found.centres[order] - torch.from_numpy(centres)).abs().max()) < 0.1


def test_k_means_depends_on_its_seed_only_and_takes_equal_points():
    points = torch.ones((10, 4))
    found = k_means(points, 2)
    assert bool((found.centres == 1).all())
    noise = torch.randn((100, 3), generator=torch.Generator().manual_seed(3))
    assert torch.equal(k_means(noise, 2, 5).label, k_means(noise, 2, 5).label)


def test_the_reference_is_clean_and_among_the_best():
    sim = simulate_transients(FpcSettings(signals=400, water_share=0.5, lipid_share=0.0))
    chosen = choose_reference(torch.from_numpy(sim.fids), BAND)
    assert sim.clean[chosen]
    snr = sim.amplitude / sim.noise_sd
    assert snr[chosen] > np.percentile(snr, 75)


def test_bad_signals_are_never_chosen():
    sim = simulate_transients(FpcSettings(signals=20))
    fids = torch.from_numpy(sim.fids)
    fids[:15] = complex("nan")
    fids[15] = 0
    assert choose_reference(fids, BAND) > 15
    assert choose_reference(fids[15:17], BAND) == 1
    assert choose_reference(fids[:3], BAND) == 0
