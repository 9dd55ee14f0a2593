"""Where a run stands, and what is done once its last block is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Status
from mrsi_engine.engine.opening import stored_pipeline, tensors
from mrsi_engine.engine.plan import Plan
from mrsi_engine.io.result_store import ResultStore
from mrsi_engine.pipeline.stage import Stage


@dataclass(frozen=True)
class Summary:
    """Where a run stands: blocks still missing, and how many voxels got which status."""

    result: Path
    voxels: int
    blocks: int
    missing: tuple[int, ...]
    statuses: Mapping[Status, int]

    @property
    def finished(self) -> bool:
        """Whether every block is done."""
        return not self.missing


def finalise(plan: Plan, timing: Mapping[str, Any] | None = None) -> Summary:
    """Say where a run stands; once every block is done, clean up and mark it finished.

    Parameters
    ----------
    timing
        Figures of this session, appended to the store's ``timings``.
    """
    store = plan.store
    summary = Summary(
        result=store.path,
        voxels=store.voxels,
        blocks=store.blocks,
        missing=tuple(store.missing()),
        statuses=_status_counts(store),
    )
    if summary.finished and (timing or not store.attributes.get("finished")):
        _review(store)
        store.remove_leftovers()
        store.annotate(
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            status_counts={s.meaning: n for s, n in summary.statuses.items()},
            timings=[*store.attributes.get("timings", []), *([dict(timing)] if timing else [])],
        )
    return summary


def _review(store: ResultStore) -> None:
    """Let the stages flag what only the finished result can tell."""
    stages = stored_pipeline(store).stages
    if all(type(stage).review is Stage.review for stage in stages):
        return
    known: dict[str, NDArray[Any]] = {**store.estimates(), "status": store.statuses()}
    for stage in stages:
        flags = store.flags()
        added = stage.review(tensors({**known, "flags": flags}))
        if added is not None and added.any():
            store.write_flags(flags | added.numpy())


def _status_counts(store: ResultStore) -> dict[Status, int]:
    values, counts = np.unique_counts(store.statuses())
    return {Status(int(v)): int(n) for v, n in zip(values, counts, strict=True)}
