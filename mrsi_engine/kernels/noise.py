"""Noise level of a spectrum from the bins that hold no signal."""

from __future__ import annotations

import torch
from torch import Tensor

#: Median absolute deviation to standard deviation for normal noise.
MAD_TO_SD = 1.4826022185056018


def noise_sd(fids: Tensor, quiet: Tensor) -> Tensor:
    """SD of the noise per real channel of a FID sample, ``(voxel,)`` float32.

    The median absolute deviation (robust) of the difference of neighbouring bins (blind to
    baselines and the tails of water) over signal-free bins of the unitary spectrum. White noise of
    SD sigma a channel has differences of SD sqrt(2) sigma.

    Parameters
    ----------
    fids
        ``(voxel, time)`` complex64.
    quiet
        ``(time,)`` bool, signal-free bins of the unshifted discrete Fourier transform.
    """
    if fids.numel() == 0:
        # The transform of the CPU takes no empty batch.
        return fids.real.new_zeros(fids.shape[:-1])
    spectra = torch.fft.fft(fids, norm="ortho")
    neighbours = quiet & quiet.roll(-1)
    difference = torch.view_as_real((spectra.roll(-1, dims=-1) - spectra)[..., neighbours])
    # Differences of noise are symmetric about 0, so the deviation is taken from there.
    return difference.flatten(-2).abs().median(-1).values * (MAD_TO_SD / 2**0.5)
