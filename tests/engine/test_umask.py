"""Workers write files for whom this process does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mrsi_engine.engine.clusters import connected
from mrsi_engine.engine.umask import same_umask, umask_here

#: A scheduler and two workers in a process of its own, whose umask is another one.
ELSEWHERE = """
import os, sys
from distributed import LocalCluster
if __name__ == "__main__":
    os.umask(0o022)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://",
                      host="127.0.0.1", dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def address():
    command = [sys.executable, "-c", ELSEWHERE]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


def test_while_a_run_lasts(address):
    before = os.umask(0o077)
    try:
        with connected(address) as client:
            with same_umask(client):
                assert set(client.run(umask_here).values()) == {0o077}
            assert set(client.run(umask_here).values()) == {0o022}
    finally:
        os.umask(before)


def test_a_worker_that_was_never_told_ends_no_run(address):
    def forget(dask_worker):
        for name in [name for name in dask_worker.plugins if name.startswith("umask-")]:
            del dask_worker.plugins[name]

    with connected(address) as client, same_umask(client):
        client.run(forget, workers=list(client.nthreads())[:1])
