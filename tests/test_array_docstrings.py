"""Public functions that take or return arrays say of what shape and type.

They say it in their docstring, their class's, or that of the alias which their arrays are of, as ``PackedBits`` does.
A shape is written in brackets, ``(n,)`` or ``(sets, observables)``, or said to be 1-d; a type is NumPy's name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("drivers", "sim_backends", "orchestrator", "fl")
ARRAY = re.compile(r"\b(NDArray|ndarray|Tensor)\b")
SHAPE = re.compile(r"\([^()]*,[^()]*\)|\b[0-3]-d\b|\b[Pp]acked\b|\bany shape\b")
TYPE = re.compile(r"\b(u?int(8|16|32|64)|float(32|64)|complex(64|128)|bool|[Pp]acked|numeric)\b")


def says(text: str) -> bool:
    return bool(SHAPE.search(text) and TYPE.search(text))


@cache
def tree_of(module: str) -> ast.Module | None:
    path = ROOT / (module.replace(".", "/") + ".py")
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None


@cache
def aliases(module: str) -> dict[str, str]:
    """Names of a module, imported ones too, that stand for an array type, and what is said of them."""
    tree = tree_of(module)
    body: list[ast.stmt] = [] if tree is None else tree.body
    found: dict[str, str] = {}
    for index, node in enumerate(body):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS:
            there = aliases(node.module)
            found |= {a.asname or a.name: there[a.name] for a in node.names if a.name in there}
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and ARRAY.search(ast.unparse(node.value)):
                after = body[index + 1] if index + 1 < len(body) else node
                found[target.id] = ast.unparse(after) if isinstance(after, ast.Expr) else ""
            elif isinstance(target, ast.Name) and ast.unparse(node.value) in found:
                found[target.id] = found[ast.unparse(node.value)]
    return found


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """(name, function, docstring of its class) of all that others may call."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node, ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and not part.name.startswith("_"):
                    yield f"{node.name}.{part.name}", part, ast.get_docstring(node) or ""


def mute(module: str) -> Iterator[str]:
    """Functions of a module with an array that neither they nor its alias describe; those without words inherit."""
    tree, known = tree_of(module), aliases(module)
    assert tree is not None
    for name, function, of_class in public_functions(tree):
        every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        notes = [arg.annotation for arg in every] + [function.returns]
        text = " ".join(ast.unparse(note) for note in notes if note is not None)
        used = [told for alias, told in known.items() if re.search(rf"\b{alias}\b", text)]
        own = ast.get_docstring(function)
        if own is None or not (used or ARRAY.search(text)):
            continue
        said = [own, of_class] if ARRAY.search(text) else [own, of_class, *used]
        if not says(" ".join(said)):
            yield f"{module}:{function.lineno} {name}"


def modules(room: str) -> Iterator[str]:
    for path in sorted((ROOT / room).rglob("*.py")):
        if path.name != "__init__.py":
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("room", ROOMS)
def test_shape_and_type_are_said(room: str) -> None:
    assert [each for module in modules(room) for each in mute(module)] == []


def test_arrays_are_found() -> None:
    assert set(aliases("orchestrator.bits")) == {"BitArray", "PackedBits"}
    assert says(aliases("orchestrator.postprocessing.amplification")["PackedBits"])
    assert (
        sum("NDArray" in ast.unparse(tree_of(module) or ast.Module([], [])) for module in modules("fl")) > 20
    )
