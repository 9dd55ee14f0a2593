"""A tiny simulated scan on disk, for the tests that run the whole engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.spectra.phantom import PhantomSettings
from tests.object_store import s3_server

# The same examples everywhere: what passed here passes on another machine. Search for new ones
# with: pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def basis_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of simulated bases that no other session has filled."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRSI_ENGINE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory, basis_cache: Path) -> Path:
    """Folder of a simulated scan of 6 x 6 x 1 voxels, 16 of them brain, with its truth."""
    assert os.environ["MRSI_ENGINE_CACHE"] == str(basis_cache)
    folder = tmp_path_factory.mktemp("phantom")
    simulate_scan(folder, PhantomSettings(shape=(6, 6, 1), seed=1, snr=40.0, nuisance="water"))
    return folder


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Address of a bucket of an object store on this machine."""
    with s3_server() as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        s3fs = pytest.importorskip("s3fs")
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
