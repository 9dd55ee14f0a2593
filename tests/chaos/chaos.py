"""Storms over a cohort of 30 scans: what ``make chaos`` runs.

A calm run comes first; after each storm all maps must be the same bit for bit, nothing may be lost
or be done twice, and the ledger must agree with the disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.checks import wrong_after
from tests.chaos.made_cohort import MadeCohort, fingerprints, make_cohort
from tests.chaos.storm import Storm
from tests.chaos.watched import watch
from tests.chaos.weather import LOCAL, SLURM, SchedulerApart, cancel_job, small_disk
from tests.slurm.box import slurm, what_is_missing

MRSI = str(Path(sys.executable).with_name("mrsi"))

#: Scans of a storm that are cut into blocks (voxels of the volume), beside small ones.
_LARGE = (28, 28, 9)

#: Strikes of each storm, of a whole ``make chaos``: 100 SIGKILLs, 5 frozen workers, 5 full disks.
STRIKES = {
    "local": {"worker": 46, "driver": 12, "pool": 2, "frozen": 5},
    "scheduler": {"scheduler": 8, "apart": 12},
    "slurm": {"job": 16, "driver": 4},
    "disk": {"disk": 5},
}


@dataclass(frozen=True)
class Ground:
    """What storms pass over: a cohort, and the maps of a run in which nothing went wrong."""

    folder: Path
    cohort: MadeCohort
    calm: dict[str, dict[str, bytes]]

    def command(self, out: Path, *where: str) -> list[str]:
        """The driver."""
        return [MRSI, "cohort", str(self.cohort.table), "--out", str(out), *where]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scans", type=int, default=30)
    parser.add_argument("--large", type=int, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="of the strikes")
    parser.add_argument("--storms", nargs="+", default=list(STRIKES), choices=list(STRIKES))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ground = calm_ground(Path(scratch), given.scans, given.large)
        failed = [
            kind
            for kind in given.storms
            if not passes(ground, kind, scaled(STRIKES[kind], given.share), given.seed)
        ]
    sys.exit(f"seed {given.seed}: {failed} went wrong" if failed else 0)


def scaled(strikes: dict[str, int], share: float) -> Counter[str]:
    """A share of the strikes, at least one of each kind."""
    return Counter({kind: max(1, round(share * n)) for kind, n in strikes.items()})


def calm_ground(folder: Path, scans: int, large: int) -> Ground:
    """Make the cohort and run it in peace."""
    cohort = make_cohort(folder, scans, without_mask=2, large=large, large_shape=_LARGE)
    ground = Ground(folder, cohort, {})
    run = watch(ground.command(folder / "calm", "--workers", "2"))
    if run.code != 0:
        sys.exit(f"the calm run ended with {run.code}:\n{run.output}")
    print(f"calm: {scans} scans in {run.seconds:.0f} s, {run.cpu_seconds:.0f} CPU s")
    return Ground(folder, cohort, fingerprints(folder / "calm", cohort.good))


def passes(ground: Ground, kind: str, strikes: Counter[str], seed: int) -> bool:
    """Whether all is well after a storm; says how it went."""
    if kind == "slurm" and (why := what_is_missing()) is not None:
        print(f"slurm: left out: {why}")
        return True
    started, out = time.monotonic(), ground.folder / kind / "out"
    with ExitStack() as stack:
        storm = _gathered(stack, ground, kind, strikes, seed, out)
        storm.blow(most_sessions=3 * strikes.total() + 3)
        wrong = wrong_after(out, ground.cohort, ground.calm)
    struck = ", ".join(f"{n} x {k}" for k, n in Counter(storm.strikes.done).items())
    took = f"{len(storm.sessions)} sessions, {time.monotonic() - started:.0f} s"
    print(f"{kind}: {struck} in {took}: {'; '.join(wrong[:10]) or 'nothing lost, nothing twice'}")
    return not wrong and storm.strikes.over


def _gathered(
    stack: ExitStack, ground: Ground, kind: str, strikes: Counter[str], seed: int, out: Path
) -> Storm:
    if kind == "disk":
        fill, make_room = stack.enter_context(small_disk(out.parent))
        command = ground.command(out, "--workers", "2")
        return Storm(command, out, strikes, seed, {"disk": fill}, before=make_room)
    out.parent.mkdir()
    if kind == "scheduler":
        apart = SchedulerApart()
        stack.callback(apart.take_down)
        others = {"scheduler": apart.kill_scheduler, "apart": apart.kill_worker}
        command = ground.command(out, "--scheduler", apart.address)
        return Storm(command, out, strikes, seed, others, before=apart.put_up)
    if kind == "slurm":
        (out.parent / "box").mkdir()
        environment = stack.enter_context(slurm(out.parent / "box"))
        profile = _written(out.parent / "slurm.toml", SLURM.format(logs=out.parent))
        others = {"job": cancel_job(environment)}
        command = ground.command(out, "--cluster", profile)
        return Storm(command, out, strikes, seed, others, environment=environment)
    profile = _written(out.parent / "local.toml", LOCAL)
    return Storm(ground.command(out, "--cluster", profile), out, strikes, seed)


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


if __name__ == "__main__":
    main()
