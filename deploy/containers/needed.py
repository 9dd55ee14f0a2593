"""The part of a lock file that some packages of a report of pip's need, hashes and all.

    pip install --dry-run --report report.json ...
    python needed.py constraints.txt report.json > needed.txt

Without a report: the lock file without its hashes, as a constraint for that dry run.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path


def entries(lock: str) -> dict[str, str]:
    """Requirements of a lock file by name, with their hashes; some have one for each platform."""
    found: dict[str, str] = {}
    for entry in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]:
        name = _plain(re.split(r"[=\[ ]", entry, maxsplit=1)[0])
        found[name] = found.get(name, "") + entry
    return found


def without_hashes(lock: str) -> str:
    """Names, versions and platforms alone."""
    lines = "".join(entries(lock).values()).splitlines()
    kept = [line.rstrip(" \\") for line in lines if "--hash" not in line]
    return "\n".join(line for line in kept if line and not line.startswith("#")) + "\n"


def needed(lock: str, report: str) -> str:
    """The entries that a report names.

    Raises
    ------
    SystemExit
        If it names one that the lock file does not have, other than the engine itself.
    """
    known = entries(lock)
    names = [_plain(one["metadata"]["name"]) for one in json.loads(report)["install"]]
    wanted = [name for name in names if name != "mrsi-engine"]
    unknown = sorted(set(wanted) - known.keys())
    if unknown:
        sys.exit(f"error: not in the lock file: {', '.join(unknown)}")
    return "".join(known[name] for name in sorted(wanted))


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    texts = [Path(path).read_text(encoding="utf-8") for path in sys.argv[1:]]
    sys.stdout.write(without_hashes(*texts) if len(texts) == 1 else needed(*texts))
