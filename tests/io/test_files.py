"""Names and writing of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.files import safe_stem, write_atomically


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("scan", "scan"),
        ("sub-01_mrsi", "sub-01"),
        ("sub-01_ses-2_acq-epsi_mrsi", "sub-01_ses-2_acq-epsi"),
        ("sub-01_svs", "sub-01"),
        ("sub-01_mrsref", "sub-01"),
        ("sub-01_unloc", "sub-01"),
        ("sub-01_mrsi_run2", "sub-01_mrsi_run2"),
        ("sub-01_bold", "sub-01_bold"),
        ("mrsi", "mrsi"),
        ("_mrsi", "_mrsi"),
        ("../a b", "a-b"),
    ],
)
def test_a_stem_has_no_suffix_and_cannot_leave_its_folder(stem: str, expected: str) -> None:
    assert safe_stem(stem) == expected


def test_a_stem_of_nothing() -> None:
    with pytest.raises(InputError, match="no letter or digit"):
        safe_stem("...")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_rights_the_user_gives(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        path = write_atomically(tmp_path / "folder" / "file", b"1")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert path.parent.stat().st_mode & 0o777 == 0o777 & ~umask
