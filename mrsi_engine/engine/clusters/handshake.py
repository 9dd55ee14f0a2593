"""Before a run: are there workers, and can they do it? What is wrong is said, and where."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from distributed import Client

from mrsi_engine.engine.clusters.choice import Need
from mrsi_engine.engine.clusters.heart import Heart
from mrsi_engine.engine.clusters.look import Seen, Token, look, look_beside
from mrsi_engine.engine.clusters.pool import Pool, Served
from mrsi_engine.errors import InputError, RunError

#: Between two looks whether workers have come (s).
_LOOK_SECONDS = 0.2

#: A worker that does not answer within this is not fit for a run (s). It may import torch first.
_ANSWER_SECONDS = 120.0

#: So many jobs that end without a worker having come, one after the other, are no accident.
MOST_LOST_JOBS = 3

_MIB = 1 << 20


@dataclass(frozen=True)
class Report:
    """A worker that was asked: its address, its memory limit in bytes, and what it said.

    ``seen`` is the error instead where it could not say anything; ``problem`` says why it cannot do
    a run, ``notes`` what is odd about it.
    """

    address: str
    memory_limit: int
    seen: Seen | Exception
    problem: str = ""
    notes: tuple[str, ...] = ()


class _Unloadable(Exception):
    """A worker that cannot load what it is asked to run."""

    def __init__(self, error: Exception, version: object) -> None:
        super().__init__(str(error))
        self.error, self.version = error, version


def wait_for_workers(
    client: Client,
    heart: Heart,
    pool: Pool | Served,
    count: int = 1,
    patience: float = math.inf,
    note: Callable[[Collection[str]], object] = len,
) -> None:
    """Wait until there are so many workers, and say every half minute what is waited for.

    ``note`` is told the addresses of those that are there.

    Raises
    ------
    RunError
        If jobs end one after the other without a worker having come, or none is there after
        ``patience`` s.
    """
    started = time.monotonic()
    while len(workers := _workers(client)) < count:
        note(workers)
        heart.beat()
        if (lost := pool.lost_jobs) >= MOST_LOST_JOBS:
            raise RunError(f"{lost} jobs ended before a worker came; {pool.last_words()}")
        if time.monotonic() - started > patience:
            raise RunError(
                f"{client.scheduler.address}: {len(workers)} of {count} workers came within "
                f"{patience:g} s"
            )
        time.sleep(_LOOK_SECONDS)
    note(workers)


def ask_workers(client: Client, need: Need) -> list[Report]:
    """Ask every worker whether it can do what is needed.

    Parameters
    ----------
    client
        Of the cluster.
    need
        What a run needs. Its folder gets a token file for as long as this takes.
    """
    workers = _workers(client)
    with _token(need) as token:
        answers = client.sync(_ask, client, list(workers), token, need.device)
    mine = look()
    return [
        _report(address, worker["memory_limit"], answers[address], need, mine)
        for address, worker in workers.items()
    ]


def refuse_unfit(reports: Sequence[Report], tell: Callable[[str], None]) -> None:
    """Refuse a cluster some of whose workers cannot do the run.

    Raises
    ------
    InputError
        If there is one; the message names each problem once, and where it is.
    """
    for note in dict.fromkeys(note for report in reports for note in report.notes):
        tell(f"note: {note}")
    unfit: dict[str, list[str]] = {}
    for report in reports:
        if report.problem:
            unfit.setdefault(report.problem, []).append(_where(report))
    if not unfit:
        return
    lines = [f"{', '.join(where)}: {problem}" for problem, where in unfit.items()]
    raise InputError("\n".join(["the cluster cannot do this run", *lines]))


def _workers(client: Client) -> Mapping[str, Mapping[str, Any]]:
    lost = f"lost the Dask scheduler {client.scheduler.addr}"
    try:
        found: Mapping[str, Any] = client.scheduler_info(n_workers=-1)
    except OSError as error:
        raise RunError(f"{lost}: {error}") from error
    if "workers" not in found:
        raise RunError(f"{lost} before it could be asked; run the same command again")
    return found["workers"]


async def _ask(
    client: Client, workers: Sequence[str], token: Token, device: str
) -> dict[str, Seen | Exception]:
    """What each worker says; each has its own time, so that one that hangs holds nobody up."""

    async def one(worker: str, function: Any, *arguments: Any) -> Any:
        asked = client.run(function, *arguments, workers=[worker], on_error="return")
        try:
            answers = await asyncio.wait_for(asked, _ANSWER_SECONDS)
        except (TimeoutError, OSError) as error:
            return error
        # A worker that went meanwhile says nothing.
        return answers.get(worker, ConnectionError("it went away while it was asked"))

    async def both(worker: str) -> Seen | Exception:
        answer = await one(worker, look_beside, token, device)
        if isinstance(answer, Exception) and not isinstance(answer, OSError):
            # Another version of this package, or none: which, says Python's own library.
            return _Unloadable(answer, await one(worker, version, "mrsi-engine"))
        return answer

    answers = await asyncio.gather(*map(both, workers))
    return dict(zip(workers, answers, strict=True))


def _report(address: str, limit: int, answer: Seen | Exception, need: Need, mine: Seen) -> Report:
    if isinstance(answer, Exception):
        return Report(address, limit, answer, _said(answer, mine))
    problem = _memory(limit, need) or (answer.folder and _folder(answer, need))
    problem = problem or _versions(answer, mine)
    if not problem and not answer.has_device:
        problem = answer.device
    return Report(address, limit, answer, problem, tuple(_notes(answer, mine)))


def _said(answer: Exception, mine: Seen) -> str:
    if isinstance(answer, _Unloadable):
        there = answer.version if isinstance(answer.version, str) else "not installed"
        return (
            f"cannot load mrsi_engine ({answer.error}): {there} there, "
            f"{mine.versions['mrsi-engine']} here; install the same version"
        )
    if isinstance(answer, TimeoutError):
        return f"does not answer within {_ANSWER_SECONDS:g} s"
    return f"{type(answer).__name__}: {answer}"


def _memory(limit: int, need: Need) -> str:
    if not limit or limit >= need.bytes:
        return ""
    return (
        f"memory limit is {limit / _MIB:.0f} MiB, but a block needs {need.bytes / _MIB:.0f} MiB; "
        "give workers more (memory in the profile, --memory-limit of dask worker), or use fewer "
        "workers or a smaller --block-size"
    )


def _folder(answer: Seen, need: Need) -> str:
    return (
        f"does not share the folder {need.folder}: {answer.folder}, as user {answer.user}; put the "
        "output where every worker sees it by the same path"
    )


def _versions(answer: Seen, mine: Seen) -> str:
    """Which versions cannot work together: any of this package, others in their first two parts."""
    differing = [
        f"{package} is {theirs or 'not installed'} there and {ours} here"
        for package, ours in mine.versions.items()
        if (theirs := answer.versions.get(package, "")) != ours
        and (package == "mrsi-engine" or _series(theirs) != _series(ours))
    ]
    return f"other versions: {'; '.join(differing)}" if differing else ""


def _notes(answer: Seen, mine: Seen) -> Iterator[str]:
    for package, ours in mine.versions.items():
        theirs = answer.versions.get(package, "")
        if theirs != ours and _series(theirs) == _series(ours):
            yield f"{answer.host} has {package} {theirs}, this machine {ours}"


def _series(text: str) -> list[str]:
    return text.split(".")[:2]


def _where(report: Report) -> str:
    if isinstance(report.seen, Exception):
        return f"worker {report.address}"
    return f"worker {report.address} on {report.seen.host}"


@contextmanager
def _token(need: Need) -> Iterator[Token]:
    need.folder.mkdir(parents=True, exist_ok=True)
    token = Token(need.folder / f".mrsi-token-{uuid4().hex}", uuid4().hex)
    token.path.write_text(token.text, encoding="utf-8")
    try:
        yield token
    finally:
        with suppress(OSError):
            token.path.unlink()
