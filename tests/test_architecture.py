"""Imports go one way, recon <- phantoms <- node, and recon touches neither disk, network, clock nor log."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("recon", "phantoms", "node")

# What a module of recon may import from outside: arrays in, arrays out.
NUMERICS = {"numpy", "scipy", "numba"}
PURE_STDLIB = {
    "__future__", "abc", "collections", "copy", "dataclasses", "enum", "functools", "heapq", "itertools",
    "math", "operator", "types", "typing",
}  # fmt: skip
IMPORTED_AS = {"pillow": "PIL"}
IMPURE_CALLS = {"open", "print", "input"}


def modules(package: str) -> list[Path]:
    """Every module of a package, which must exist."""
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no module in {package}"
    return found


def imports(source: str) -> set[str]:
    """Top-level names of everything that a source text imports, wherever in the text."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import hides the direction"
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize(("package", "forbidden"), [("recon", {"phantoms", "node"}), ("phantoms", {"node"})])
def test_imports_go_one_way(package: str, forbidden: set[str]) -> None:
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in modules(package)
        if (found := imports(path.read_text("utf-8")) & forbidden)
    }
    assert wrong == {}


def test_recon_imports_numerics_only() -> None:
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in modules("recon")
        if (found := imports(path.read_text("utf-8")) - NUMERICS - PURE_STDLIB - {"recon"})
    }
    assert wrong == {}


def test_recon_neither_prints_nor_opens() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.func.id}()"
        for path in modules("recon")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS
    ]
    assert wrong == []


def test_phantoms_know_no_network_clock_or_log() -> None:
    banned = {"pynetdicom", "socket", "sqlite3", "time", "logging", "structlog", "highdicom"}
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in modules("phantoms")
        if (found := imports(path.read_text("utf-8")) & banned)
    }
    assert wrong == {}


def test_every_import_is_declared() -> None:
    """A module imports the standard library, ourselves or a dependency that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {re.split(r"[^A-Za-z0-9_.-]", line)[0].replace("-", "_") for line in project["dependencies"]}
    declared |= {IMPORTED_AS.get(name, name) for name in declared}
    wrong = {
        str(path.relative_to(ROOT)): unknown
        for package in OURS
        for path in modules(package)
        if (unknown := imports(path.read_text("utf-8")) - sys.stdlib_module_names - declared - set(OURS))
    }
    assert wrong == {}


@pytest.mark.parametrize("text", ["import node", "from node.jobs import run", "def f():\n    import node.x"])
def test_the_walker_sees_imports_everywhere(text: str) -> None:
    assert imports(text) == {"node"}
