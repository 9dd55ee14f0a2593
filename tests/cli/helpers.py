"""What the tests of the command line share: calling it, and files with something changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine import cli
from mrsi_engine.runs import finishing

BASIS = "press-3t-te30"

#: What progress bars leave on a standard error that is no terminal.
PROGRESS = re.compile(
    r"(import|prepare|fit|dashboard:|damaged,|group level:|\d+ of \d+ scans|goes on)\s.*|\s*"
)


class Mrsi:
    """Calls ``main`` in this process and checks what every call owes to a user."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.printed = ""

    def __call__(self, *arguments: object) -> str:
        """Standard output of a command that succeeds."""
        self._capsys.readouterr()
        cli.main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        assert not [line for line in captured.err.splitlines() if not PROGRESS.fullmatch(line)]
        return captured.out

    def refused(self, *arguments: object, code: int = 2) -> str:
        """The one message of a command that fails with ``code``."""
        error = self.error(*arguments, code=code)
        lines = [line for line in error.splitlines() if not PROGRESS.fullmatch(line)]
        assert lines[0].startswith("error: ")
        assert not [line for line in lines[1:] if line.startswith("error: ")]
        assert "Traceback" not in error
        assert "defect" not in error
        return "\n".join(lines)

    def error(self, *arguments: object, code: int) -> str:
        """Standard error of a command that ends with ``code``; ``printed`` is what else it said."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        self.printed, error = self._capsys.readouterr()
        assert ended.value.code == code, error
        return error


def write_quick_report(folder: Path, **content: object) -> Path:
    (folder / "report.html").write_text("quick")
    return folder / "report.html"


def run_quickly(command: Sequence[object]) -> None:
    """A command that succeeds, with a quick report; for fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finishing, "report_on", write_quick_report)
        cli.main([str(part) for part in command])


def of_phantom(phantom: Path, *, mask: bool = True) -> list[object]:
    """``mrsi run`` of the phantom, still without ``--out``."""
    named = ["--mask", phantom / "mask.nii.gz"] if mask else []
    return ["run", phantom / "scan.nii.gz", *named, "--basis", BASIS, "--workers", 0]


def resaved(
    source: Path,
    target: Path,
    *,
    data: Callable[[np.ndarray], np.ndarray] = lambda data: data,
    affine: np.ndarray | None = None,
    extension: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Path:
    """A NIfTI file with something changed, written by nibabel alone."""
    image = nib.load(source)
    values = data(np.asarray(image.dataobj).copy())
    changed = type(image)(values, image.affine if affine is None else affine, image.header)
    changed.set_data_dtype(values.dtype)
    if extension is not None:
        fields = extension(json.loads(image.header.extensions[0].get_content()))
        coded = nib.nifti1.Nifti1Extension(44, json.dumps(fields).encode())
        changed.header.extensions[:] = [coded] if fields else []
    nib.save(changed, target)
    return target


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda fields: {name: value for name, value in fields.items() if name != key}


def shifted(path: Path, mm: float) -> np.ndarray:
    affine = np.array(nib.load(path).affine)
    affine[0, 3] += mm
    return affine


def blocks_of(log: Path) -> list[int]:
    """Blocks that a run did, by its log."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [e["receipt"]["block"] for e in events if e["event"] == "BlockDone"]
