"""Who may send code to a cluster."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

from mrsi_engine.engine.clusters import (
    ClusterChoice,
    TLSFiles,
    connected,
    dashboard_link,
    local_cluster,
)
from mrsi_engine.engine.clusters.certificates import made_for
from mrsi_engine.engine.clusters.dashboards import ssh_line
from mrsi_engine.errors import InputError, RunError

INTRUDER = Path(__file__).with_name("intruder.py")


def intrude(address):
    """What becomes of an attempt of another user (nobody, if this one is root)."""
    done = subprocess.run([sys.executable, INTRUDER, address], capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def closed():
    with local_cluster(1) as client:
        yield client


def test_nobody_else_can_send_code_to_processes(closed):
    address = closed.scheduler.address
    assert address.startswith("tls://127.0.0.1:")
    assert intrude(address).startswith("refused")
    assert intrude(address.replace("tls://", "tcp://")).startswith("refused")
    assert closed.run(os.getpid)


def test_nobody_else_can_send_code_to_a_worker(closed):
    ((worker, _),) = closed.run(os.getpid).items()
    assert worker.startswith("tls://")
    assert intrude(worker.replace("tls://", "tcp://")).startswith("refused")


def test_without_certificates_anybody_could():
    with local_cluster(1, secure=False) as client:
        assert intrude(client.scheduler.address) == f"ran as {{{os.getuid()}}}"


def test_threads_listen_nowhere():
    with local_cluster(1, 2, processes=False) as client:
        assert client.scheduler.address.startswith("inproc://")
        assert all(worker.startswith("inproc://") for worker in client.nthreads())


def test_dashboard_is_of_this_machine(closed, monkeypatch):
    link = dashboard_link(closed)
    assert link.startswith("http://127.0.0.1:")
    for name in ("SSH_CONNECTION", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    assert ssh_line(link) is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    port = link.split(":")[2].split("/")[0]
    assert f"ssh -N -L {port}:127.0.0.1:{port} " in ssh_line(link)
    assert ssh_line("http://node7:8787/status") is None
    assert ssh_line(None) is None


@pytest.fixture
def files(tmp_path):
    made = made_for(tmp_path)
    return TLSFiles(Path(made.tls_ca_file), Path(made.tls_client_cert), Path(made.tls_client_key))


def security_of(files):
    own = {
        f"tls_{role}_{kind}": str(getattr(files, kind))
        for role in ("scheduler", "worker", "client")
        for kind in ("cert", "key")
    }
    return Security(tls_ca_file=str(files.ca), require_encryption=True, **own)


def test_certificates_of_a_cluster_are_private(files):
    assert {stat.S_IMODE(f.stat().st_mode) for f in (files.ca, files.cert, files.key)} == {0o600}


def test_a_scheduler_with_certificates(files):
    with LocalCluster(
        n_workers=1,
        processes=False,
        protocol="tls://",
        security=security_of(files),
        dashboard_address=None,
    ) as cluster:
        address = cluster.scheduler_address
        with connected(address, tls=files) as client:
            assert client.run(os.getpid)
        with pytest.raises(InputError, match=r"no certificates; tls:// needs three PEM files"):
            connected(address).__enter__()
        with pytest.raises(RunError, match="answers to tls:// only"):
            connected(address.replace("tls", "tcp"), timeout=1).__enter__()


def test_a_key_that_others_may_read_is_refused(files):
    files.key.chmod(0o644)
    with pytest.raises(InputError, match=r"others may read this key .*chmod 600"):
        TLSFiles.of(files.ca, files.cert, files.key)


def test_certificates_come_together_and_with_tls(files):
    assert TLSFiles.of(None, None, None) is None
    with pytest.raises(InputError, match="--tls-ca and --tls-key missing"):
        TLSFiles.of(None, files.cert, None)
    with pytest.raises(InputError, match="does not ask for any"):
        connected("tcp://127.0.0.1:1", tls=files).__enter__()
    assert ClusterChoice("tls://127.0.0.1:1", tls=files).profile.tls == files


def test_a_client_of_ones_own_still_works(closed):
    # A user's own client of the cluster object takes its certificates from there.
    with Client(closed.cluster, set_as_default=False) as another:
        assert another.run(os.getpid) == closed.run(os.getpid)
