"""Rules and dashboard: every figure that they ask for is one that is served."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml
from distributed import Client, LocalCluster
from prometheus_client.parser import text_string_to_metric_families

from mrsi_engine.cohort.metrics import METRICS, STATES

#: Functions, operators and labels of PromQL that look like a metric's name with an underscore.
_NAME = re.compile(r"\b(?:mrsi|dask)[a-z_]*(?::[a-z_]+)?\b(?!\s*=)")


def expressions(deploy: Path) -> list[str]:
    folder = deploy / "monitoring"
    rules = yaml.safe_load((folder / "rules.yml").read_text())["groups"]
    panels = json.loads((folder / "dashboard.json").read_text())["panels"]
    return [rule["expr"] for group in rules for rule in group["rules"]] + [
        target["expr"] for panel in panels for target in panel["targets"]
    ]


@pytest.fixture(scope="module")
def served() -> set[str]:
    """Names of samples: Dask's of a scheduler and a worker that work, and those of the engine."""
    found: set[str] = set()
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        client.submit(sum, [1, 2]).result()
        [worker] = cluster.workers.values()
        for port in (cluster.scheduler.http_server.port, worker.http_server.port):
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                families = text_string_to_metric_families(answer.read().decode())
            found |= {sample.name for family in families for sample in family.samples}
    own = {f"{n}_total" if kind == "counter" else n for n, (kind, _, _) in METRICS.items()}
    return found | own


def test_every_figure_is_served(deploy: Path, served: set[str]) -> None:
    rules = yaml.safe_load((deploy / "monitoring" / "rules.yml").read_text())["groups"]
    recorded = {rule["record"] for group in rules for rule in group["rules"] if "record" in rule}
    asked = {name for expression in expressions(deploy) for name in _NAME.findall(expression)}
    assert len(asked) > 10
    assert asked - recorded - served == set()
    assert recorded <= asked | recorded


def test_states_are_those_of_scans(deploy: Path) -> None:
    named = re.findall(r'state=~"([a-z|]+)"', " ".join(expressions(deploy)))
    assert named
    assert {state for one in named for state in one.split("|")} <= set(STATES)


def test_panels(deploy: Path) -> None:
    dashboard = json.loads((deploy / "monitoring" / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${source}"}
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"source", "instance"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool: apt-get install prometheus")
class TestPromtool:
    def check(self, *arguments: object) -> str:
        done = subprocess.run(
            ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def test_rules(self, deploy: Path) -> None:
        assert "9 rules found" in self.check("check", "rules", deploy / "monitoring" / "rules.yml")

    def test_configuration(self, deploy: Path) -> None:
        self.check("check", "config", "--syntax-only", deploy / "monitoring" / "prometheus.yml")

    def test_alerts(self, deploy: Path) -> None:
        """When they ring, and when they do not."""
        self.check("test", "rules", Path(__file__).parent / "alerts.yml")

    def test_expressions_of_the_dashboard(self, deploy: Path, tmp_path: Path) -> None:
        panels = [e.replace("$instance", ".*") for e in expressions(deploy)]
        rules = [{"record": f"panel:{n}", "expr": e} for n, e in enumerate(panels)]
        path = tmp_path / "panels.yml"
        path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
        self.check("check", "rules", path)
