"""The rooms of the house and which may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("drivers", "sim_backends", "lab", "orchestrator", "fl")

LEAVES = tuple(
    "orchestrator." + leaf
    for leaf in (
        "wire",
        "events",
        "bits",
        "secret",
        "durable",
        "wall_clock",
        "runtime",
        "randomness",
        "core_files",
        "kernels",
        "one_time_tags",
        "records",
        "decoding",
        "metrics",
        "log_context",
    )
)
ALLOWED: dict[str, tuple[str, ...]] = {
    "drivers": ("drivers",),
    "sim_backends": ("sim_backends", "drivers.links"),
    "lab": ("lab", "drivers", "orchestrator.protocols.catalogue", *LEAVES),
    "orchestrator": ("orchestrator", "lab", "drivers"),
    "fl": ("fl", "orchestrator.delivery", *LEAVES),
}
FRONT_DOORS = ("lab.cli", "lab.dashboard", "lab.runs", "lab.bench")
EXCEPTIONS = {
    "sim_backends.bench": ("lab.testbed", "drivers.catalogue"),
    "sim_backends.site": ("lab.needs",),
    "sim_backends.optics_hidden": ("lab.testbed", "lab.needs"),
    "sim_backends.survey": ("lab.testbed", "lab.needs", "orchestrator.light.carving"),
    "sim_backends.optics_kernel": ("orchestrator.kernels",),
}
"""The bench reads the testbed file that it simulates, finds twins in the catalogue, and compiles its kernels as all do;
a survey finds out what the file is to say about the ring and what the relay plays into its carver."""

FLOORS = tuple(
    "orchestrator." + room
    for room in [
        "protocols",
        "keystore",
        "hub",
        "light",
        "scheduling",
        "postprocessing",
        "delivery",
        "processes",
    ]
)
"""The rooms of the orchestrator above its leaves, from the ground up."""

LEARNING: dict[str, tuple[str, ...]] = {
    "fl.circuits": (),
    "fl.keys": (),
    "fl.modes": ("fl.keys",),
    "fl.rounds": ("fl.keys", "fl.modes", "fl.workloads"),
    "fl.carriers.zeromq": ("fl.keys", "fl.modes", "fl.rounds", "fl.workloads"),
    "fl.carriers.flower": ("fl.keys", "fl.modes", "fl.rounds", "fl.workloads"),
    "fl.carriers.in_process": ("fl.keys", "fl.modes", "fl.rounds", "fl.workloads"),
}
"""The rooms of learning below experiments and QPU, with those of the others that each may import."""


def inside(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def modules(room: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((ROOT / room).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def loaded(path: Path) -> Iterator[str]:
    """What a module imports when it runs, sooner or later: all but what it imports for the type checker alone."""
    tree = parsed(path)
    for_types = {
        id(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for each in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) not in for_types:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every set of modules that import each other, directly or by way of others."""
    reached: dict[str, set[str]] = {}
    for name in graph:
        seen: set[str] = set()
        todo = [name]
        while todo:
            for each in graph[todo.pop()] - seen:
                seen.add(each)
                todo.append(each)
        reached[name] = seen
    found = {
        tuple(sorted(other for other in seen if name in reached[other]))
        for name, seen in reached.items()
        if name in seen
    }
    return sorted(map(list, found))


@cache
def imports(path: Path) -> tuple[str, ...]:
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                path_of = ROOT.joinpath(*node.module.split("."), alias.name)
                inner = path_of.is_dir() or path_of.with_suffix(".py").is_file()
                yield f"{node.module}.{alias.name}" if inner else node.module


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    seen = 0
    for name, path in modules(room):
        if inside(name, FRONT_DOORS):
            continue
        for imported in imports(path):
            seen += 1
            if inside(imported, ROOMS):
                allowed = ALLOWED[room] + EXCEPTIONS.get(name, ())
                assert inside(imported, allowed), f"{name} imports {imported}"
    assert seen


def test_nothing_imports_the_front_doors() -> None:
    for room in ROOMS:
        for name, path in modules(room):
            if not inside(name, FRONT_DOORS):
                for imported in imports(path):
                    assert not inside(imported, FRONT_DOORS), f"{name} imports {imported}"


def test_runs_are_made_and_followed_without_the_commands() -> None:
    for name, path in modules("lab"):
        if inside(name, ("lab.runs",)):
            assert not any(inside(imported, ("lab.cli", "lab.dashboard")) for imported in imports(path)), name


def test_no_modules_import_each_other() -> None:
    places = dict(entry for room in ROOMS for entry in modules(room))
    graph: dict[str, set[str]] = {}
    for name, path in places.items():
        named = {each if each in places else each.rpartition(".")[0] for each in loaded(path)}
        graph[name] = {each for each in named if each in places and each != name}
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]
    assert circles(graph) == []


def loaded_at_once(name: str, places: dict[str, Path]) -> set[str]:
    """What is loaded, of ours and of others, when the module is imported."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        each = todo.pop()
        if each in places and each not in seen:
            for node in parsed(places[each]).body:
                if isinstance(node, ast.Import):
                    todo += [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            todo += [each.rpartition(".")[0]]
        seen.add(each)
    return seen


def test_processes_of_a_ring_start_without_what_they_may_never_call() -> None:
    """A ring has half a dozen that start together, and each of these libraries takes a third of a second of each."""
    places = dict(entry for room in ROOMS for entry in modules(room))
    for process, spared in {
        "orchestrator": ("orchestrator.kernels", "qcodes", "scipy", "matplotlib"),
        "relay": ("scipy", "matplotlib"),
        "node": ("scipy", "matplotlib"),
        "pair_worker": ("qcodes", "scipy", "matplotlib"),
    }.items():
        found = loaded_at_once(f"orchestrator.processes.{process}", places)
        assert "orchestrator.secret" in found
        assert not {each for each in found if inside(each, spared)}, process


def test_a_module_has_at_most_five_hundred_lines() -> None:
    for room in ROOMS:
        for name, path in modules(room):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, name


def test_each_room_of_the_orchestrator_imports_only_those_below_it() -> None:
    seen = set()
    for name, path in modules("orchestrator"):
        if name == "orchestrator":
            continue
        room = ".".join(name.split(".")[:2])
        below = FLOORS[: FLOORS.index(room) + 1] if room in FLOORS else ()
        seen.add(room)
        for imported in imports(path):
            if inside(imported, ("orchestrator",)):
                assert inside(imported, LEAVES + below), f"{name} imports {imported}"
    assert seen == {*LEAVES, *FLOORS}


def test_protection_knows_no_rounds_and_rounds_know_no_carrier() -> None:
    seen = 0
    for name, path in modules("fl"):
        room = next((each for each in LEARNING if inside(name, (each,))), None)
        for imported in imports(path):
            if room and inside(imported, ("fl",)):
                seen += 1
                assert inside(imported, (room, *LEARNING[room])), f"{name} imports {imported}"
    assert seen


def test_only_simulation_knows_that_an_instrument_is_simulated() -> None:
    for room in ("drivers", "lab", "orchestrator", "fl"):
        for name, path in modules(room):
            if not inside(name, FRONT_DOORS):
                assert not any(inside(imported, ("sim_backends",)) for imported in imports(path)), name


def test_kernels_are_compiled_through_the_one_door() -> None:
    """A bare ``numba.njit`` would break imports where nothing can be written."""
    asking = {
        name
        for room in ROOMS
        for name, path in modules(room)
        for imported in imports(path)
        if inside(imported, ("numba",))
    }
    assert asking == {"orchestrator.kernels"}


def test_zeromq_stands_behind_links_and_in_the_drivers_that_speak_it() -> None:
    users = {
        name
        for room in ("lab", "orchestrator", "fl")
        for name, path in modules(room)
        if any(inside(each, ("zmq",)) for each in imports(path))
    }
    assert users == {f"orchestrator.wire.{name}" for name in ("connections", "curve", "zeromq")}


def test_a_workload_is_known_in_its_own_folder_alone() -> None:
    """Whoever adds one adds a folder: nothing else names it, and none leans on another's."""
    workloads = {path.parent.name for path in (ROOT / "fl" / "workloads").glob("*/__init__.py")}
    assert {"digits", "mnist"} <= workloads
    for room in ROOMS:
        for name, path in modules(room):
            for imported in imports(path):
                for workload in workloads:
                    home = (f"fl.workloads.{workload}",)
                    assert not inside(imported, home) or inside(name, home), f"{name} imports {imported}"
