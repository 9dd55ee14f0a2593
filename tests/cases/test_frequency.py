"""A scan that is off by more than the stages' own search, as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases.engine import Engine
from tests.cases.scan import Scan


@pytest.mark.case("07", "the whole scan off in frequency", "right")
@pytest.mark.parametrize("hertz", [21.6, 40.0, -40.0, 64.0])
def test_shifted(engine: Engine, scan: Scan, hertz: float) -> None:
    turned = scan.data * np.exp(2j * np.pi * hertz * scan.time)
    path = scan.save(engine.folder / "scan.nii.gz", turned.astype("c8"))
    outcome = engine.run(path, "--mask", scan.mask)
    engine.assert_right(outcome, scan)
