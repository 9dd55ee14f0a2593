"""A store on an object store as Zarr sees it: without a request for metadata that are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from mrsi_engine.io.places import is_remote, zarr_store


class SealedStore(WrapperStore[Store]):
    """A store some of whose files were read before, and are as they were sealed.

    Parameters
    ----------
    store
        Where all the others are.
    files
        Contents of metadata files by key.
    """

    def __init__(self, store: Store, files: Mapping[str, bytes]) -> None:
        super().__init__(store)
        self._files = dict(files)

    def _with_store(self, store: Store) -> SealedStore:
        return type(self)(store, self._files)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """As any store, without a request for what is known."""
        if byte_range is None and key in self._files:
            return prototype.buffer.from_bytes(self._files[key])
        return await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """As any store; what is known of the key is then the new content."""
        await self._store.set(key, value)
        if key in self._files:
            self._files[key] = value.to_bytes()


def with_metadata(folder: Path, files: Mapping[str, bytes]) -> Any:
    """What Zarr takes for the folder of a store whose metadata files hold this."""
    store = zarr_store(folder)
    return SealedStore(store, files) if is_remote(folder) else store
