"""The command line as a user meets it: help, usage, exit codes, one readable message."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from mrsi_engine import __version__
from mrsi_engine.cli import entry
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.runs import one_scan
from tests.cli.helpers import BASIS, Mrsi


class TestWithoutACommand:
    def test_version(self, mrsi: Mrsi) -> None:
        assert mrsi("--version") == f"{__version__}\n"

    def test_help_names_every_command(self, mrsi: Mrsi) -> None:
        text = mrsi("--help")
        for command in ("demo", "simulate", "import", "run", "export", "compare", "basis"):
            assert re.search(rf"^│ {command} +\w", text, re.MULTILINE)
        assert "--debug" in text

    @pytest.mark.parametrize(
        "command",
        ["demo", "simulate", "import", "run", "export", "compare", "basis simulate"],
    )
    def test_every_option_is_explained(
        self, mrsi: Mrsi, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "240")
        text = mrsi(*command.split(), "--help")
        options = re.findall(r"^│[* ]{1,4}(--[\w-]+.*)│$", text, re.MULTILINE)
        assert options
        for option in options:
            assert re.match(r"--[\w-]+ .*?  +[^\s\[]{2,} ?", option), option
        assert "--empty" not in text
        assert not re.search(r"default: (\(\)|None|False)", text)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["runn"], 'Unknown command "runn". Did you mean "run"?'),
            (["run"], "SCANS requires an argument"),
            (["run", "a.nii", "--basis", "b"], "--out requires an argument"),
            (["run", "a.nii", "--basis", "b", "--out", "c", "--maks", "d"], "mean --mask?"),
            (["run", "a.nii", "--basis", "b", "--out", "c", "--workers", "two"], '"two" into int'),
            (["run", "a.nii", "--basis", "b", "--out", "c", "--fill", "0"], '"nan", "mrsiprep"'),
            (["simulate", "--out", "c", "--shape", "6", "6"], "requires 3 positional arguments"),
            (["pipeline", "show"], "NAME requires an argument"),
            (["basis", "simulate", "--sequence", "spiral"], '"press", "slaser"'),
        ],
    )
    def test_wrong_usage(self, mrsi: Mrsi, arguments: list[str], message: str) -> None:
        error = mrsi.refused(*arguments)
        assert message in error
        assert len(error.splitlines()) == 1

    def test_debug_shows_where(self, mrsi: Mrsi, tmp_path: Path) -> None:
        error = mrsi.error(
            "run", "none.nii.gz", "--basis", BASIS, "--out", tmp_path, "--debug", code=2
        )
        assert "Traceback" in error
        assert error.splitlines()[-1] == "error: none.nii.gz: no such file"

    @pytest.mark.parametrize(
        ("raised", "code", "message"),
        [
            (InputError("a [b]"), 2, "error: a [b]"),
            (RunError("lost"), 1, "error: lost"),
            (OSError(28, "No space left on device", "x"), 1, "error: x: No space left on device"),
            (KeyboardInterrupt(), 130, "error: stopped; the same command goes on"),
            (ZeroDivisionError("b"), 1, "error: ZeroDivisionError: b\nThis is a defect of mrsi"),
        ],
    )
    def test_exit_codes(
        self,
        mrsi: Mrsi,
        monkeypatch: pytest.MonkeyPatch,
        raised: BaseException,
        code: int,
        message: str,
    ) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise raised

        monkeypatch.setattr(one_scan, "process", fail)
        error = mrsi.error("run", "a.nii", "--basis", "b", "--out", "c", code=code)
        assert error.startswith(message)


@pytest.mark.parametrize(("arguments", "heard"), [([], False), (["--debug"], True)])
def test_what_dask_says_of_its_own_affairs_is_heard_with_debug_alone(
    arguments: list[str], heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, found = logging.getLogger("distributed"), []

    def command(*_: object, **__: object) -> None:
        # As its import does, which is later than the start of the program.
        logger.setLevel(logging.INFO)
        found.append(logger.isEnabledFor(logging.ERROR))

    monkeypatch.setattr(entry, "app", command)
    entry.main(arguments)
    assert found == [heard]
    assert logger.isEnabledFor(logging.ERROR), "only while the command runs"
