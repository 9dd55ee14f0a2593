"""What tasks of the window's tests do; workers import this module, so it stays importable alone."""

import os
import signal
import time
from pathlib import Path

from mrsi_engine.errors import InputError
from mrsi_engine.io.files import DiskFullError


def give(value):
    return value


def fail(kind):
    raise {"input": InputError, "disk": DiskFullError, "any": ValueError}[kind](f"a {kind} error")


def act(folder, name, *script):
    """Do what a script says of the 1st, 2nd, ... run of a name, its last word from then on."""
    path = Path(folder, f"runs-{name}")
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    runs = len(path.read_text().splitlines())
    word = script[min(runs, len(script)) - 1] if script else ""
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if word.startswith("sleep"):
        time.sleep(float(word.split()[1]))
    return name


class StopsWhenRead:
    """A result whose worker stops when it is to be sent, the first time."""

    def __init__(self, folder, value):
        self._folder, self._value = folder, value

    def __reduce__(self):
        act(self._folder, "sent", "stop", "")
        return give, (self._value,)


def stop_later(folder, value):
    return StopsWhenRead(folder, value)


def runs(folder, name):
    path = Path(folder, f"runs-{name}")
    return len(path.read_text().splitlines()) if path.exists() else 0
