"""Files made to hang a reader or to fill the memory: one clear line each, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases.scan import Scan
from tests.cli.helpers import PROGRESS
from tests.fuzz import hostile

REPOSITORY = Path(__file__).parents[2]
BASIS = "press-3t-te30"

#: What must be said of a case, by the end of its name.
SAID = {
    r"10\^12 .*|more than.*|NIfTI-1|bomb: plane|large.*": "more than a file of .* can hold",
    "negative.*": "has shape",
    "sparse": "one time point takes 8 GB",
    "bomb: offset|JSON: long": "vox_offset is",
    "bomb: (extension|negative)": "a header extension announces",
    "bomb.nii.gz": "next to nothing but zeros",
    "JSON: (20000 levels|number)|deep JSON": "not (valid )?JSON",
    "JSON: [19]00 levels": "deeper than 64 levels",
    "pipe": "is a named pipe",
    "socket": "is a socket",
    "device": "is a device",
    "loop": "Too many levels of symbolic links|no such basis",
    "folder": "is a folder|the folder holds no",
    "long name": "File name too long",
    "endless": "not a NIfTI file|expected at most",
    "MATLAB bomb": "unpacks to more than",
    "20000 levels": "not valid TOML",
}


def commands(tiny: Scan, folder: Path) -> dict[str, list[object]]:
    """What attacks what, as arguments of ``mrsi``."""
    scan = tiny.folder / "scan.nii.gz"

    def run(of: Path, basis: object = BASIS, pipeline: object = "minimal") -> list[object]:
        how = ["--basis", basis, "--pipeline", pipeline, "--workers", 0]
        return ["run", of, *how, "--out", folder / "out"]

    def made(kind: str, *makers: object) -> dict[str, Path]:
        below = folder / kind
        below.mkdir()
        found: dict[str, Path] = {}
        for maker in makers:
            found |= maker(below)  # type: ignore[operator]
        return {f"{kind}: {name}": path for name, path in found.items()}

    def no(suffix: str) -> object:
        return lambda below: hostile.no_files(below, suffix)

    found = {name: run(path) for name, path in made("scan", hostile.scans, no(".nii.gz")).items()}
    # A run would refuse these few points before it reads them.
    behind = "scan: bomb: behind the samples"
    found[behind] = ["import", found[behind][1], "--out", folder / "behind.zarr"]
    for kind, more in (("mask", ()), ("tissue", ("--tissue-classes", "gm", "wm"))):
        for name, path in made(kind, hostile.volumes, no(".nii.gz")).items():
            found[name] = [*run(scan), f"--{kind}", path, *more]
    for name, path in made("water", hostile.scans, no(".nii")).items():
        found[name] = [*run(scan), "--water", path]
    for name, path in made("basis", hostile.bases, no(".basis")).items():
        found[name] = run(scan, basis=path)
    for name, path in made("pipeline", no(".toml")).items():
        if not name.endswith("endless"):
            found[name] = run(scan, pipeline=path)
    deep = folder / "deep.toml"
    deep.write_text("a = " + "[" * 20_000 + "]" * 20_000)
    found["pipeline: 20000 levels"] = run(scan, pipeline=deep)
    found["out: long name"] = [*run(scan)[:-1], folder / ("o" * 300)]
    return found


@pytest.fixture(scope="module")
def results(
    tiny: Scan, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[int, str, float]]:
    """Exit code, text and seconds of every command, all in one process with little memory."""
    asked = commands(tiny, tmp_path_factory.mktemp("hostile"))
    warm = ["run", tiny.folder / "scan.nii.gz", "--basis", "none", "--out", "/none"]
    given = [[str(a) for a in command] for command in (warm, *asked.values())]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.starved"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, map(tuple, json.loads(done.stdout)[1:]), strict=True))


def said(text: str) -> list[str]:
    """Its lines but those of progress bars."""
    return [line for line in text.splitlines() if not PROGRESS.fullmatch(line)]


def test_each_is_refused_in_one_line(results: dict[str, tuple[int, str, float]]) -> None:
    wrong = {
        name: (code, text)
        for name, (code, text, _) in results.items()
        if not (code == 2 and [line[:7] for line in said(text)] == ["error: "])
    }
    assert not wrong
    assert len(results) > 70


def test_each_says_why(results: dict[str, tuple[int, str, float]]) -> None:
    expected = {"scan: bomb: behind the samples": "bytes follow the samples"}
    for name in results:
        kind, _, attack = name.partition(": ")
        about = [why for form, why in SAID.items() if re.fullmatch(form, attack)]
        if kind != "pipeline" or attack in ("long name", "20000 levels"):
            expected.setdefault(name, *about[:1])
    expected.pop("water: bomb: behind the samples", None)
    silent = {n: results[n][1] for n, why in expected.items() if not re.search(why, results[n][1])}
    assert not silent
