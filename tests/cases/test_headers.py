"""Oddities of headers: read as what they are, or refused with the field."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest

from tests.cases.engine import Engine
from tests.cases.scan import Scan


def corner(scan: Scan) -> np.ndarray:
    return scan.data[4:6, 4:6, 1:2]


@pytest.mark.case("14", "odd headers that can be read", "imported")
@pytest.mark.parametrize(
    "fields",
    [
        {"SpectrometerFrequency": 127.7},
        {"SpectrometerFrequency": [127.7, 51.7], "ResonantNucleus": ["1H", "31P"]},
        {"unit": "msec", "dwell_time": 0.4},
        {"unit": "usec", "dwell_time": 400.0},
        {"unit": "unknown"},
        {"without": ["EchoTime"]},
        {"EchoTime": 0.0},
        {"EchoTime": 0.0015, "RepetitionTime": 0.45},
    ],
    ids=str,
)
def test_read(engine: Engine, scan: Scan, fields: dict[str, Any]) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan), **fields)
    outcome = engine("import", path, "--out", engine.folder / "s")
    assert outcome.code == 0, outcome.text


@pytest.mark.case("14", "odd headers that make no sense", "refused with the field")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"SpectrometerFrequency": [127732435.5]}, "SpectrometerFrequency.*MHz"),
        ({"SpectrometerFrequency": [0.1277]}, "SpectrometerFrequency.*MHz"),
        ({"unit": "sec", "dwell_time": 0.4}, "dwell time"),
        ({"unit": "sec", "dwell_time": 4e-7}, "dwell time"),
        ({"unit": "hz"}, "xyzt_units"),
        ({"SpectralWidth": 2000.0}, "SpectralWidth"),
        ({"EchoTime": "0.03"}, "EchoTime"),
        ({"EchoTime": "30 ms"}, "EchoTime"),
        ({"EchoTime": 30}, "EchoTime"),
        ({"EchoTime": float("nan")}, "EchoTime"),
        ({"EchoTime": 0.6}, "EchoTime"),
        ({"EchoTime": 3.0}, "EchoTime"),
        ({"RepetitionTime": 2000}, "RepetitionTime"),
        ({"RepetitionTime": 0.02}, "RepetitionTime"),
        ({"ResonantNucleus": ["proton"]}, "ResonantNucleus"),
    ],
    ids=str,
)
def test_refused(engine: Engine, scan: Scan, fields: dict[str, Any], message: str) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan), **fields)
    engine.assert_refused(engine("import", path, "--out", engine.folder / "s"), message)


@pytest.mark.case("14", "a header in Latin-1", "imported, or refused as no JSON")
def test_latin1(engine: Engine, scan: Scan) -> None:
    text = json.dumps({**scan.fields, "Manufacturer": "M\xfcller"}, ensure_ascii=False)
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan), raw=text.encode("latin-1"))
    assert engine("import", path, "--out", engine.folder / "s").code in (0, 2)


@pytest.mark.case("14", "names and serial numbers in the header", "in no store, sidecar or report")
def test_personal_data(engine: Engine, scan: Scan) -> None:
    secrets = {
        "PatientName": "Mustermann",
        "PatientID": "4711-0815",
        "PatientDoB": "19700101",
        "DeviceSerialNumber": "SN-998877",
    }
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan), **secrets)
    outcome = engine.run(path)
    written = [file for file in outcome.folder.rglob("*") if file.is_file()]
    assert outcome.code == 0
    assert len(written) > 10
    for secret in secrets.values():
        assert not [file for file in written if secret.encode() in file.read_bytes()]


@pytest.mark.case("14", "a header that announces 1 TB", "refused before anything is written")
def test_announced_size(engine: Engine, scan: Scan) -> None:
    path = scan.save(engine.folder / "scan.nii.gz", corner(scan))
    content = bytearray(gzip.decompress(path.read_bytes()))
    # NIfTI-2: dim is eight int64 at byte 16.
    dim = np.frombuffer(content, "<i8", 8, 16).copy()
    dim[1:4] = (600, 600, 400)
    content[16:80] = dim.tobytes()
    path.write_bytes(gzip.compress(bytes(content)))
    outcome = engine("import", path, "--out", engine.folder / "s.zarr")
    engine.assert_refused(outcome, "announces|GB|TB|GiB|TiB|space|memory")
    assert not (engine.folder / "s.zarr").exists()
