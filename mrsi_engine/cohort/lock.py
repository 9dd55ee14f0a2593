"""One driver a folder: the lock of a cohort, and what a second driver is told.

The lock is a file that says who holds it; only its creation as a whole counts (a hard link on file
systems, NFS among them, a conditional put on object stores). Whether a holder lives is asked of the
machine it runs on, if that is this one; of any other it is known by the age of the file, which the
holder renews, by the clock of the file server alone.

A lock whose holder is dead is taken over by creating ``cohort.lock.TOKEN``, which its token names:
only one taker can. The holder is who stands at the end of that chain, so that a taker who dies half
way is taken over himself.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import psutil

from mrsi_engine.cohort.ledger import now
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.exclusive import create_whole
from mrsi_engine.io.files import write_atomically
from mrsi_engine.io.places import is_remote

#: The lock in the folder of a cohort.
LOCK = "cohort.lock"

#: A holder renews its lock so often (s), and is taken for dead after so many times of that.
RENEWED_EVERY, MISSED = 15.0, 8

#: Two readings of the time (s) a process began may differ by so much, as clocks are set.
_SAME_START = 3.0

#: Attempts to get hold of a lock that others take and leave at the same time.
_ATTEMPTS = 50


class LockLost(RunError):
    """Another driver took the lock: this one must stop."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    ``machine`` is the running system that ``pid`` is of, ``started`` when that process began (s
    since 1970), ``since`` when it took the lock.
    """

    host: str
    machine: str
    pid: int
    started: float
    since: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        started = psutil.Process().create_time()
        return cls(socket.gethostname(), this_machine(), os.getpid(), started, now())

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.machine == this_machine()

    @property
    def runs(self) -> bool:
        """Whether that process, of this machine, lives."""
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            return alive and abs(process.create_time() - self.started) <= _SAME_START
        except psutil.Error:
            return False

    def data(self) -> bytes:
        """As the lock file holds it."""
        return json.dumps(asdict(self)).encode()


class CohortLock:
    """The lock of a cohort's folder.

    Parameters
    ----------
    out
        Folder of the cohort.
    renewed_every
        How often (s) holders renew it, this one and any other.
    """

    def __init__(self, out: Path, renewed_every: float = RENEWED_EVERY) -> None:
        self._path, self._limit = out / LOCK, MISSED * renewed_every
        self._me = Holder.me()
        self._new = not out.exists()
        self.taken_from: Holder | None = None

    def take(self) -> None:
        """Take the lock.

        Raises
        ------
        InputError
            If another driver holds it; says host, pid and since when.
        """
        for _ in range(_ATTEMPTS):
            chain = self._chain()
            if chain and self._lives(*chain[-1]):
                raise InputError(self._refusal(*chain[-1]))
            if self._join(chain):
                return
            time.sleep(0.05)
        raise InputError(f"{self._path}: other drivers take and leave it all the time; try again")

    def renew(self) -> None:
        """Say that this driver lives.

        Raises
        ------
        LockLost
            If another one took the lock meanwhile.
        RunError
            If the lock cannot be written now; it may be later.
        """
        holder = _read(self._path)
        if holder is None and not _is_there(self._path):
            create_whole(self._path, self._me.data())
            holder = _read(self._path)
        if holder is not None and holder != self._me:
            raise LockLost(
                f"{self._path}: was taken by {_named(holder)} while this driver gave no sign of "
                "life; it stops, and what is done is kept"
            )
        # A new file rather than a new date: an object store has no other way.
        write_atomically(self._path, self._me.data())

    def leave(self) -> None:
        """Give the lock back; a folder that was made for it and holds nothing else goes, too."""
        if _read(self._path) == self._me:
            self._path.unlink(missing_ok=True)
        if self._new and not is_remote(self._path):
            with suppress(OSError):
                self._path.parent.rmdir()

    def _join(self, chain: list[tuple[Path, Holder | None]]) -> bool:
        """Stand at the end of the chain, unless another one did or the chain is no more."""
        dead = chain[-1][1] if chain else None
        mine = self._path if not chain else self._next(dead)
        if not create_whole(mine, self._me.data()):
            return False
        if [path for path, _ in self._chain()] != [*(path for path, _ in chain), mine]:
            mine.unlink(missing_ok=True)
            return False
        if chain:
            self.taken_from = dead
            write_atomically(self._path, self._me.data())
            for path, _ in [*chain[1:], (mine, None)]:
                path.unlink(missing_ok=True)
        return True

    def _chain(self) -> list[tuple[Path, Holder | None]]:
        """Lock files from the first to that of the holder; ``None`` is one that cannot be read."""
        chain: list[tuple[Path, Holder | None]] = []
        path = self._path
        while _is_there(path) and path not in [known for known, _ in chain]:
            holder = _read(path)
            chain.append((path, holder))
            path = self._next(holder)
        return chain

    def _next(self, holder: Holder | None) -> Path:
        return self._path.with_name(f"{LOCK}.{holder.token if holder else 'unreadable'}")

    def _lives(self, path: Path, holder: Holder | None) -> bool:
        if holder is not None and _can_be_asked(path, holder):
            return holder.runs
        return self._age(path) < self._limit

    def _age(self, path: Path) -> float:
        """Time since a lock was renewed (s), both ends by the clock of who keeps the files."""
        clock = path.with_name(f".{LOCK}.{self._me.token}.clock")
        clock.write_bytes(b"")
        try:
            return clock.stat().st_mtime - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            clock.unlink(missing_ok=True)

    def _refusal(self, path: Path, holder: Holder | None) -> str:
        if holder is None:
            return (
                f"{path}: another driver is about to take this folder; try again in "
                f"{self._limit:.0f} s"
            )
        head = f"{path.parent}: {_named(holder)} runs this cohort; mrsi status shows how far it is"
        if holder.is_here and holder.runs:
            return f"{head}. Wait for it, stop it (kill {holder.pid}), or give another --out"
        age = self._age(path)
        return (
            f"{head}. Its last sign of life is {age:.0f} s old: if it lives no more, the same "
            f"command takes over in {max(self._limit - age, 0):.0f} s"
        )


@contextmanager
def locked(out: Path) -> Iterator[CohortLock]:
    """Hold the lock of a cohort's folder.

    Raises
    ------
    InputError
        If another driver holds it.
    """
    lock = CohortLock(out)
    lock.take()
    try:
        yield lock
    finally:
        lock.leave()


def holder_of(out: Path) -> Holder | None:
    """Who holds the lock of a cohort's folder, dead or alive; ``None`` if nobody does."""
    return _read(out / LOCK)


def holder_lives(out: Path, holder: Holder, renewed_every: float = RENEWED_EVERY) -> bool:
    """Whether the holder of a lock lives, as far as a reader can tell who writes nothing."""
    if _can_be_asked(out / LOCK, holder):
        return holder.runs
    try:
        age = time.time() - (out / LOCK).stat().st_mtime
    except OSError:
        return False
    return age < MISSED * renewed_every


def this_machine() -> str:
    """The running system in which a process id means something: this boot, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _can_be_asked(path: Path, holder: Holder) -> bool:
    """Whether this machine knows for sure if a holder lives: it may hide processes of others."""
    if not holder.is_here:
        return False
    try:
        owner = getattr(path.stat(), "st_uid", None)
    except OSError:
        owner = None
    return holder.runs or owner in (None, os.getuid())


def _named(holder: Holder) -> str:
    return (
        f"process {holder.pid} on {holder.host}, since {holder.since[:19].replace('T', ' ')} UTC,"
    )


def _is_there(path: Path) -> bool:
    return path.is_file()


def _read(path: Path) -> Holder | None:
    """Who a lock file names; ``None`` where it is gone or cannot be read as one."""
    try:
        found = json.loads(path.read_bytes())
        return Holder(**{f.name: found[f.name] for f in fields(Holder)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
