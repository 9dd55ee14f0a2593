"""Synthetic scans for the engine, and the path on which workers find the scripted stages."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from mrsi_engine.conventions import Acquisition
from mrsi_engine.engine.clusters import refill_of
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.spectra.basis import Basis

HERE = Path(__file__).parent

# Spawned workers take over sys.path, so they import the stages of scripted.py from here too.
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

ACQUISITION = Acquisition(points=32, dwell_time=5e-4, spectrometer_frequency=123.25)

INPUTS = {"scan": "seed 0", "water": "a file", "chunk": 16}


def write_scan(path, voxels=100, bad=(), water=False, seed=0, chunk=16, inputs=INPUTS):
    """A scan store whose first sample of voxel i is i + 1; ``bad`` maps voxels to a fill."""
    rng = np.random.default_rng(seed)
    shape = (voxels, ACQUISITION.points)
    fids = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    fids[:, 0] = np.arange(voxels) + 1
    for voxel, fill in dict(bad).items():
        fids[voxel] = fill
    places = np.stack(np.unravel_index(np.arange(voxels), (10, 10, -(-voxels // 100))), axis=1)
    scan = ScanStore.create(
        path,
        places,
        ACQUISITION,
        (10, 10, -(-voxels // 100)),
        np.diag([5.0, 5.0, 10.0, 1.0]),
        chunk=chunk,
        signals={"water": {}} if water else {},
        stem="sub-01",
        source="sub-01.nii.gz",
        checksum=f"seed {seed}",
        inputs=inputs,
        header={"SpectrometerFrequency": [123.25], "ResonantNucleus": ["1H"]},
    )
    for start in range(0, voxels, scan.chunk):
        scan.write_fids(start, fids[start : start + scan.chunk])
        if water:
            scan.write("water", start, np.nan_to_num(fids[start : start + scan.chunk]))
    return ScanStore.open(path)


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "scan.zarr", bad={3: np.nan, 17: 0, 50: np.inf})


@pytest.fixture
def basis():
    rng = np.random.default_rng(1)
    fids = rng.normal(size=(2, 32)) + 1j * rng.normal(size=(2, 32))
    return Basis(("NAA", "Cr"), fids, ACQUISITION, sequence="press", source="test basis")


def whole_again(client, workers=2):
    """A client's local cluster, once what a test before stopped or killed was replaced."""
    refill = refill_of(client)
    while any(_is_down(nanny) for nanny in list(client.cluster.workers.values())) or (
        len(client.nthreads()) < workers
    ):
        refill()
        threading.Event().wait(0.1)
    return client


def _is_down(nanny):
    try:
        return psutil.Process(nanny.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, TypeError):
        return True


def drive_until_killed(scan, out, pipeline, workers=0, blocks=-1):
    """A run in a process of its own that kills itself; nothing of it is left afterwards."""
    command = [sys.executable, HERE / "drive.py", scan, out, json.dumps(pipeline.settings())]
    driver = subprocess.Popen(
        [*map(str, command), str(workers), str(blocks)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
        stderr=subprocess.PIPE,
    )
    # Its workers hold the other end too: this ends with the last of them.
    _, told = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, told.decode()
