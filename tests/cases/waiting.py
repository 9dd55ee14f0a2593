"""Cases whose mending is on its way: branches that have not landed yet."""

from __future__ import annotations

import pytest

_NOT_LANDED: frozenset[str] = frozenset()


def waits_for(branch: str) -> pytest.MarkDecorator:
    """Expect a failure until the branch has landed; then strike it off the list above."""
    return pytest.mark.xfail(
        branch in _NOT_LANDED, reason=f"waits for branch {branch}", strict=True
    )
