"""What is told of a cluster while a run waits for it, or works on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from distributed import Client

#: Between two lines (s).
BEAT_SECONDS = 30.0

#: A worker that the scheduler has not heard of for so long is told of (s).
_SILENT = 30.0


#: So many workers lost without a block having ended are no accident.
_AGAIN_AND_AGAIN = 3


class Heart:
    """Says every half minute what a cluster is doing.

    Called from the thread of the driver only: what is told goes where its other events go.

    Parameters
    ----------
    client
        Of the cluster.
    queue
        A few words of the batch system, such as jobs by state.
    tell
        Told the line.
    needed
        Memory that a worker needs, in bytes; 0 if not known.
    here
        Whether the workers are of this machine: of them it only speaks if nothing moves.
    """

    def __init__(
        self,
        client: Client,
        queue: Callable[[], str],
        tell: Callable[[str], None],
        needed: int = 0,
        here: bool = False,
    ) -> None:
        self._client, self._queue, self._tell = client, queue, tell
        self._needed, self._here = needed, here
        self._started = self._last = self._looked = time.monotonic()
        self._blocks = 0
        self._known: set[str] = set()
        self._lost = 0
        self._heard: dict[str, tuple[float, float]] = {}

    def block_ended(self) -> None:
        """Count a block, or a part of a pass; workers that were lost before it are forgiven."""
        self._blocks += 1
        self._lost = 0

    def beat(self) -> None:
        """Look at the cluster, and speak if it is time to."""
        now = time.monotonic()
        if now - self._looked < min(1.0, BEAT_SECONDS / 4):
            return
        self._looked = now
        workers = self._workers()
        self._lost += len(self._known - set(workers))
        self._known = set(workers)
        silent = self._silent(workers, now)
        if now - self._last < BEAT_SECONDS:
            return
        blocks, self._blocks = self._blocks, 0
        seconds, self._last = now - self._last, now
        if not (self._here and blocks):
            self._tell(self._line(workers, silent, blocks, seconds))

    def _workers(self) -> Mapping[str, float]:
        """When each worker was last heard, by the clock of the scheduler."""
        found = self._client.scheduler_info(n_workers=-1).get("workers", {})
        return {address: worker["last_seen"] for address, worker in found.items()}

    def _silent(self, workers: Mapping[str, float], now: float) -> dict[str, float]:
        heard: dict[str, tuple[float, float]] = {}
        for address, last in workers.items():
            known = self._heard.get(address)
            heard[address] = known if known is not None and known[0] == last else (last, now)
        self._heard = heard
        ages = {address: now - since for address, (_, since) in heard.items()}
        return {address: age for address, age in ages.items() if age > _SILENT}

    def _line(
        self, workers: Mapping[str, float], silent: Mapping[str, float], blocks: int, seconds: float
    ) -> str:
        plural = "" if len(workers) == 1 else "s"
        parts = [f"{len(workers)} worker{plural}", self._queue()]
        parts += [f"{blocks / seconds:.3g} blocks/s"]
        parts += [f"{address} silent for {age:.0f} s" for address, age in silent.items()]
        if self._lost:
            parts.append(f"{self._lost} lost since the last block ended")
        if self._lost >= _AGAIN_AND_AGAIN:
            memory = f" (one needs {self._needed >> 20} MiB)" if self._needed else ""
            parts.append(f"they are killed, for their memory{memory}, or crash: see their logs")
        total = time.monotonic() - self._started
        return f"cluster after {total:.0f} s: {'; '.join(part for part in parts if part)}"
