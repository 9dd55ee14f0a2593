"""Texts that somebody gives: what is no file is told, and never waited on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mrsi_engine.bids.rules import read_filters, read_rules
from mrsi_engine.cohort.table import read_table
from mrsi_engine.engine.clusters import ClusterChoice
from mrsi_engine.errors import InputError
from mrsi_engine.input_files import read_input_text

READERS: list[tuple[Callable[[Path], object], str]] = [
    (read_input_text, "text"),
    (read_table, "table.tsv"),
    (read_rules, "rules.toml"),
    (read_filters, "filters.json"),
    (lambda path: ClusterChoice(str(path)).check(), "profile.toml"),
]


@pytest.fixture
def given(tmp_path: Path) -> Path:
    return tmp_path / "given.toml"


@pytest.mark.parametrize(("read", "name"), READERS)
def test_a_pipe_is_told_and_not_waited_on(
    read: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=f"{name}: is a named pipe"):
        read(tmp_path / name)


def test_text_of_other_letters_is_told(given: Path) -> None:
    given.write_bytes("é".encode("latin-1"))
    with pytest.raises(InputError, match="not text in UTF-8"):
        read_input_text(given)


def test_a_mark_before_the_text_is_no_text(given: Path) -> None:
    given.write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_input_text(given) == "a = 1\n"
