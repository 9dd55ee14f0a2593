"""Numbers do not change without their revision, by which results of an older version are known."""

from __future__ import annotations

import pytest

from tests.engine import frozen


@pytest.mark.usefixtures("basis_cache")
@pytest.mark.parametrize("name", frozen.FROZEN)
def test_numbers_are_those_of_their_revision(name: str) -> None:
    now, then = frozen.now(name), frozen.then(name)
    assert then is not None, f"write {name!r} down: python -m tests.engine.frozen"
    assert now.revision == then.revision, "write its numbers down: see frozen.py"
    assert not now.differing(then), f"numbers changed: raise {now.revision}, or see frozen.py"


def test_a_change_is_seen_and_rounding_is_not() -> None:
    def numbers(scale: float) -> frozen.Numbers:
        return frozen.Numbers("1", {"estimate": [4, 2.0 * scale, 0.3 * scale]})

    assert not numbers(1.0).differing(numbers(1.001))
    assert numbers(1.0).differing(numbers(1.01)) == ["estimate"]
    assert numbers(1.0).differing(frozen.Numbers("1", {})) == ["estimate"]
