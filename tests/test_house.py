"""House rules that no other tool checks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mrsi_engine"
SOURCES = sorted((ROOT / PACKAGE).rglob("*.py"))
FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
MOST_LINES = 500

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_imports(tree: ast.AST) -> Iterator[str]:
    """Private names that a module takes from ours, and private names it asks of our modules."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            modules |= {alias.asname or alias.name for alias in node.names if alias.name.islower()}
            parts = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from (part for part in parts if is_private(part))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            yield from [f"{owner}.{node.attr}"] if owner in modules else []


def undocumented(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    for node in tree.body:
        setter = any(
            ast.unparse(d).endswith(".setter") for d in getattr(node, "decorator_list", [])
        )
        if isinstance(node, Documented) and not node.name.startswith("_") and not setter:
            if not ast.get_docstring(node):
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}.{name}" for name in undocumented(node))


def test_no_file_is_long():
    lines = {relative(file): len(file.read_text().splitlines()) for file in FILES}
    assert {file: n for file, n in lines.items() if n > MOST_LINES} == {}


def test_no_module_takes_a_private_name_of_another():
    found = {relative(file): list(private_imports(ast.parse(file.read_text()))) for file in SOURCES}
    assert {file: names for file, names in found.items() if names} == {}


def test_what_is_public_is_documented():
    found = {relative(file): list(undocumented(ast.parse(file.read_text()))) for file in SOURCES}
    assert {file: names for file, names in found.items() if names} == {}


def test_every_module_says_what_it_is_for():
    assert [relative(f) for f in SOURCES if not ast.get_docstring(ast.parse(f.read_text()))] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from mrsi_engine.kernels.hsvd import _plan", ["_plan"]),
        ("from mrsi_engine.kernels import hsvd\nhsvd._plan()", ["hsvd._plan"]),
        ("from mrsi_engine.kernels.hsvd import BandPlan\nself._plan, torch._C", []),
    ],
)
def test_private_names_are_found(source, expected):
    assert list(private_imports(ast.parse(source))) == expected


def test_missing_docstrings_are_found():
    source = 'def f(): ...\nclass A:\n    "Said."\n    def g(self): ...\n    def _h(self): ...'
    assert list(undocumented(ast.parse(source))) == ["f", "A.g"]
