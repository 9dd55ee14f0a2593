"""What a number is: its role, whose it is, how it was estimated, its unit and its place in files.

A stage declares its quantities here, once. Stores keep every field as a coordinate, and maps,
tables, the report and the stages after it go by the fields, never by how a name is spelled.
"""

from mrsi_engine.quantities.declaration import Declaration
from mrsi_engine.quantities.making import (
    amplitude,
    concentration,
    data_share,
    error_part,
    lineshape,
    measure_of,
    property_of,
    quality,
    ratio,
    reason,
    signal,
)
from mrsi_engine.quantities.quantity import (
    AMPLITUDES,
    CRLB,
    MAIN,
    MAPS_OF_EVERY_RESULT,
    NETWORK_SD,
    POSTERIOR_SD,
    RESIDUAL,
    TOTALS,
    Quantity,
    Role,
    Total,
    concentration_name,
    named_by,
    safe_label,
)

__all__ = [
    "AMPLITUDES",
    "CRLB",
    "MAIN",
    "MAPS_OF_EVERY_RESULT",
    "NETWORK_SD",
    "POSTERIOR_SD",
    "RESIDUAL",
    "TOTALS",
    "Declaration",
    "Quantity",
    "Role",
    "Total",
    "amplitude",
    "concentration",
    "concentration_name",
    "data_share",
    "error_part",
    "lineshape",
    "measure_of",
    "named_by",
    "property_of",
    "quality",
    "ratio",
    "reason",
    "safe_label",
    "signal",
]
