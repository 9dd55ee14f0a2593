"""Files as people have them: a phantom that each case changes, and the table of what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mrsi_engine.runs import finishing
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.spectra.phantom import PhantomSettings
from tests.cases.engine import Engine
from tests.cases.scan import Scan
from tests.cli.helpers import write_quick_report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cases-table", action="store_true", help="print what each case came to")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "case(number, situation, right): what a test is a case of")


@pytest.fixture(autouse=True)
def _remember(request: pytest.FixtureRequest, record_property: Any) -> None:
    """Hand the marker's words to the table."""
    marker = request.node.get_closest_marker("case")
    if marker is not None:
        record_property("case", list(marker.args))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption("--cases-table", default=False):
        return
    rows = []
    for outcome in ("passed", "failed", "xfailed", "xpassed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            properties = dict(report.user_properties)
            if "case" in properties and report.when in ("call", "setup"):
                found = properties.get("found", outcome)
                ok = {"passed": "yes", "xfailed": "waits"}.get(outcome, "NO")
                rows.append([*properties["case"], found, ok])
    terminalreporter.section("cases")
    header = ["case", "situation", "right behaviour", "found", "ok"]
    for row in [header, ["---"] * 5, *sorted(rows)]:
        terminalreporter.write_line("| " + " | ".join(str(cell) for cell in row) + " |")


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory, basis_cache: Path) -> Scan:
    """The phantom of the cases: 10 x 10 x 3 voxels, 100 of them brain."""
    folder = tmp_path_factory.mktemp("cases")
    simulate_scan(folder, PhantomSettings(shape=(10, 10, 3), seed=1, snr=40.0))
    return Scan.of(folder)


@pytest.fixture
def engine(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    record_property: Any,
    basis_cache: Path,
) -> Engine:
    """Runs the command line in this process, without the report's drawings."""
    monkeypatch.setattr(finishing, "report_on", write_quick_report)
    return Engine(capsys, tmp_path, record_property)
