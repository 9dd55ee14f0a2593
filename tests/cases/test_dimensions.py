"""Higher dimensions: what differs within one is never averaged over."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases.engine import Engine
from tests.cases.scan import Scan


def transients(scan: Scan, count: int = 16, phases: bool = False) -> np.ndarray:
    """One voxel's transients ``(1, 1, 1, time, count)``, drifting if asked."""
    draw = np.random.default_rng(0)
    fid = scan.data[6, 4, 2]
    made = []
    for seed in range(count):
        turn = draw.normal(0, 0.5) + 2 * np.pi * draw.normal(0, 4) * scan.time if phases else 0.0
        made.append(fid * np.exp(1j * turn) + scan.noise(len(fid), seed=seed))
    return np.stack(made, axis=-1)[None, None, None].astype("c8")


@pytest.mark.case("05", "conditions that differ within DIM_DYN", "refused by name")
@pytest.mark.parametrize(
    "header",
    [
        {"EditCondition": ["ON", "OFF"] * 8},
        {"EditPulse": ["A", "B"] * 8},
        {"EchoTime": [0.03, 0.3] * 8},
        {"InversionTime": list(np.linspace(0.1, 1.6, 16))},
        {"EchoTime": {"start": 0.03, "increment": 0.01}},
        {"RepetitionTime": {"Value": [1.0, 2.0] * 8, "Description": "two"}},
    ],
    ids=lambda header: f"{next(iter(header))}-{type(next(iter(header.values()))).__name__}",
)
def test_conditions(engine: Engine, scan: Scan, header: dict[str, object]) -> None:
    path = scan.save(
        engine.folder / "scan.nii.gz", transients(scan), dim_5="DIM_DYN", dim_5_header=header
    )
    outcome = engine.run(path, "--pipeline", "svs")
    engine.assert_refused(outcome, f"{next(iter(header))}")


@pytest.mark.case("05", "a dim_5_header that is the same throughout", "averaged as before")
def test_one_condition(engine: Engine, scan: Scan) -> None:
    header = {"EditCondition": ["OFF"] * 16}
    path = scan.save(
        engine.folder / "scan.nii.gz", transients(scan), dim_5="DIM_DYN", dim_5_header=header
    )
    outcome = engine.run(path, "--pipeline", "svs")
    truth = scan.truth("NAANAAG")[6, 4, 2]
    found = float(outcome.map("signal", "NAANAAG").item())
    engine.found(f"tNAA {found / truth:.3f} of the truth")
    assert abs(found / truth - 1) < 0.05


@pytest.mark.case("05", "dimensions that no stage handles", "refused by name")
@pytest.mark.parametrize("tag", ["DIM_EDIT", "DIM_ISIS", "DIM_METCYCLE", "DIM_MEAS", "DIM_USER_0"])
def test_other_dimensions(engine: Engine, scan: Scan, tag: str) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", transients(scan, 2), dim_5=tag)
    engine.assert_refused(engine.run(path, "--pipeline", "svs"), tag)


@pytest.mark.case("06", "transients written as DIM_COIL", "a word, or right")
def test_transients_as_coils(engine: Engine, scan: Scan) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", transients(scan, phases=True), dim_5="DIM_COIL")
    outcome = engine.run(path, "--pipeline", "svs")
    said = outcome.text + outcome.written
    engine.found(f"exit {outcome.code}, {'a word' if 'transients do' in said else 'no word'}")
    assert "transients do" in said
