"""What a batch system says of our jobs: which are still in its queue, and in what state."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

#: A batch system that takes longer to answer is busy; it is asked again later (s).
_PATIENCE = 20.0


class Queue:
    """Jobs of SLURM, by ``squeue``."""

    def left(self, jobs: Collection[str]) -> frozenset[str] | None:
        """Those of some jobs that wait or run; ``None`` if the batch system does not say."""
        found = self._states(jobs)
        return None if found is None else frozenset(found)

    def summary(self, jobs: Iterable[str]) -> str:
        """Jobs by state, with the reason why they wait: ``1 running, 2 pending (Priority)``."""
        found = self._states(tuple(jobs))
        if found is None:
            return "squeue does not answer"
        counted = Counter(found.values())
        return ", ".join(f"{n} {state}" for state, n in counted.most_common()) or "no jobs"

    def _states(self, jobs: Collection[str]) -> dict[str, str] | None:
        if not jobs:
            return {}
        # Not by -j: an unknown number among them, which SLURM soon forgets, is an error.
        command = ["squeue", "--me", "--noheader", "--format=%i|%T|%r"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if said.returncode:
            return None
        lines = (line.split("|", 2) for line in said.stdout.splitlines() if line.count("|") >= 2)
        return {
            job: _worded(state, reason)
            for job, state, reason in lines
            if job in jobs and state != "COMPLETING"
        }


def queue_of(cluster: Any) -> Queue | None:
    """The queue of a cluster of jobs, where it is one that can be asked."""
    return Queue() if type(cluster).__name__ == "SLURMCluster" else None


def _worded(state: str, reason: str) -> str:
    plain = state.lower()
    return plain if reason in ("None", "") else f"{plain} ({reason})"
