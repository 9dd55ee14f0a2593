"""What a cohort costs: voxels per dollar, from measured seconds and prices that you state.

    python costs.py prices.tsv --metrics mrsi.prom --voxels 2000000
    python costs.py prices.tsv --voxels-per-second 150 --voxels 2000000

``prices.tsv`` has a line a kind of machine: its name, workers (cores, or GPUs) that run on one,
dollars an hour, and the speed of a worker relative to the one that was measured. Nothing is looked
up: the shipped prices and speeds are examples, of no seller and no day.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_COLUMNS = ("machine", "workers", "dollars_per_hour", "speed")
_HOUR = 3600.0


@dataclass(frozen=True)
class Machine:
    """A kind of machine: ``speed`` is that of a worker relative to the measured one."""

    name: str
    workers: float
    dollars_per_hour: float
    speed: float

    def voxels_per_dollar(self, voxels_per_second: float) -> float:
        """Of workers that are never idle, ``voxels_per_second`` each where it was measured."""
        return self.workers * self.speed * voxels_per_second * _HOUR / self.dollars_per_hour


def read_machines(path: Path) -> list[Machine]:
    """Machines of a table of prices.

    Raises
    ------
    ValueError
        If a column is missing or a number is none above zero.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: column {missing[0]} is missing; expected {_COLUMNS}")
        machines = []
        for row in rows:
            numbers = [_positive(f"{path}: {row['machine']}: {n}", row[n]) for n in _COLUMNS[1:]]
            machines.append(Machine(row["machine"], *numbers))
    return machines


def measured(path: Path) -> float:
    """Voxels a second of one worker, by the file that ``mrsi cohort --metrics`` wrote.

    All seconds of workers count, those of imports and reports, too.

    Raises
    ------
    ValueError
        If no voxel was processed.
    """
    text = path.read_text(encoding="utf-8")
    voxels, seconds = (
        sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))
        for name in ("mrsi_voxels_total", "mrsi_step_seconds_total")
    )
    if not (voxels > 0 and seconds > 0):
        raise ValueError(f"{path}: no voxel was processed in this session")
    return voxels / seconds


def _positive(what: str, text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError as error:
        raise ValueError(f"{what} is {text!r}, expected a number") from error
    if not number > 0:
        raise ValueError(f"{what} is {text}, expected more than 0")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, a line a machine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prices", type=Path)
    parser.add_argument("--metrics", type=Path, help="file of mrsi cohort --metrics")
    parser.add_argument("--voxels-per-second", type=float, help="of one worker, instead")
    parser.add_argument("--voxels", type=float, default=1e6, help="voxels of the cohort")
    parser.add_argument("--idle", type=float, default=0.1, help="share of time that is paid idle")
    given = parser.parse_args(arguments)
    if (given.metrics is None) == (given.voxels_per_second is None):
        parser.error("give one of --metrics and --voxels-per-second")
    try:
        speed = given.voxels_per_second or measured(given.metrics)
        machines = read_machines(given.prices)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{speed:.3g} voxels/s a worker, {given.idle:.0%} of paid time idle")
    print("machine\tvoxels_per_dollar\tdollars\tmachine_hours")
    for machine in machines:
        per_dollar = machine.voxels_per_dollar(speed) * (1 - given.idle)
        dollars = given.voxels / per_dollar
        hours = dollars / machine.dollars_per_hour
        print(f"{machine.name}\t{per_dollar:.3g}\t{dollars:.2f}\t{hours:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
