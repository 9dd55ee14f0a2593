"""How long tasks may take, by how long others took, and which workers hang."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

#: A worker that still sends heartbeats may take so many times as long as one that is silent.
_TALKING = 4


@dataclass(frozen=True)
class Patience:
    """Limits of time, all in s.

    Parameters
    ----------
    unknown
        A task may take, as long as none of its kind has ended.
    times, least
        A task may take so many times as long as the longest of its kind, by the task or by the
        voxel, and never less than ``least``. One whose worker still sends heartbeats may take four
        times as long.
    without_workers
        A run goes on without any worker that could do a task.
    farewell
        Running tasks get to end once the run is asked to stop. SLURM kills 30 s after it asks.
    """

    unknown: float = 1800.0
    times: float = 5.0
    least: float = 60.0
    without_workers: float = 600.0
    farewell: float = 10.0


class Sized(Protocol):
    """A task, as far as the time it takes goes."""

    @property
    def kind(self) -> str:
        """Tasks of one kind take about as long by the voxel."""

    @property
    def voxels(self) -> int:
        """How many it has."""


class Watch:
    """Knows how long tasks take, and finds those that take too long where."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._longest: dict[str, float] = {}
        self._slowest: dict[str, float] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._heard: dict[str, tuple[float, float]] = {}

    def learn(self, task: Sized, seconds: float) -> None:
        """That a task took so long."""
        by_voxel = seconds / max(1, task.voxels)
        self._longest[task.kind] = max(self._longest.get(task.kind, 0.0), seconds)
        self._slowest[task.kind] = max(self._slowest.get(task.kind, 0.0), by_voxel)

    def limit(self, task: Sized) -> float:
        """How long a task may take without a word of its worker, s."""
        if task.kind not in self._longest:
            return self._patience.unknown
        expected = max(self._longest[task.kind], self._slowest[task.kind] * task.voxels)
        return max(self._patience.least, self._patience.times * expected)

    @property
    def pause(self) -> float:
        """How often to look, s."""
        return min(5.0, max(0.1, self._patience.least / 10))

    def hanging(
        self,
        running: Mapping[str, Sequence[str]],
        tasks: Mapping[str, Sized],
        heartbeats: Callable[[], Mapping[str, float]],
    ) -> list[str]:
        """Workers with a task that takes too long.

        Parameters
        ----------
        running
            Names of tasks by the worker that has them now.
        tasks
            The ones to look at, by name.
        heartbeats
            When each worker was last heard, on any clock; only asked for in doubt.
        """
        now = time.monotonic()
        places = [(worker, key) for worker, keys in running.items() for key in keys if key in tasks]
        self._since = {place: self._since.get(place, now) for place in places}
        ages = [(worker, now - self._since[worker, key], tasks[key]) for worker, key in places]
        doubtful = {worker for worker, age, task in ages if age > self.limit(task) / 2}
        silent = self._silent(doubtful, heartbeats() if doubtful else {}, now)
        return sorted(
            {
                worker
                for worker, age, task in ages
                if age > _TALKING * self.limit(task)
                or min(age, 2 * silent.get(worker, 0.0)) > self.limit(task)
            }
        )

    def _silent(
        self, doubtful: set[str], heartbeats: Mapping[str, float], now: float
    ) -> dict[str, float]:
        """How long nothing new was heard of each doubtful worker, s."""
        heard = {worker: heartbeats[worker] for worker in doubtful if worker in heartbeats}
        self._heard = {
            worker: known
            if (known := self._heard.get(worker)) is not None and known[0] == last
            else (last, now)
            for worker, last in heard.items()
        }
        return {worker: now - since for worker, (_, since) in self._heard.items()}
