"""What frequency and phase correction writes."""

from __future__ import annotations

from mrsi_engine.quantities import lineshape, quality

SHIFT = lineshape(
    "fpc_shift",
    "Hz",
    "frequency that was corrected, mean over transients; positive is towards lower ppm",
    "FPC shift",
    adds_to="b0shift",
    signed=True,
)

PHASE = lineshape(
    "fpc_phase",
    "rad",
    "phase that was corrected, mean over transients",
    "FPC phase",
    adds_to="phase",
    signed=True,
)

APPLIED = quality(
    "fpc_applied",
    "1",
    "Share of the transients whose shift and phase stood out of noise and were corrected; other "
    "transients go with the mean of their voxel, other voxels stay as they are",
    "FPC applied",
)

NETWORK = quality(
    "fpc_network",
    "1",
    "Share of the transients that a few steps from what the network said brought into place; the "
    "others were searched for",
    "FPC by network",
)

SPREAD = (
    quality(
        "fpc_shift_spread",
        "Hz",
        "SD over transients of the frequency corrected",
        "FPC shift spread",
    ),
    quality(
        "fpc_phase_spread",
        "rad",
        "Circular SD over transients of the phase corrected",
        "FPC phase spread",
    ),
)

SIMILARITY = (
    quality(
        "similarity_before",
        "1",
        "Normalised scalar product with the template over 2.5-3.5 ppm before correction, mean over "
        "transients",
        "Similarity before",
        scale_with="similarity",
    ),
    quality("similarity", "1", "The same after correction", "Similarity"),
)
