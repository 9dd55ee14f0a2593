"""Who may read what workers write: the same as what this process writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from distributed import Client, Worker, WorkerPlugin


class SameUmask(WorkerPlugin):
    """Gives every worker of a cluster, and those that join later, a umask while a run lasts."""

    def __init__(self, umask: int) -> None:
        self._umask = umask
        self._before: int | None = None

    def setup(self, worker: Worker) -> None:
        """Set it."""
        before = os.umask(self._umask)
        # Of several workers in a process the first one has the umask that was there before.
        self._before = None if before == self._umask else before

    def teardown(self, worker: Worker) -> None:
        """Set the one from before, for whoever uses the cluster next."""
        if self._before is not None:
            os.umask(self._before)


@contextmanager
def same_umask(client: Client) -> Iterator[None]:
    """Let the workers of a client's cluster write files as this process does."""
    name = f"umask-{uuid4().hex[:8]}"
    # Of a scheduler that is lost the tasks will tell.
    with suppress(OSError, ValueError):
        client.register_plugin(SameUmask(umask_here()), name=name)
    try:
        yield
    finally:
        # A worker that joins at this very moment was never told: it answers with a KeyError.
        with suppress(OSError, ValueError, KeyError):
            if client.status == "running":
                client.unregister_worker_plugin(name)


def umask_here() -> int:
    """The umask of this process."""
    # It can only be read by setting it; a file made meanwhile is not for others.
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
