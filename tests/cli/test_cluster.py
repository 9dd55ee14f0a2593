"""mrsi cluster, and what --cluster and its short forms mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrsi_engine.engine.clusters import LOCAL, ClusterChoice, profile_names
from mrsi_engine.engine.clusters.certificates import made_for
from tests.cli.helpers import BASIS, Mrsi


def test_list(mrsi: Mrsi) -> None:
    lines = mrsi("cluster", "list").splitlines()
    assert [line.partition(":")[0] for line in lines] == [*profile_names(), "ADDRESS", "FILE.toml"]
    assert "slurm: SLURM: every worker is a job of its own." in lines


def test_what_is_shown_is_a_profile(mrsi: Mrsi, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(mrsi("cluster", "show", "slurm"))
    assert 'class = "dask_jobqueue.SLURMCluster"' in mine.read_text()
    assert ClusterChoice(str(mine)).check().profile.adapt is not None


def test_show_of_none(mrsi: Mrsi) -> None:
    assert "no cluster profile 'slrum'; there are cuda" in mrsi.refused("cluster", "show", "slrum")


def test_trial(mrsi: Mrsi, tmp_path: Path) -> None:
    printed = mrsi("cluster", "test", "local", "--folder", tmp_path)
    assert printed.count("tls://127.0.0.1:") == 2
    assert printed.count("shared") == 2
    assert printed.count("same") == 2
    assert list(tmp_path.iterdir()) == []


def test_trial_of_workers_that_are_not_fit(mrsi: Mrsi, tmp_path: Path) -> None:
    small = tmp_path / "small.toml"
    small.write_text('class = "distributed.LocalCluster"\n[cluster]\nmemory_limit = "300MiB"\n')
    error = mrsi.refused("cluster", "test", small, "--folder", tmp_path)
    assert "memory limit is 300 MiB, but a block needs 420 MiB" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster", "slrum"], "cluster is 'slrum', expected cuda"),
        (["--scheduler", "slurm"], "scheduler is 'slurm', expected an address"),
        (["--scheduler", "tcp://h:1", "--cluster", "local"], "say where to run; give one"),
        (["--cluster", "tls://h:1", "--tls-ca", "ca.pem"], "--tls-cert and --tls-key missing"),
        (["--cluster", "tcp://h:1", "--workers", 2], "those of tcp://h:1 are there already"),
    ],
)
def test_places_that_cannot_be(
    mrsi: Mrsi, phantom: Path, tmp_path: Path, options: list[object], message: str
) -> None:
    run = ["run", phantom / "scan.nii.gz", "--basis", BASIS, "--out", tmp_path / "out"]
    assert message in mrsi.refused(*run, *options)
    assert not (tmp_path / "out").exists()


def test_certificates_are_needed_before_anything_runs(
    mrsi: Mrsi, phantom: Path, tmp_path: Path
) -> None:
    run = ["run", phantom / "scan.nii.gz", "--basis", BASIS, "--out", tmp_path / "out"]
    error = mrsi.refused(*run, "--cluster", "tls://127.0.0.1:1")
    assert "tls://127.0.0.1:1: no certificates; tls:// needs three PEM files" in error
    assert not (tmp_path / "out").exists()


def test_options_reach_the_choice(tmp_path: Path) -> None:
    from mrsi_engine.cli.options import Where

    made = made_for(tmp_path)
    ca, cert, key = (Path(tmp_path, f"{name}.pem") for name in ("ca_file", "cert", "key"))
    assert str(key) == made.tls_client_key
    options = Where(cluster="tls://h:1", tls_ca=ca, tls_cert=cert, tls_key=key).options()
    assert options.where.cluster == "tls://h:1"
    assert options.where.tls is not None
    assert options.where.tls.key == key
    assert Where(scheduler="tcp://h:1").options().where == ClusterChoice("tcp://h:1")
    assert Where(workers=3).options().where == ClusterChoice(LOCAL, 3)
