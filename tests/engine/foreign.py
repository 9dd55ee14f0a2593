"""Schedulers and workers that somebody else started, as processes of their own."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

from distributed import LocalCluster


@contextmanager
def foreign_scheduler(workers=0, **options):
    """The address of a scheduler without certificates, and its cluster."""
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        protocol="tcp://",
        dashboard_address=None,
        **options,
    ) as cluster:
        yield cluster.scheduler_address, cluster


@contextmanager
def worker_process(address, *options, before=(), environment=None):
    """A worker of its own: ``before`` is what its command stands behind, such as unshare."""
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
    command += ["--no-dashboard", "--nthreads", "1", *options]
    worker = subprocess.Popen(
        [*before, *command],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            **(environment or {}),
        },
        cwd="/",  # where no package of ours lies
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield worker
    finally:
        with suppress(ProcessLookupError):
            worker.send_signal(signal.SIGCONT)
        worker.terminate()
        worker.wait(30)
