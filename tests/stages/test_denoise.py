"""Error bars after denoising are those of the noise before it."""

from __future__ import annotations

import numpy as np
import torch

from mrsi_engine.stages.denoise import Denoise
from mrsi_engine.stages.quantify import Quantify
from tests.scenes import GREY_MATTER, Lineshape, clean_fid, press_basis
from tests.stages.passes import Scan, run


def test_denoising_does_not_shrink_them():
    basis = press_basis()
    fid = np.asarray(clean_fid(basis, GREY_MATTER, Lineshape()))
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.8, 1.2, (60, 1))
    sd = 0.02 * np.abs(fid[..., :1]).max()
    noise = sd * rng.standard_normal((60, fid.shape[-1], 2)).view(complex)[..., 0]
    fids = torch.from_numpy((scale * fid.reshape(1, -1) + noise).astype(np.complex64))
    scan = Scan(basis.acquisition, fids, basis=basis)
    plain, denoised = run(Quantify(), scan), run((Denoise(), Quantify()), scan)
    ratio = denoised.sd["NAA"] / plain.sd["NAA"]
    assert float(ratio.median()) > 0.9
    assert denoised.estimate["NAA"].sub(torch.from_numpy(scale[:, 0]) * 9).std() < float(
        plain.sd["NAA"].median()
    )
