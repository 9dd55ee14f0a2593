"""The kinds of stores: how a folder is known to be one, and what its readers refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mrsi_engine.errors import InputError
from mrsi_engine.io.integrity import (
    attributes_of,
    damaged_metadata,
    is_sealed,
    is_store,
    refuse_damaged,
)
from mrsi_engine.io.places import place


@dataclass(frozen=True)
class StoreKind:
    """One kind of store.

    Parameters
    ----------
    name
        What people call it.
    schema, version
        What its attributes call it, and the format of those that are written now.
    parts
        Arrays that every one has: a damaged one is known by them.
    origin
        Where one comes from, for a folder that is none.
    renewal
        What to do with one of another version.
    remedy
        What to do where its attributes are damaged.
    """

    name: str
    schema: str
    version: int
    parts: tuple[str, ...]
    origin: str
    renewal: str
    remedy: str

    def holds(self, path: str | Path) -> bool:
        """Whether a folder is such a store, of any version, damaged or not."""
        return is_store(place(path), self.schema, self.parts)

    def attributes(self, path: str | Path) -> dict[str, Any]:
        """Attributes of such a store, whatever the state of the rest.

        Raises
        ------
        InputError
            If there is none, or it is of another version.
        DamagedError
            If the attributes are not as they were written.
        """
        path = place(path)
        if not self.holds(path):
            raise InputError(f"{path}: {self._other(path)}; {self.origin}")
        attributes = attributes_of(path) or {}
        self._check_version(path, attributes)
        if not is_sealed(attributes):
            refuse_damaged(path, damaged_metadata(path)[:1], self.remedy)
        return attributes

    def _other(self, path: Path) -> str:
        if not path.exists():
            return f"no such {self.name}"
        attributes = attributes_of(path)
        if attributes is None:
            return f"not a {self.name} (no Zarr v3 group)"
        return (
            f"a Zarr group but not a {self.name} (schema {attributes.get('schema')!r}, expected "
            f"{self.schema!r})"
        )

    def _check_version(self, path: Path, attributes: Mapping[str, Any]) -> None:
        found = attributes.get("schema_version", self.version)
        if found != self.version:
            raise InputError(
                f"{path}: {self.name} of schema version {found}, written by mrsi_engine "
                f"{attributes.get('engine_version')}; this is mrsi_engine "
                f"{version('mrsi-engine')}, which reads {self.version}: {self.renewal}"
            )
