"""Tests of places: local paths and addresses of object stores."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io import places
from mrsi_engine.io.places import fingerprint, followed, is_remote, place, way

ADDRESSES = ("s3://bucket/a/b", "gs://bucket/a", "az://box/a", "abfs://box/a", "memory://a/b")


@pytest.mark.parametrize("text", ["scan.nii", "./a/b", "/a/b", "a:b", "~/x", "sub:01/y"])
def test_texts_without_a_scheme_are_local_paths(text: str) -> None:
    assert place(text) == place(Path(text)) == Path(text)
    assert isinstance(place(text), Path)
    assert not is_remote(place(text))


@pytest.mark.parametrize("text", ADDRESSES)
def test_addresses_are_places_that_text_and_pickle_give_back(text: str) -> None:
    found = place(text)
    assert is_remote(found)
    assert str(found) == text
    assert place(found) is found
    assert place(str(found)) == found
    assert pickle.loads(pickle.dumps(found)) == found
    assert str(found / "c.zarr") == f"{text}/c.zarr"
    assert (found / "c.zarr").parent == found
    assert hash(place(text)) == hash(found)


def test_an_address_that_went_through_pathlib_is_the_address() -> None:
    assert str(place(Path("s3://bucket/a/b"))) == "s3://bucket/a/b"


def test_addresses_of_files_are_local() -> None:
    assert place("file:///tmp/a%20b") == place("file://localhost/tmp/a b") == Path("/tmp/a b")
    with pytest.raises(InputError, match="machine 'other'"):
        place("file://other/tmp")


@pytest.mark.parametrize("text", ["http://a/b", "s4://a/b", "hdfs:///a", Path("s4://a/b")])
def test_unknown_schemes_are_refused(text: str | Path) -> None:
    with pytest.raises(InputError, match="s3://BUCKET/PATH"):
        place(text)


def test_an_address_needs_a_bucket() -> None:
    with pytest.raises(InputError, match="no bucket"):
        place("s3://")


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"gcsfs.*mrsi-engine\[cloud\]"):
        place("gs://bucket/a")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("/a/result.zarr", "/a/scan.zarr", "../scan.zarr"),
        ("s3://b/a/result.zarr", "s3://b/a/scan.zarr", "../scan.zarr"),
        ("memory://a/x/result.zarr", "memory://a/y/scan.zarr", "../../y/scan.zarr"),
        ("s3://b/a/result.zarr", "s3://c/a/scan.zarr", "s3://c/a/scan.zarr"),
        ("s3://b/result.zarr", "gs://b/scan.zarr", "gs://b/scan.zarr"),
        ("/a/result.zarr", "s3://b/scan.zarr", "s3://b/scan.zarr"),
        ("s3://b/result.zarr", "/a/scan.zarr", "file:///a/scan.zarr"),
    ],
)
def test_the_way_between_stores_leads_there(start: str, end: str, expected: str) -> None:
    assert way(place(start), place(end)) == expected
    assert followed(place(start), expected) == place(end)


def test_a_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    for folder in (tmp_path, place("memory://test_a_fingerprint")):
        file = folder / "a"
        with pytest.raises(FileNotFoundError):
            fingerprint(file)
        file.write_bytes(b"1")
        before = fingerprint(file)
        assert fingerprint(file) == before
        file.write_bytes(b"12")
        assert fingerprint(file) != before
