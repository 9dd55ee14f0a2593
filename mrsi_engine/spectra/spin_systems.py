"""Chemical shifts and J couplings of brain metabolites, from the literature.

One table a nucleus beside this file, ``spin_systems_31p.json``, which names its sources.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from mrsi_engine.errors import InputError
from mrsi_engine.nuclei import nucleus


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
        Of each spin. Those of another nucleus than the basis' are weakly coupled and neither
        pulsed nor observed.
    equivalent_copies
        Number of magnetically equivalent nuclei a lone spin stands for.
    weight
        Fraction of the molecules this group describes (glucose anomers).
    observed
        Spins whose signal is meant, where not all of them are: one phosphate of ATP.
    """

    shifts_ppm: tuple[float, ...]
    couplings_hz: tuple[tuple[int, int, float], ...]
    nuclei: tuple[str, ...]
    equivalent_copies: int = 1
    weight: float = 1.0
    observed: tuple[int, ...] | None = None

    def sees(self, spin: int, symbol: str) -> bool:
        """Whether a spin's signal is part of a spectrum of a nucleus."""
        return self.nuclei[spin] == symbol and (self.observed is None or spin in self.observed)

    def spins(self, symbol: str) -> float:
        """Observed nuclei a molecule, counting copies and weight."""
        count = sum(self.sees(spin, symbol) for spin in range(len(self.nuclei)))
        return count * self.equivalent_copies * self.weight


@dataclass(frozen=True)
class SpinSystem:
    """A metabolite as its independent groups of coupled spins, with the source of its values."""

    name: str
    groups: tuple[SpinGroup, ...]
    source: str
    nucleus: str = "1H"

    @property
    def spins(self) -> float:
        """Observed nuclei a molecule: what the first point of its FID counts."""
        return sum(group.spins(self.nucleus) for group in self.groups)


@cache
def spin_systems(symbol: str = "1H") -> Mapping[str, SpinSystem]:
    """Every metabolite of the packaged table of a nucleus by its canonical name.

    Raises
    ------
    InputError
        If there is no table of that nucleus.
    """
    table = json.loads(_table_text(symbol))
    sources = table["sources"]

    def system(name: str, entry: dict[str, Any]) -> SpinSystem:
        groups = tuple(_group(group, symbol) for group in entry["groups"])
        return SpinSystem(name, groups, sources[entry["source"]], symbol)

    return MappingProxyType({n: system(n, entry) for n, entry in table["metabolites"].items()})


def select_spin_systems(names: Iterable[str], symbol: str = "1H") -> tuple[SpinSystem, ...]:
    """The named metabolites, in the order given.

    Raises
    ------
    InputError
        If the table has no metabolite of that name, or a name is given twice.
    """
    wanted = [nucleus(symbol).canonical_name(name) for name in names]
    known = spin_systems(symbol)
    missing = sorted(set(wanted) - set(known))
    if missing:
        raise InputError(f"metabolites: no spin system of {missing}; the table has {sorted(known)}")
    repeated = sorted({name for name in wanted if wanted.count(name) > 1})
    if repeated:
        raise InputError(f"metabolites: {repeated} stand more than once; name each once")
    return tuple(known[name] for name in wanted)


def spin_systems_checksum(symbol: str = "1H") -> str:
    """SHA-256 of the packaged table; a simulated basis is stale when it changes."""
    return hashlib.sha256(_table_text(symbol).encode()).hexdigest()


def _table_text(symbol: str) -> str:
    path = files("mrsi_engine.spectra") / f"spin_systems_{symbol.lower()}.json"
    if not path.is_file():
        raise InputError(f"nucleus: no spin systems of {symbol} are known; give a basis file")
    return path.read_text(encoding="utf-8")


def _group(entry: dict[str, Any], symbol: str) -> SpinGroup:
    shifts = tuple(entry["shifts_ppm"])
    return SpinGroup(
        shifts_ppm=shifts,
        couplings_hz=tuple((i, j, coupling) for i, j, coupling in entry["couplings_hz"]),
        nuclei=tuple(entry.get("nuclei", [symbol] * len(shifts))),
        equivalent_copies=entry.get("equivalent_copies", 1),
        weight=entry.get("weight", 1.0),
        observed=tuple(entry["observed"]) if "observed" in entry else None,
    )
