"""What the unit of a basis set is: the amplitude of one proton, read from its singlets."""

from __future__ import annotations

import math

import numpy as np
import torch

from mrsi_engine.kernels.hsvd import BandPlan, remove_band
from mrsi_engine.spectra.basis import Basis

#: Damped exponentials that a singlet and its surroundings are modelled by, and samples that its
#: decay is read over.
_SINGLET_COMPONENTS, _DECAY_SAMPLES = 6, 64


def proton_amplitudes(basis: Basis) -> dict[str, float]:
    """What one proton gives at time zero of a basis set, by the singlet it was read from.

    The line is modelled by HSVD in a band around it, so that its neighbours do not count, and
    where the FIDs begin later its decay is continued back to time zero.
    """
    axis, table, found = basis.acquisition, basis.nucleus, {}
    for name in table.unit_singlets:
        if name in basis.names:
            line, reach = table.landmark(name), table.lines.search
            band = axis.frequency_of([line.ppm + reach, line.ppm - reach])
            plan = BandPlan.design(
                axis.points, axis.dwell_time, (band.min(), band.max()), _SINGLET_COMPONENTS
            )
            fid = torch.from_numpy(basis[name][None].astype(np.complex64))
            height = remove_band(fid, plan).removed[0].abs()
            later = min(_DECAY_SAMPLES, axis.points - 1)
            decay = math.log(height[0] / height[later]) / later * axis.start_time / axis.dwell_time
            found[name] = float(height[0]) * math.exp(decay) / line.spins
    return found
