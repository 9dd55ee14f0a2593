"""Names of dimensions, apart from all that takes long to import."""

from __future__ import annotations

VOXEL, TIME, PARAMETER, MEASURE = "voxel", "time", "parameter", "measure"

#: Dimensions a FID may have between voxel and time, in this order: receive coils and transients.
COIL, DYNAMIC = "coil", "dynamic"
