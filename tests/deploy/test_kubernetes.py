"""Manifests against the schemas of the operator's own kinds, and each other."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from mrsi_engine.cli.entry import app

operator = pytest.importorskip("dask_kubernetes.operator")
CRDS = Path(operator.__file__).parent / "deployment/helm/dask-kubernetes-operator/crds"

OWN = ["cluster.yaml", "autoscaler.yaml", "gpu-workers.yaml"]


def strict(schema: Any) -> Any:
    """A schema that takes no key that it does not name: a server drops those without a word."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(part) for key, part in schema.items()}
    # Of an object with named properties; `properties` itself may be one of a pod's field.
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def schema_of(kind: str) -> dict[str, Any]:
    content = yaml.safe_load((CRDS / f"{kind.lower()}.yaml").read_text())
    [version] = content["spec"]["versions"]
    found = strict(version["schema"]["openAPIV3Schema"])
    for name in ("apiVersion", "kind", "metadata"):
        found["properties"].setdefault(name, {})
    assert content["spec"]["group"] == "kubernetes.dask.org"
    return dict(found)


def pod_schema() -> dict[str, Any]:
    """Of the pods of workers: that of every pod."""
    spec = schema_of("DaskCluster")["properties"]["spec"]["properties"]
    return dict(spec["worker"]["properties"]["spec"])


def load(deploy: Path, name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((deploy / "kubernetes" / name).read_text()))


def errors(schema: dict[str, Any], content: Any) -> list[str]:
    found = Draft7Validator(schema).iter_errors(content)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def pods(deploy: Path) -> dict[str, dict[str, Any]]:
    """Specs of all pods by who they are."""
    cluster, gpu = (load(deploy, name)["spec"] for name in ("cluster.yaml", "gpu-workers.yaml"))
    return {
        "scheduler": cluster["scheduler"]["spec"],
        "worker": cluster["worker"]["spec"],
        "GPU worker": gpu["worker"]["spec"],
        "driver": load(deploy, "driver-job.yaml")["spec"]["template"]["spec"],
    }


@pytest.mark.parametrize("name", OWN)
def test_kinds_of_the_operator(deploy: Path, name: str) -> None:
    manifest = load(deploy, name)
    assert manifest["apiVersion"] == "kubernetes.dask.org/v1"
    assert errors(schema_of(manifest["kind"]), manifest) == []


def test_wrong_ones_are_found(deploy: Path) -> None:
    good = load(deploy, "cluster.yaml")
    typo, kind, lacking = copy.deepcopy(good), copy.deepcopy(good), copy.deepcopy(good)
    typo["spec"]["worker"]["spec"]["containers"][0]["imagee"] = "x"
    kind["spec"]["worker"]["replicas"] = "two"
    del lacking["spec"]["scheduler"]["service"]
    schema = schema_of("DaskCluster")
    assert "'imagee' was unexpected" in errors(schema, typo)[0]
    assert "'two' is not of type 'integer'" in errors(schema, kind)[0]
    assert "'service' is a required property" in errors(schema, lacking)[0]


@pytest.mark.parametrize("who", ["scheduler", "worker", "GPU worker", "driver"])
def test_pods(deploy: Path, who: str) -> None:
    spec = pods(deploy)[who]
    assert errors(pod_schema(), spec) == []
    assert spec["securityContext"]["runAsNonRoot"]
    [container] = spec["containers"]
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in spec["volumes"]}
    image = f"mrsi-engine:0.1.0{'-cuda' if who == 'GPU worker' else ''}"
    assert container["image"] == image
    ports = {port["name"] for port in container.get("ports", ())}
    probes = [container[key] for key in ("livenessProbe", "readinessProbe") if key in container]
    assert all(probe["httpGet"]["port"] in ports for probe in probes)
    assert bool(probes) == (who != "driver")


def test_what_refers_to_each_other(deploy: Path) -> None:
    cluster, job = load(deploy, "cluster.yaml"), load(deploy, "driver-job.yaml")
    name = cluster["metadata"]["name"]
    for other in ("gpu-workers.yaml", "autoscaler.yaml"):
        assert load(deploy, other)["spec"]["cluster"] == name
    claim = load(deploy, "volume.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    claims = [v["persistentVolumeClaim"]["claimName"] for spec in pods(deploy).values()
              for v in spec["volumes"] if "persistentVolumeClaim" in v]  # fmt: skip
    assert claims == 4 * [claim["metadata"]["name"]]
    service = cluster["spec"]["scheduler"]["service"]
    [scheduler] = cluster["spec"]["scheduler"]["spec"]["containers"]
    assert {p["targetPort"] for p in service["ports"]} == {p["name"] for p in scheduler["ports"]}
    assert service["selector"]["dask.org/cluster-name"] == name
    [driver] = job["spec"]["template"]["spec"]["containers"]
    # The operator calls the service after the cluster.
    assert f"tcp://{name}-scheduler:8786" in driver["args"]
    policy = load(deploy, "network-policy.yaml")["spec"]
    assert policy["podSelector"]["matchLabels"] == {"dask.org/cluster-name": name}
    allowed = [peer["podSelector"]["matchLabels"] for peer in policy["ingress"][0]["from"]]
    assert job["spec"]["template"]["metadata"]["labels"] in allowed
    moved, ended = job["spec"]["podFailurePolicy"]["rules"]
    # The first that fits counts: a driver that is told to end exits with 1.
    assert (moved["action"], ended["action"]) == ("Ignore", "FailJob")
    assert ended["onExitCodes"]["containerName"] == driver["name"]
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_memory_of_workers_is_that_of_their_pods(deploy: Path) -> None:
    for who in ("worker", "GPU worker"):
        [container] = pods(deploy)[who]["containers"]
        limit = container["args"][container["args"].index("--memory-limit") + 1]
        assert limit == container["resources"]["limits"]["memory"] + "B"


def test_the_command_of_the_driver_is_one(deploy: Path) -> None:
    [driver] = pods(deploy)["driver"]["containers"]
    program, *arguments = driver["args"]
    assert program == "mrsi"
    command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert command.__name__ == "cohort_command"
    assert str(bound.arguments["out"]) == "/data/out"


def test_the_profile_is_one(deploy: Path) -> None:
    from mrsi_engine.engine.clusters import ClusterChoice

    path = deploy / "kubernetes" / "profile.toml"
    ClusterChoice(str(path)).check()
    named = tomllib.loads(path.read_text())["cluster"]["custom_cluster_spec"]
    assert (path.parent / named).is_file()
