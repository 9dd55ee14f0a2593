"""A scheduler that is there already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client

from mrsi_engine.engine.clusters.certificates import TLSFiles, security_of
from mrsi_engine.engine.clusters.settings import SHORT_MEMORY
from mrsi_engine.errors import RunError


@contextmanager
def connected(
    scheduler: str, timeout: float = 30.0, *, tls: TLSFiles | None = None
) -> Iterator[Client]:
    """A client of a scheduler that is already there, such as ``tcp://node1:8786``.

    Raises
    ------
    InputError
        If the address asks for certificates and there are none.
    RunError
        If no scheduler answers at the address within ``timeout`` s.
    """
    security = security_of(scheduler, tls)
    try:
        with dask.config.set(SHORT_MEMORY):
            client = Client(scheduler, timeout=timeout, security=security, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{scheduler}: no Dask scheduler answers at this address ({error}); start one with: "
            "dask scheduler. One that wants certificates answers to tls:// only, one that does not "
            "to tcp:// only"
        ) from error
    with client:
        yield client
