"""Profile and configuration of a Dask Gateway agree; its server is stood in for."""

from __future__ import annotations

import runpy
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mrsi_engine.engine.clusters import ClusterChoice


@pytest.fixture
def configured(deploy: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the configuration says to the server, its options by name."""
    options = ModuleType("dask_gateway_server.options")

    def option(name: str, *_: Any, **given: Any) -> tuple[str, dict[str, Any]]:
        return name, given

    def collected(*fields: tuple[str, dict[str, Any]], handler: Any) -> SimpleNamespace:
        return SimpleNamespace(fields=dict(fields), handler=handler)

    for name in ("Float", "Integer", "Select"):
        setattr(options, name, option)
    options.Options = collected  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_gateway_server", ModuleType("dask_gateway_server"))
    monkeypatch.setitem(sys.modules, "dask_gateway_server.options", options)
    config = SimpleNamespace(Backend=SimpleNamespace())
    path = str(deploy / "gateway" / "gateway_config.py")
    content = runpy.run_path(path, init_globals={"c": config})
    return SimpleNamespace(options=config.Backend.cluster_options, **content)


def test_the_profile_is_one(deploy: Path) -> None:
    ClusterChoice(str(deploy / "gateway" / "profile.toml")).check()


def test_its_options_are_those_of_the_server(deploy: Path, configured: SimpleNamespace) -> None:
    profile = tomllib.loads((deploy / "gateway" / "profile.toml").read_text())
    chosen = profile["cluster"]["cluster_options"]
    assert chosen.keys() == configured.options.fields.keys()
    assert chosen["image"] in configured.IMAGES
    meant = configured.options.handler(SimpleNamespace(**chosen))
    assert meant["worker_memory"] == "4G"
    assert meant["worker_threads"] == 1
    volumes = {volume["name"] for volume in meant["worker_extra_pod_config"]["volumes"]}
    mounts = meant["worker_extra_container_config"]["volumeMounts"]
    assert {mount["name"] for mount in mounts} == volumes
