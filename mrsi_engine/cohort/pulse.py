"""What a driver does now and then while a cohort runs: it says that it lives, and how far it is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

from mrsi_engine.cohort.crash import write_failed
from mrsi_engine.cohort.events import CohortEvent
from mrsi_engine.cohort.ledger import LOST, Ledger, Record
from mrsi_engine.cohort.lock import RENEWED_EVERY, CohortLock, LockLost, holder_of
from mrsi_engine.cohort.status import status_of
from mrsi_engine.cohort.status_page import RELOAD, write_status_page


class Pulse:
    """Renews the lock and writes ``status.html`` and ``failed.tsv``, in a thread and at the end.

    Parameters
    ----------
    out
        Folder of the cohort.
    beat, renewed_every
        How often (s) the page is written, and the lock renewed. The table is where it changed.
    """

    def __init__(
        self,
        out: Path,
        ledger: Ledger,
        lock: CohortLock,
        *,
        beat: float = RELOAD,
        renewed_every: float = RENEWED_EVERY,
    ) -> None:
        self._out, self._ledger, self._lock = out, ledger, lock
        self._beat, self._beats = beat, max(1, round(renewed_every / beat))
        self._told: tuple[Record, ...] | None = None
        self._lost: LockLost | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def check(self, event: CohortEvent) -> None:
        """A sink: stops the driver at the next event if it lost its lock.

        Raises
        ------
        LockLost
            If it did.
        """
        if self._lost is not None:
            raise self._lost

    def __enter__(self) -> Self:
        self._show()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self._show(ended=True)

    def _run(self) -> None:
        beats = 0
        while not self._over.wait(self._beat):
            beats += 1
            self._show()
            if beats % self._beats == 0:
                self._renew()

    def _renew(self) -> None:
        try:
            self._lock.renew()
        except LockLost as error:
            self._lost = error
        except Exception:
            # A disk that is full or a server that does not answer may be well at the next beat.
            return

    def _show(self, ended: bool = False) -> None:
        driver = None if ended else holder_of(self._out)
        try:
            self._ledger.flush()
            story = self._ledger.story
            write_status_page(self._out, status_of(self._out, story, driver))
            if (lost := story.of(*LOST)) != self._told:
                write_failed(self._out, lost)
                self._told = lost
        except Exception:
            # A page is not worth a run: what is wrong ends it where it writes results.
            return
