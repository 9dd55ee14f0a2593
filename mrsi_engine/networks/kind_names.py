"""Names of the kinds of networks, and where each is; what a kind is stands in ``kinds.py``."""

from __future__ import annotations

#: Where each kind is, by the word that recipes and cards say.
MODULES = {
    "quantification": "mrsi_engine.networks.quantification",
    "fpc": "mrsi_engine.networks.fpc",
}


def known_kind(name: str) -> str:
    """The name of a kind, once it is known to be one.

    Raises
    ------
    ValueError
        If it is not.
    """
    if name not in MODULES:
        raise ValueError(f"kind is {name!r}, expected one of {list(MODULES)}")
    return name
