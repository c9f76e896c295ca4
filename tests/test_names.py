"""One name, one thing: errors have names of their own, and words that stood for several things stand for one."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOFTWARE = ("lab", "orchestrator", "fl")
"""Rooms whose errors meet in one ``except``; those of the instruments' layer have a tree of their own."""
ONE_MEANING = {
    "Channel": "orchestrator/wire/channel.py",
    "Lease": "orchestrator/scheduling/leases.py",
    "Role": "orchestrator/wire/fields.py",
    "KeysShortError": "orchestrator/delivery/errors.py",
    "one_time_tag": "orchestrator/one_time_tags.py",
}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def defined(rooms: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(name, file) of everything that modules define at their top."""
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in tree_of(path).body:
                where = path.relative_to(ROOT).as_posix()
                if isinstance(node, ast.ClassDef | ast.FunctionDef):
                    yield node.name, where
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    yield node.target.id, where
                elif isinstance(node, ast.Assign):
                    yield from ((each.id, where) for each in node.targets if isinstance(each, ast.Name))


@pytest.mark.parametrize("rooms", [SOFTWARE, ("drivers",), ("sim_backends",)])
def test_errors_have_names_of_their_own(rooms: tuple[str, ...]) -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for name, where in defined(rooms):
        if name.endswith("Error"):
            places[name].append(where)
    assert places
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_words_stand_for_one_thing() -> None:
    found = [
        (name, where)
        for name, where in defined((*SOFTWARE, "drivers", "sim_backends"))
        if name in ONE_MEANING
    ]
    assert sorted(found) == sorted(ONE_MEANING.items())


def test_a_slot_is_a_pulse_and_a_ring_is_the_fibre() -> None:
    """A lease has a number; the modulus is a ring width."""
    for room, gone in (
        ("orchestrator/scheduling", "slot"),
        ("orchestrator/keystore", "slot"),
        ("fl", "ring_bits"),
        ("orchestrator/delivery", "ring_bits"),
    ):
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            names = {
                getattr(node, "id", getattr(node, "attr", getattr(node, "arg", "")))
                for node in ast.walk(tree)
            }
            assert gone not in names, path
