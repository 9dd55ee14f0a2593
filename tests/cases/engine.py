"""The command line in this process, and what a run came to, against the phantom's truth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from mrsi_engine import cli
from mrsi_engine.conventions import Flag
from tests.cases.scan import Scan

BASIS = "press-3t-te30"
SUMS = ("NAANAAG", "CrPCr", "GPCPCh", "Ins", "GluGln")
SINGLETS = ("NAANAAG", "CrPCr", "GPCPCh")


@dataclass(frozen=True)
class Outcome:
    """Exit code, both streams, and the output folder with its maps."""

    code: int
    text: str
    folder: Path

    @property
    def error(self) -> str:
        """The message of a command that failed."""
        _, mark, message = self.text.partition("error: ")
        return message if mark else ""

    def map(self, quantity: str, label: str | None = None) -> NDArray[np.float64]:
        """A map ``(x, y, z)``."""
        named = "" if label is None else f"_met-{label}"
        [path] = (self.folder / "maps").glob(f"*{named}_desc-{quantity}_mrsi.nii.gz")
        return np.asarray(nib.load(path).dataobj, float)

    def has(self, quantity: str, label: str) -> bool:
        """Whether there is such a map."""
        return any((self.folder / "maps").glob(f"*_met-{label}_desc-{quantity}_mrsi.nii.gz"))

    @property
    def written(self) -> str:
        """All that stands in JSON beside the maps."""
        files = sorted((self.folder / "maps").glob("*.json"))
        return "".join(file.read_text(encoding="utf-8") for file in files)

    def flags(self, where: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The flags of voxels; a bit of no meaning where the map holds none."""
        return np.nan_to_num(self.map("flags")[where], nan=1 << 30).astype(int)

    def ratio(self, label: str, truth: NDArray[np.float64], where: NDArray[np.bool_]) -> float:
        """Median of estimate over truth."""
        return float(np.nanmedian(self.map("signal", label)[where] / truth[where]))


class Engine:
    """Calls ``main``; nothing may end in a traceback or be called a defect."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], folder: Path, record_property: Any
    ) -> None:
        self._capsys = capsys
        self._record = record_property
        self.folder = folder

    def __call__(self, *arguments: object, out: Path | None = None) -> Outcome:
        self._capsys.readouterr()
        code = 0
        try:
            cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = self._capsys.readouterr()
        text = captured.out + captured.err
        outcome = Outcome(code, text, out or self.folder)
        message = outcome.error.replace(f"{self.folder}/", "").strip()
        self.found(f"exit {code}" + (f": {message[:110]}" if message else ""))
        assert "Traceback" not in text
        assert "defect of mrsi" not in text, text
        return outcome

    def run(self, scan: Path, *options: object, out: str = "out", basis: object = BASIS) -> Outcome:
        """``mrsi run`` of a file."""
        folder = self.folder / out
        given = () if basis is None else ("--basis", basis)
        return self("run", scan, *given, "--workers", 0, *options, "--out", folder, out=folder)

    def found(self, what: str) -> None:
        """What the table says."""
        self._record("found", " ".join(what.split()).replace("|", "/"))

    # ------------------------------------------------------------------ what is right

    def assert_refused(self, outcome: Outcome, pattern: str, code: int = 2) -> None:
        assert outcome.code == code, outcome.text
        assert re.search(pattern, outcome.error, re.DOTALL), outcome.error

    def assert_right(
        self,
        outcome: Outcome,
        scan: Scan,
        *,
        labels: Sequence[str] = SUMS,
        within: float = 0.05,
        z: tuple[float, float] | None = (0.85, 1.15),
        usable: float = 0.9,
    ) -> None:
        """Amplitudes as simulated; error bars true; voxels without a flag.

        The SD of z is that of some 500 values that are partly correlated: its own SD is 4 %, so
        that true error bars are within 0.85 to 1.15 almost always, and those of data zero-filled
        twice (1.4) never.
        """
        assert outcome.code == 0, outcome.text
        where = scan.brain
        ratios = {label: outcome.ratio(label, scan.truth(label), where) for label in labels}
        flagged = outcome.flags(where)
        good = float(np.mean((flagged & ~Flag.OUTLIER) == 0))
        spread = float(np.std(self._z(outcome, scan, labels)))
        worst = max(ratios.values(), key=lambda r: abs(r - 1))
        self.found(f"worst ratio to truth {worst:.3f}, SD of z {spread:.2f}, {good:.0%} usable")
        assert all(abs(r - 1) < within for r in ratios.values()), ratios
        assert good >= usable, np.unique(flagged, return_counts=True)
        if z is not None:
            assert z[0] < spread < z[1]

    def assert_no_bound(self, outcome: Outcome, scan: Scan) -> None:
        """No SD rather than a wrong one, and the flag that says so."""
        where = scan.brain
        flagged = outcome.flags(where)
        share = float(np.mean((flagged & Flag.UNKNOWN_NOISE) != 0))
        self.found(f"exit {outcome.code}, {share:.0%} flagged unknown noise")
        assert share > 0.95
        assert not np.isfinite(outcome.map("sd", "NAANAAG")[where]).any()

    def _z(self, outcome: Outcome, scan: Scan, labels: Sequence[str]) -> NDArray[np.float64]:
        where = scan.brain
        parts = []
        for label in labels:
            error = outcome.map("signal", label)[where] - scan.truth(label)[where]
            parts.append(error / outcome.map("sd", label)[where])
        values = np.concatenate(parts)
        return values[np.isfinite(values)]
