"""Chemical shifts and J couplings of brain metabolites, from the literature.

The table ``spin_systems.json`` beside this file names its sources: Govindaraju et al. (NMR Biomed
2000;13:129, corrigendum 2015;28:923), for GABA Near et al. (Magn Reson Med 2013;70:1183), for
2HG Bal & Gryff-Keller (Magn Reson Chem 2002;40:533).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from mrsi_engine.conventions import canonical_name
from mrsi_engine.errors import InputError


@dataclass(frozen=True)
class SpinGroup:
    """Spins of a metabolite that are coupled to one another and to no other.

    Parameters
    ----------
    shifts_ppm
        Chemical shift of each spin, ppm.
    couplings_hz
        ``(first spin, second spin, J in Hz)`` for each coupled pair.
    nuclei
        ``"1H"`` or ``"31P"`` for each spin. A 31P spin is weakly coupled and neither pulsed nor
        observed.
    equivalent_copies
        Number of magnetically equivalent protons a lone spin stands for.
    weight
        Fraction of the molecules this group describes (glucose anomers).
    """

    shifts_ppm: tuple[float, ...]
    couplings_hz: tuple[tuple[int, int, float], ...]
    nuclei: tuple[str, ...]
    equivalent_copies: int = 1
    weight: float = 1.0

    @property
    def protons(self) -> float:
        """Observed protons a molecule, counting copies and weight."""
        return self.nuclei.count("1H") * self.equivalent_copies * self.weight


@dataclass(frozen=True)
class SpinSystem:
    """A metabolite as its independent groups of coupled spins, with the source of its values."""

    name: str
    groups: tuple[SpinGroup, ...]
    source: str

    @property
    def protons(self) -> float:
        """Observed protons a molecule: what the first point of its FID counts."""
        return sum(group.protons for group in self.groups)


@lru_cache(maxsize=1)
def spin_systems() -> Mapping[str, SpinSystem]:
    """Every metabolite of the packaged table by its canonical name."""
    table = json.loads(_table_text())
    sources = table["sources"]
    return MappingProxyType(
        {
            name: SpinSystem(name, tuple(map(_group, entry["groups"])), sources[entry["source"]])
            for name, entry in table["metabolites"].items()
        }
    )


def select_spin_systems(names: Iterable[str]) -> tuple[SpinSystem, ...]:
    """The named metabolites, in the order given.

    Raises
    ------
    InputError
        If the table has no metabolite of that name, or a name is given twice.
    """
    wanted = [canonical_name(name) for name in names]
    known = spin_systems()
    missing = sorted(set(wanted) - set(known))
    if missing:
        raise InputError(f"metabolites: no spin system of {missing}; the table has {sorted(known)}")
    repeated = sorted({name for name in wanted if wanted.count(name) > 1})
    if repeated:
        raise InputError(f"metabolites: {repeated} stand more than once; name each once")
    return tuple(known[name] for name in wanted)


def spin_systems_checksum() -> str:
    """SHA-256 of the packaged table; a simulated basis is stale when it changes."""
    return hashlib.sha256(_table_text().encode()).hexdigest()


def _table_text() -> str:
    return (files("mrsi_engine.spectra") / "spin_systems.json").read_text(encoding="utf-8")


def _group(entry: dict[str, Any]) -> SpinGroup:
    shifts = tuple(entry["shifts_ppm"])
    return SpinGroup(
        shifts_ppm=shifts,
        couplings_hz=tuple((i, j, coupling) for i, j, coupling in entry["couplings_hz"]),
        nuclei=tuple(entry.get("nuclei", ["1H"] * len(shifts))),
        equivalent_copies=entry.get("equivalent_copies", 1),
        weight=entry.get("weight", 1.0),
    )
