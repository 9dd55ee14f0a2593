"""Water references that do not fit the scan."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine import pipelines
from tests.cases.engine import Engine
from tests.cases.scan import Scan, read

SCALE = """
[[stages]]
stage = "scale"
quantity = "molar"
tissue = {gm = 0.6, wm = 0.4}
"""


def scaled_pipeline(folder: Path) -> Path:
    text = (resources.files(pipelines) / "brain-1h-3t.toml").read_text()
    path = folder / "scaled.toml"
    path.write_text(text + SCALE)
    return path


@pytest.mark.case(
    "15", "water of half the points, or with x flipped", "the same numbers, or refused"
)
def test_other_length_and_order(engine: Engine, scan: Scan) -> None:
    water, fields, _ = read(scan.folder / "water.nii.gz")
    given = {**fields, "RepetitionTime": 2.0}
    turned = np.eye(4)
    turned[0, 0], turned[0, 3] = -1, water.shape[0] - 1
    scan.save(engine.folder / "same.nii.gz", water, **given)
    scan.save(engine.folder / "short.nii.gz", np.ascontiguousarray(water[..., :512]), **given)
    flipped = np.ascontiguousarray(water[::-1])
    scan.save(engine.folder / "flipped.nii.gz", flipped, affine=scan.affine @ turned, **given)
    path = scan.save(engine.folder / "scan.nii.gz", RepetitionTime=2.0)
    found = {}
    for name in ("same", "short", "flipped"):
        outcome = engine.run(
            *(path, "--water", engine.folder / f"{name}.nii.gz", "--mask", scan.mask),
            *("--pipeline", scaled_pipeline(engine.folder)),
            out=name,
        )
        if name == "short" and outcome.code == 2:
            engine.assert_refused(outcome, "points 512.*1024.*--points 512")
            continue
        assert outcome.code == 0, outcome.text
        found[name] = outcome.map("conc", "NAANAAG")[scan.brain]
    np.testing.assert_allclose(found["flipped"], found["same"], rtol=1e-6)
    np.testing.assert_allclose(found.get("short", found["same"]), found["same"], rtol=0.02)


@pytest.mark.case("15", "water off resonance, absent or saturated", "metabolites right")
@pytest.mark.parametrize("kind", ["alternating", "off by 205 Hz", "saturated", "none"])
def test_water_that_ruins(engine: Engine, scan: Scan, kind: str) -> None:
    water, fields, _ = read(scan.folder / "water.nii.gz")
    if kind == "alternating":
        water = water * (-1.0) ** np.arange(water.shape[3])
    elif kind == "off by 205 Hz":
        water = water * np.exp(2j * np.pi * 205 * scan.time)
    elif kind == "none":
        water = scan.noise(*water.shape)
    else:
        height = 0.2 * np.abs(water).max()
        water = np.clip(water.real, -height, height) + 1j * np.clip(water.imag, -height, height)
    path = scan.save(engine.folder / "water.nii.gz", water.astype("c8"), **fields)
    outcome = engine.run(scan.folder / "scan.nii.gz", "--water", path, "--mask", scan.mask)
    engine.assert_right(outcome, scan, within=0.08)
