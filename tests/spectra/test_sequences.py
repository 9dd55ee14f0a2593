"""Names of sequences."""

from __future__ import annotations

import pytest

from mrsi_engine.spectra.sequences import sequence_family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("PRESS", "press"),
        ("svs_se", "press"),
        ("*csi_se", "press"),
        ("PROBE-P", "press"),
        ("svs_st", "steam"),
        ("STEAM", "steam"),
        ("svs_slaser_dkd", "slaser"),
        ("semi-LASER", "slaser"),
        ("sLASER", "slaser"),
        ("eja_svs_laser", "laser"),
        ("special", "special"),
        ("fid", "fid"),
        ("csi_fid_7t", "fid"),
        ("csi_fidelity", None),
        ("svs_sequence", None),
        ("SE", None),
        ("", None),
        (None, None),
    ],
)
def test_families(name: str | None, family: str | None) -> None:
    assert sequence_family(name) == family
