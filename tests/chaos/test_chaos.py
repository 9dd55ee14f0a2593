"""A short storm over a small cohort; ``make chaos`` blows a long one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.chaos.chaos import calm_ground, passes


def test_a_cohort_whose_workers_and_driver_are_killed(tmp_path: Path) -> None:
    ground = calm_ground(tmp_path, scans=4, large=1)
    assert passes(ground, "local", Counter(worker=3, driver=1), seed=2)
