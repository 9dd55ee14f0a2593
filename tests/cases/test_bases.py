"""Bases as people have them: read right, or refused with the field and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.phantom import PhantomSettings
from tests.cases.bases import VESPA, phantom_basis, write_json, write_lcmodel
from tests.cases.engine import Engine
from tests.cases.scan import Scan


@pytest.fixture(scope="module")
def basis() -> Basis:
    return phantom_basis()


@pytest.mark.case("09", "LCModel basis, lower case, no spaces", "read")
def test_lower_case(engine: Engine, scan: Scan, basis: Basis) -> None:
    path = write_lcmodel(engine.folder / "b.basis", basis, lower=True)
    outcome = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, basis=path)
    engine.assert_right(outcome, scan)


@pytest.mark.case("09", "LCModel basis with a negative BADELT", "read, or refused with the remedy")
def test_negative_dwell_time(engine: Engine, scan: Scan, basis: Basis) -> None:
    path = write_lcmodel(engine.folder / "b.basis", basis, badelt="-3.99999990e-04", lower=True)
    outcome = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, basis=path)
    engine.assert_refused(outcome, "BADELT.*scrambled.*minus sign")


@pytest.mark.case("10", "a metabolite once or several times twice in a basis", "told apart, noted")
@pytest.mark.parametrize("twice", [("Gly",), ("Gly", "Gly", "Ala")])
def test_a_name_twice(engine: Engine, scan: Scan, basis: Basis, twice: tuple[str, ...]) -> None:
    path = write_lcmodel(engine.folder / "b.basis", basis, twice=twice)
    outcome = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, basis=path)
    engine.assert_right(outcome, scan)
    assert outcome.has("signal", "Gly1")
    assert "Gly stands more than once" in outcome.written


@pytest.mark.case("11", "long names of Vespa", "names known, sums there")
def test_vespas_names(engine: Engine, scan: Scan, basis: Basis) -> None:
    path = write_json(engine.folder / "b", basis, names=VESPA)
    outcome = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, basis=path)
    engine.assert_right(outcome, scan)
    assert np.isfinite(outcome.map("fwhm")[scan.brain]).all()


@pytest.mark.case("12", "a mirrored basis, in our or Vespa's names", "refused: --basis-conjugate")
@pytest.mark.parametrize("names", [{}, VESPA], ids=["ours", "Vespa's"])
def test_mirrored(engine: Engine, scan: Scan, basis: Basis, names: dict[str, str]) -> None:
    path = write_json(engine.folder / "b", basis.conjugated(), names=names)
    outcome = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, basis=path)
    engine.assert_refused(outcome, "--basis-conjugate")
    taken = engine.run(
        *(scan.folder / "scan.nii.gz", "--mask", scan.mask, "--basis-conjugate"),
        out="second",
        basis=path,
    )
    engine.assert_right(taken, scan)


@pytest.mark.case("12", "the remedy for a mirrored basis", "--basis-conjugate is named first")
def test_the_first_remedy(engine: Engine, scan: Scan, basis: Basis) -> None:
    path = write_json(engine.folder / "b", basis.conjugated())
    message = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, basis=path).error
    assert "--basis-conjugate" in message
    assert "--basis-reference" not in message.partition("--basis-conjugate")[0]


@pytest.mark.case("13", "fields of a basis in other units", "refused with field and unit")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"basis_centre": 127732435.554}, "basis_centre.*MHz.*127.7324"),
        ({"basis_centre": 0.127732435554}, "basis_centre.*MHz.*127.7324"),
        ({"basis_dwell": 0.4}, r"basis_dwell.*ms.*0\.0004"),
        ({"basis_dwell": 400}, r"basis_dwell.*us.*0\.0004"),
        ({"basis_centre": float("nan")}, "basis_centre"),
        ({"basis_centre": None}, "basis_centre"),
        ({"basis_centre": [127.7]}, "basis_centre"),
        ({"basis_re": "1 2 3"}, "basis_re"),
        ({"basis_nucleus": "31P"}, "does not state its reference"),
    ],
    ids=str,
)
def test_units(
    engine: Engine, scan: Scan, basis: Basis, fields: dict[str, Any], message: str
) -> None:
    path = write_json(engine.folder / "b", basis, **fields)
    outcome = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, basis=path)
    engine.assert_refused(outcome, message)


@pytest.mark.case("13", "LCModel's fields in other units", "refused with field and unit")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frequency": "127732435.554"}, r"HZPPPM.*Hz: write 127\.7324"),
        ({"frequency": "0.127732"}, r"HZPPPM.*GHz: write 127\.732"),
        ({"badelt": "0.4"}, r"BADELT.*ms: write 0\.0004"),
        ({"echo_time": "0.03"}, "ECHOT.*s: write 30"),
    ],
    ids=str,
)
def test_units_of_lcmodel(
    engine: Engine, scan: Scan, basis: Basis, fields: dict[str, Any], message: str
) -> None:
    path = write_lcmodel(engine.folder / "b.basis", basis, **fields)
    outcome = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, basis=path)
    engine.assert_refused(outcome, message)


@pytest.fixture(scope="module")
def at_144(tmp_path_factory: pytest.TempPathFactory, basis_cache: Path) -> Scan:
    """A phantom of TE 144 ms."""
    folder = tmp_path_factory.mktemp("te144")
    settings = PhantomSettings(shape=(8, 8, 1), seed=1, snr=40.0)
    simulate_scan(folder, settings, BasisChoice("press-3t-te144"))
    return Scan.of(folder)


@pytest.mark.case("22", "scan TE 144 ms, named basis TE 30 ms", "refused with both numbers")
def test_named_basis_of_another_echo_time(engine: Engine, at_144: Scan) -> None:
    given = (at_144.folder / "scan.nii.gz", "--mask", at_144.mask)
    outcome = engine.run(*given)
    engine.assert_refused(outcome, "30 ms.*144 ms.*press-3t-te144.*--basis-te-mismatch allow")
    right = engine.run(*given, basis="press-3t-te144")
    engine.assert_right(right, at_144, labels=("NAANAAG", "CrPCr", "GPCPCh"), z=None)


@pytest.mark.case("22", "the same, accepted", "runs, and is written down")
def test_accepted(engine: Engine, at_144: Scan) -> None:
    outcome = engine.run(
        *(at_144.folder / "scan.nii.gz", "--mask", at_144.mask),
        *("--basis-te-mismatch", "allow"),
    )
    assert outcome.code in (0, 3), outcome.text
    assert "30 ms, the scan has 144 ms; accepted" in outcome.written


@pytest.mark.case("22", "scan TE 30 ms, files of TE 35 or 144 ms", "refused with both numbers")
@pytest.mark.parametrize("milliseconds", [35, 144])
@pytest.mark.parametrize("kind", ["lcmodel", "json"])
def test_file_of_another_echo_time(
    engine: Engine, scan: Scan, basis: Basis, kind: str, milliseconds: int
) -> None:
    if kind == "lcmodel":
        path = write_lcmodel(engine.folder / "b.basis", basis, echo_time=f"{milliseconds}.")
    else:
        meta = {"echo_time": milliseconds * 1e-3}
        path = write_json(engine.folder / "b", basis, meta=meta)
    outcome = engine.run(scan.folder / "scan.nii.gz", "--mask", scan.mask, basis=path)
    engine.assert_refused(outcome, f"{milliseconds} ms, the scan has 30 ms")


@pytest.mark.case("22", "TE unknown to the basis, or to the scan", "runs, and is written down")
@pytest.mark.parametrize("stated", ["-1.", "0.", "30."])
def test_unknown_echo_time(engine: Engine, scan: Scan, basis: Basis, stated: str) -> None:
    path = write_lcmodel(engine.folder / "b.basis", basis, echo_time=stated)
    without = ["EchoTime"] if stated == "30." else []
    file = scan.save(engine.folder / "scan.nii.gz", without=without)
    outcome = engine.run(file, "--mask", scan.mask, basis=path)
    engine.assert_right(outcome, scan)
    if stated != "30.":
        assert "does not state its echo time" in outcome.written


@pytest.mark.case("22", "scan's SequenceName of another family", "refused with both names")
def test_another_sequence(engine: Engine, scan: Scan) -> None:
    file = scan.save(engine.folder / "scan.nii.gz", SequenceName="svs_slaser_dkd")
    outcome = engine.run(file, "--mask", scan.mask)
    engine.assert_refused(outcome, "for press, the scan's sequence is 'svs_slaser_dkd'")
