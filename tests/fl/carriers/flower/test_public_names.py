"""What we take from Flower: names that it makes public, of releases that our tests have run with."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")

import fl.carriers.flower

ROOT = Path(fl.carriers.flower.__file__).parents[3]
ROOMS = ("lab", "drivers", "orchestrator", "fl", "sim_backends")
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.clientapp.mod", "flwr.serverapp", "flwr.serverapp.strategy"}
"""The packages whose contents Flower documents; what they export stands in their ``__all__``."""


def taken_from_flower(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every import of Flower's in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
            found += [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "flwr"]
    return found


def test_the_product_takes_public_names_only() -> None:
    taken = {
        (str(path.relative_to(ROOT)), *what)
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for what in taken_from_flower(path)
    }
    assert len(taken) > 20
    private = [
        (path, module, name)
        for path, module, name in sorted(taken)
        if module not in PUBLIC or name not in import_module(module).__all__
    ]
    assert not private


def test_flower_is_bounded_by_the_release_that_was_tested() -> None:
    """The pin is what CI ran; the bound lets its patch releases in and no minor one that nobody has tried."""
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["flower"]
    bound = re.fullmatch(r"flwr\[simulation\]>=1\.41,<(\d+)\.(\d+)", extra[0])
    pin = re.search(r"^flwr==(\d+)\.(\d+)\.\d+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert bound, extra
    assert pin
    assert (int(bound[1]), int(bound[2])) == (int(pin[1]), int(pin[2]) + 1)
    assert tuple(map(int, version("flwr").split(".")[:2])) < (int(bound[1]), int(bound[2]))
