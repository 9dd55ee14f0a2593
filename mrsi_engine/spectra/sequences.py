"""Families of pulse sequences, known by the many names that scanners and programs give them."""

from __future__ import annotations

import re

#: In this order: a semi-LASER's name holds that of LASER. ``se`` and ``st`` after ``svs_`` or
#: ``csi_`` are how Siemens calls its PRESS and STEAM, PROBE-P and -S how GE does.
_FAMILIES = {
    "slaser": r"semi[-_ ]?laser|(?<![a-z])s[-_ ]?laser",
    "laser": r"laser",
    "steam": r"steam|(svs|csi)_st(?![a-z])|probe-?s",
    "special": r"special",
    "press": r"press|(svs|csi)_se(?![a-z])|probe-?p",
    "fid": r"(?<![a-z])fid(?![a-z])",
}


def sequence_family(name: str | None) -> str | None:
    """The family a sequence is of by its name, or ``None`` where that does not say.

    ``press``, ``steam``, ``slaser``, ``laser``, ``special`` or ``fid``: those whose coupled spins
    evolve differently at one echo time.
    """
    text = (name or "").lower()
    return next((f for f, pattern in _FAMILIES.items() if re.search(pattern, text)), None)
