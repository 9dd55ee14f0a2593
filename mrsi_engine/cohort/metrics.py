"""How far a cohort is, as Prometheus reads it: a text file that is written anew every few seconds.

Any agent that collects such files takes it up (the textfile collector of the node exporter, a web
server that serves the folder). Names and meanings are declared in :data:`METRICS` alone.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import singledispatchmethod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mrsi_engine.cohort.events import (
    CohortEvent,
    CohortStarted,
    ScanAdvanced,
    ScanFailed,
    ScanFinished,
    ScanStarted,
    Step,
)
from mrsi_engine.errors import InputError
from mrsi_engine.io.files import write_atomically

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

#: By name: what it is, its label if it has one, and its meaning. Counters end in ``_total`` when
#: written.
METRICS: Mapping[str, tuple[str, str | None, str]] = {
    "mrsi_scans": ("gauge", "state", "Scans by state: waiting, running, done, unusable, failed."),
    "mrsi_voxels": ("counter", None, "Voxels that were processed in this session."),
    "mrsi_blocks_failed": ("counter", None, "Blocks that failed in this session."),
    "mrsi_tries_failed": ("counter", "step", "Tries of scans that failed, by step."),
    "mrsi_step_seconds": ("counter", "step", "Seconds of workers by step."),
    "mrsi_kernel_seconds": ("counter", None, "Seconds of workers inside stages."),
    "mrsi_last_event_timestamp_seconds": ("gauge", None, "When anything last happened."),
}

STATES = ("waiting", "running", "done", "unusable", "failed")

#: Seconds between two writings.
_EVERY = 5.0


class Metrics:
    """A sink that counts, and writes its counts into a file; a context that does so at its end.

    Parameters
    ----------
    path
        The file, ``.prom`` for a textfile collector; its folder is made.
    every
        Least seconds between two writings.

    Raises
    ------
    InputError
        If prometheus-client is not installed.
    """

    def __init__(self, path: Path, *, every: float = _EVERY) -> None:
        try:
            import prometheus_client  # noqa: F401
        except ImportError as error:
            raise InputError(
                "--metrics needs the package prometheus-client, which is not installed: pip "
                "install 'mrsi-engine[monitoring]'"
            ) from error
        self._path, self._every = path, every
        self._written = -float("inf")
        self._running: set[str] = set()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._counts.update({("mrsi_scans", state): 0 for state in STATES})
        self._counts.update({("mrsi_step_seconds", str(step)): 0 for step in Step})
        self._counts.update({("mrsi_tries_failed", str(step)): 0 for step in Step})

    def __enter__(self) -> Self:
        self.write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.write()

    def __call__(self, event: CohortEvent) -> None:
        """Count an event."""
        self._on(event)
        self._counts["mrsi_last_event_timestamp_seconds", ""] = int(time.time())
        if time.monotonic() - self._written >= self._every:
            self.write()

    def write(self) -> None:
        """Write the file.

        Raises
        ------
        RunError
            If it cannot be written.
        """
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(self)
        write_atomically(self._path, generate_latest(registry))
        self._written = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        """As a collector of prometheus_client's."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kinds: dict[str, Any] = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for name, (kind, label, meaning) in METRICS.items():
            family = kinds[kind](name, meaning, labels=[label] if label else [])
            if label is None:
                family.add_metric([], self._counts[name, ""])
            for known, value in self._counts.items():
                if label is not None and known[0] == name:
                    family.add_metric([known[1]], value)
            yield family

    def _add(self, name: str, value: float, label: str = "") -> None:
        self._counts[name, label] += value  # type: ignore[assignment]

    def _move(self, scan: str, state: str) -> None:
        """A scan leaves the waiting or running ones."""
        self._add("mrsi_scans", -1, "running" if scan in self._running else "waiting")
        self._running.discard(scan)
        self._add("mrsi_scans", 1, state)
        if state == "running":
            self._running.add(scan)

    @singledispatchmethod
    def _on(self, event: CohortEvent) -> None:
        raise TypeError(f"not an event of a cohort: {event!r}")

    @_on.register
    def _(self, event: CohortStarted) -> None:
        self._add("mrsi_scans", event.pending, "waiting")
        self._add("mrsi_scans", event.finished, "done")

    @_on.register
    def _(self, event: ScanStarted) -> None:
        self._move(event.scan, "running")

    @_on.register
    def _(self, event: ScanAdvanced) -> None:
        self._add("mrsi_step_seconds", event.seconds, str(event.step))
        self._add("mrsi_kernel_seconds", event.kernel_seconds)
        if event.step is Step.PROCESS:
            self._add("mrsi_voxels", event.voxels)

    @_on.register
    def _(self, event: ScanFinished) -> None:
        self._move(event.scan, "done" if event.accepted else "unusable")

    @_on.register
    def _(self, event: ScanFailed) -> None:
        self._add("mrsi_tries_failed", 1, str(event.step))
        self._add("mrsi_blocks_failed", event.blocks)
        self._move(event.scan, "waiting" if event.again else "failed")
