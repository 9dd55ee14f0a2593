"""What a session did of a scan."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mrsi_engine.engine.blocks import Receipt


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Tally:
    """Sums over the receipts of blocks and of parts of passes; ``seconds`` is wall time since."""

    receipts: int = 0
    voxels: int = 0
    kernel_seconds: float = 0.0
    prepare_seconds: float = 0.0
    devices: Counter[str] = field(default_factory=Counter)
    _began: float = field(default_factory=time.perf_counter)
    _date: str = field(default_factory=_now)

    @property
    def seconds(self) -> float:
        """Wall time since it began, s."""
        return time.perf_counter() - self._began

    def add_part(self, receipt: Receipt) -> None:
        """Count a part of a pass."""
        self.kernel_seconds += receipt.kernel_seconds

    def add_block(self, receipt: Receipt) -> None:
        """Count a block."""
        self.receipts += 1
        self.devices[receipt.device] += 1
        self.voxels += receipt.voxels
        self.kernel_seconds += receipt.kernel_seconds

    def timing(self, workers: int) -> dict[str, object]:
        """As a result store keeps it."""
        return {
            "started": self._date,
            "seconds": round(self.seconds, 3),
            "kernel_seconds": round(self.kernel_seconds, 3),
            "prepare_seconds": round(self.prepare_seconds, 3),
            "blocks": self.receipts,
            "voxels": self.voxels,
            "workers": workers,
            "devices": dict(self.devices),
        }
