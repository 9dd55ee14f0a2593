"""Storms over a cohort: processes killed and frozen, disks filled, until the cohort is done.

What strikes, and when, follows from a seed as far as a machine's own timing lets it: strikes come
after so many files of the run have appeared, not after so many seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

#: How often the run is looked at (s); strikes go by what it has written.
_LOOK = 0.02

#: A run that writes nothing for so long (s) hangs, and that is a failure.
_PATIENCE = 900.0


@dataclass
class Strikes:
    """What is still to strike, by kind."""

    left: Counter[str]
    rng: np.random.Generator
    done: list[str] = field(default_factory=list)

    def draw(self, possible: frozenset[str]) -> str | None:
        """The next strike, of those that are possible here."""
        kinds = sorted(kind for kind in self.left.elements() if kind in possible)
        if not kinds:
            return None
        kind = str(self.rng.choice(kinds))
        self.left[kind] -= 1
        return kind

    @property
    def over(self) -> bool:
        """Whether all have struck."""
        return not self.left.total()


@dataclass(frozen=True)
class Session:
    """How one driver ended."""

    code: int
    output: str
    strikes: tuple[str, ...]


class Storm:
    """Runs a command again and again, striking, until all strikes are spent and it succeeds.

    Parameters
    ----------
    command
        The driver; the same every time.
    out
        Its output folder.
    strikes
        How many of each kind: ``worker``, ``driver``, ``pool`` (the process that workers are forked
        from), ``frozen`` (a worker is stopped and not let go on) and whatever ``others`` knows.
    others
        Strikes of other kinds, e.g. that cancel a job, and return whether they struck.
    before
        Called before every session, to put back what a strike took away.
    """

    def __init__(
        self,
        command: list[str],
        out: Path,
        strikes: Counter[str],
        seed: int,
        others: dict[str, Callable[[psutil.Process], bool]] | None = None,
        environment: dict[str, str] | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self._command, self._out, self._before = command, out, before
        self._rng = np.random.default_rng(seed)
        self.strikes = Strikes(strikes, self._rng)
        self._others = others or {}
        self._environment = {**os.environ, **(environment or {})}
        self.sessions: list[Session] = []

    def blow(self, most_sessions: int) -> Session:
        """The last session, once all strikes are spent and the cohort is done.

        Raises
        ------
        AssertionError
            If it takes more sessions than that, or a session hangs.
        """
        for _ in range(most_sessions):
            self._before()
            session = self._session()
            self.sessions.append(session)
            if session.code == 0 and self.strikes.over:
                return session
            if session.code == 0 and not session.strikes:
                # Done before all could strike; what is left finds nothing to hit.
                return session
        told = "\n".join(s.output[-2000:] for s in self.sessions[-2:])
        raise AssertionError(
            f"not done after {most_sessions} sessions; {self.strikes.left}\n{told}"
        )

    def _session(self) -> Session:
        log = self._out.parent / f"{self._out.name}-session-{len(self.sessions)}.log"
        struck: list[str] = []
        with log.open("w") as file:
            driver = psutil.Popen(
                self._command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
            try:
                for _ in self._gusts(driver):
                    kind = self.strikes.draw(self._possible(driver))
                    if kind is not None and self._strike(kind, driver):
                        struck.append(kind)
                    elif kind is not None:
                        self.strikes.left[kind] += 1
                code = driver.wait(timeout=60)
            finally:
                _end(driver.pid)
        self.strikes.done += struck
        return Session(int(code), log.read_text(errors="replace"), tuple(struck))

    def _gusts(self, driver: psutil.Popen) -> Iterator[None]:
        """Moments to strike: each after some more files of the run have appeared."""
        wait, seen, moved = self._pause(), _written(self._out), time.monotonic()
        while driver.poll() is None:
            time.sleep(_LOOK)
            now = _written(self._out)
            if now != seen:
                wait -= abs(now - seen)
                seen, moved = now, time.monotonic()
            if time.monotonic() - moved > _PATIENCE:
                raise AssertionError(f"the run has written nothing for {_PATIENCE:g} s")
            if wait <= 0:
                wait = self._pause()
                yield

    def _pause(self) -> int:
        return int(self._rng.integers(1, 120))

    def _possible(self, driver: psutil.Popen) -> frozenset[str]:
        workers = {"worker", "frozen"} if _workers(driver) else set()
        pool = {"pool"} if _pool(driver) else set()
        return frozenset({"driver"} | workers | pool | set(self._others))

    def _strike(self, kind: str, driver: psutil.Popen) -> bool:
        if kind == "driver":
            return _signalled(driver, signal.SIGKILL)
        if kind in ("worker", "frozen"):
            workers = _workers(driver)
            if not workers:
                return False
            victim = workers[int(self._rng.integers(len(workers)))]
            return _signalled(victim, signal.SIGKILL if kind == "worker" else signal.SIGSTOP)
        if kind == "pool":
            pool = _pool(driver)
            return bool(pool) and _signalled(pool[0], signal.SIGKILL)
        return self._others[kind](driver)


def _workers(driver: psutil.Process) -> list[psutil.Process]:
    """Worker processes of a driver on this machine: what its fork server forked."""
    return [child for server in _pool(driver) for child in _children(server)]


def _pool(driver: psutil.Process) -> list[psutil.Process]:
    return [p for p in _children(driver) if _is_running(p, "forkserver")]


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found = process.children()
        return [p for p in found if p.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)]
    except psutil.Error:
        return []


def _is_running(process: psutil.Process, word: str) -> bool:
    try:
        return any(word in part for part in process.cmdline())
    except psutil.Error:
        return False


def _signalled(process: psutil.Process, number: signal.Signals) -> bool:
    try:
        process.send_signal(number)
    except psutil.Error:
        return False
    return True


def _end(session: int) -> None:
    """Kill what is left of a driver's session: orphans of one that was killed, stopped ones."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                process.kill()
        except (psutil.Error, OSError):
            continue


def _written(folder: Path) -> int:
    """Files under a folder; walks it as it changes."""
    count = 0
    for _, _, files in os.walk(folder):
        count += len(files)
    return count
