"""Recipes of containers: rules that they have to keep, and the two scripts in them."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mrsi_engine import __version__

ROOT = Path(__file__).parents[2]
RECIPES = ["Dockerfile", "Dockerfile.cuda"]


def instructions(deploy: Path, name: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile in their order, each with what it says in one line."""
    text = (deploy / "containers" / name).read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines]


@pytest.mark.parametrize("name", RECIPES)
class TestRules:
    def test_bases_are_pinned(self, deploy: Path, name: str) -> None:
        found = instructions(deploy, name)
        [base] = [said for kind, said in found if kind == "ARG" and said.startswith("BASE=")]
        assert re.fullmatch(r"BASE=debian:12\.\d+-slim(@sha256:[0-9a-f]{64})?", base)
        assert all(said.startswith("${BASE}") for kind, said in found if kind == "FROM")

    def test_runs_as_nobody_special(self, deploy: Path, name: str) -> None:
        found = instructions(deploy, name)
        last = max(n for n, (kind, _) in enumerate(found) if kind == "FROM")
        users = [said for kind, said in found[last:] if kind == "USER"]
        assert users == ["1000:1000"]
        after = found[last:][[kind for kind, _ in found[last:]].index("USER") :]
        assert not [said for kind, said in after if kind in ("RUN", "COPY", "ADD")]

    def test_is_labelled_and_says_how_it_is(self, deploy: Path, name: str) -> None:
        found = dict(instructions(deploy, name))
        for label in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{label}=" in found["LABEL"]
        assert "/opt/mrsi/health.py" in found["HEALTHCHECK"]
        assert json.loads(found["ENTRYPOINT"]) == ["tini", "--"]
        assert ("ARG", f"VERSION={__version__}") in instructions(deploy, name)

    def test_packages(self, deploy: Path, name: str) -> None:
        runs = [said for kind, said in instructions(deploy, name) if kind == "RUN"]
        installs = [said for said in runs if "apt-get install" in said]
        assert len(installs) == 2
        for said in installs:
            assert "--no-install-recommends" in said
            assert "rm -rf /var/lib/apt/lists/*" in said
        [pip] = [said for said in runs if "pip install" in said]
        assert "--require-hashes" in pip
        assert "ADD" not in {kind for kind, _ in instructions(deploy, name)}

    def test_what_is_copied_is_there_and_not_ignored(self, deploy: Path, name: str) -> None:
        args = dict(s.split("=", 1) for k, s in instructions(deploy, name) if k == "ARG")
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        kept = [line[1:] for line in ignored if line.startswith("!")]
        for kind, said in instructions(deploy, name):
            if kind != "COPY" or said.startswith("--from"):
                continue
            for source in said.split()[:-1]:
                path = source.replace("${LOCK}", args["LOCK"])
                assert (ROOT / path).exists(), path
                assert any(fnmatch.fnmatch(path, pattern) for pattern in kept), path

    def test_extras_are_known(self, deploy: Path, name: str) -> None:
        args = dict(s.split("=", 1) for k, s in instructions(deploy, name) if k == "ARG")
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert set(args["EXTRAS"].split(",")) <= project["optional-dependencies"].keys()


def test_that_of_gpus_differs_in_nothing_else(deploy: Path) -> None:
    one, other = (instructions(deploy, name) for name in RECIPES)
    differ = {said.split("=")[0] for kind, said in set(one) ^ set(other) if kind == "ARG"}
    assert differ == {"LOCK", "EXTRAS", "PIP_EXTRA_INDEX_URL"}
    kinds = {kind for kind, _ in set(one) ^ set(other)}
    assert kinds == {"ARG", "ENV"}


def test_apptainer(deploy: Path) -> None:
    text = (deploy / "containers" / "mrsi-engine.def").read_text()
    assert re.match(r"Bootstrap: docker-archive\nFrom: mrsi-engine.tar\n", text)
    sections = re.findall(r"^%(\w+)", text, re.MULTILINE)
    assert sections == ["labels", "environment", "runscript", "test"]
    assert f"org.opencontainers.image.version {__version__}" in text


@pytest.fixture(scope="module")
def needed() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "deploy" / "containers" / "needed.py"))


class TestNeeded:
    """The part of the lock file that an image needs."""

    def test_of_the_lock_file(self, needed: dict[str, Any]) -> None:
        lock = (ROOT / "constraints.txt").read_text()
        pins = needed["without_hashes"](lock).splitlines()
        assert len([pin for pin in pins if pin.startswith("torch==")]) == 2
        assert not [pin for pin in pins if "hash" in pin or "\\" in pin or "==" not in pin]
        report = {"install": [{"metadata": {"name": n}} for n in ("Torch", "mrsi_engine", "numpy")]}
        part = needed["needed"](lock, json.dumps(report))
        names = [line.split("==")[0] for line in part.splitlines() if line[0].isalnum()]
        assert names == ["numpy", "torch", "torch"]
        assert part.count("--hash=sha256:") > 2

    def test_what_is_not_locked(self, needed: dict[str, Any]) -> None:
        report = {"install": [{"metadata": {"name": "left-pad"}}]}
        with pytest.raises(SystemExit, match="not in the lock file: left-pad"):
            needed["needed"]("numpy==1 \\\n    --hash=sha256:0\n", json.dumps(report))


@pytest.fixture(scope="module")
def health() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "deploy" / "containers" / "health.py"))


class TestHealth:
    @pytest.mark.parametrize(
        ("words", "role"),
        [
            (["/opt/mrsi/bin/python", "/opt/mrsi/bin/dask", "scheduler"], "scheduler"),
            (["python", "/opt/mrsi/bin/dask", "worker", "tcp://mrsi-scheduler:8786"], "worker"),
            (["python", "-m", "distributed.cli.dask_worker", "tcp://a:1"], "worker"),
            (["python", "/opt/mrsi/bin/mrsi", "cohort", "--scheduler", "tcp://a:1"], None),
        ],
    )
    def test_role(self, health: dict[str, Any], words: list[str], role: str | None) -> None:
        assert health["role"]([["tini", "--", *words], words]) == role

    def test_nobody_answers(self, health: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        names = health["main"].__globals__
        monkeypatch.setitem(names, "running", lambda: [["dask", "scheduler"]])
        monkeypatch.setenv("MRSI_HEALTH_PORT", "1")
        assert health["main"]() == 1
        monkeypatch.setitem(names, "running", lambda: [["mrsi", "cohort"]])
        assert health["main"]() == 0


def test_shell_script(deploy: Path) -> None:
    script = deploy / "containers" / "build-from-debian.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    if shutil.which("shellcheck"):
        command = ["shellcheck", "-S", "warning", script]
        assert subprocess.run(command, check=False).returncode == 0


@pytest.mark.skipif(
    os.environ.get("MRSI_TEST_IMAGE") != "1" or not shutil.which("buildah"),
    reason="builds an image for ten minutes: MRSI_TEST_IMAGE=1, root, mmdebstrap and buildah",
)
def test_build(deploy: Path) -> None:
    """Options of buildah that pip needs on this machine come from MRSI_BUILD_OPTIONS."""
    script, tag = deploy / "containers" / "build-from-debian.sh", "localhost/mrsi-engine:test"
    options = shlex.split(os.environ.get("MRSI_BUILD_OPTIONS", ""))
    subprocess.run([script, tag, *options], cwd=ROOT, check=True)
    said = subprocess.check_output(["buildah", "inspect", "--type", "image", tag], text=True)
    assert json.loads(said)["Docker"]["config"]["User"] == "1000:1000"
