"""Writes docs/configuration.md: every key of a testbed file, and every option of a driver, from the schema itself.

    python docs/scripts/configuration.py

Types, limits and defaults are pydantic's, units are those that a key's name ends in, plausible magnitudes those that the
file is held against, and the words are the ones that stand beside each key in ``lab/testbed.py``.  Options of drivers are
their constructors'.  A test says when the page is no longer what this writes.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from drivers.catalogue import OURS, driver_class
from drivers.options import in_words, option_types
from lab.quantities import Plausible, number, unit_of
from lab.testbed import Testbed

PAGE = Path(__file__).resolve().parents[1] / "configuration.md"
HEAD = """\
# The testbed file, key by key

One TOML file says what a ring is; every process reads the same one. This page is written by `docs/scripts/configuration.py` from
the schema that files are held against, so nothing on it is out of date; do not edit it. How each calibrated value is measured is
[at the bench](at-the-bench.md#the-testbed-file-and-how-each-calibrated-value-is-measured). `qunetlab check` tells every mistake of a file at
once, each with its place; a number outside its plausible magnitudes is refused with the unit in which it was probably meant.

A section in double brackets stands as often as there are such things. Values in `calibration.toml` beside the file take the place
of those in it.
"""
BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "multiple_of": "a multiple of {}",
}


def page() -> str:
    """The whole page."""
    top = [(name, field, words(Testbed)) for name, field in Testbed.model_fields.items()]
    plain = [(name, field, said) for name, field, said in top if section_of(field.annotation) is None]
    parts = [HEAD, "## At the top of the file\n", sentence(Testbed) + "\n", *table(plain)]
    for name, field, _ in top:
        section = section_of(field.annotation)
        if section is not None:
            parts += list(of_section(name, field, section))
    return "\n".join([*parts, *drivers()]).rstrip() + "\n"


def of_section(name: str, field: FieldInfo, section: type[BaseModel]) -> Iterator[str]:
    """One section and those inside it."""
    origin = get_origin(field.annotation)
    head = {tuple: f"[[{name}]]", dict: f"[{name}.NAME]"}.get(origin, f"[{name}]")
    yield f"\n## `{head}`\n"
    yield sentence(section) + (" *Required.*" if field.is_required() else "") + "\n"
    rows = [(key, each, words(section)) for key, each in section.model_fields.items()]
    yield from table([row for row in rows if section_of(row[1].annotation) is None])
    for key, each, _ in rows:
        inner = section_of(each.annotation)
        if inner is not None:
            yield from of_section(f"{name}.{key}", each, inner)


def table(rows: list[tuple[str, FieldInfo, dict[str, str]]]) -> Iterator[str]:
    """A row for each key."""
    yield "| key | value | default | what it is |"
    yield "|---|---|---|---|"
    for key, field, said in rows:
        default = "required" if field.is_required() else shown(field)
        yield f"| `{key}` | {value_of(key, field)} | {default} | {said.get(key, '')} |"


def value_of(key: str, field: FieldInfo) -> str:
    """Type, unit, bounds and plausible magnitudes of a key."""
    unit = unit_of(key).label
    said = [kind_of(field.annotation) + (f", {unit}" if unit else "")]
    for each in [*field.metadata, *(inner for arg in get_args(field.annotation) for inner in inside(arg))]:
        said += [
            text.format(number(getattr(each, name))) for name, text in BOUNDS.items() if hasattr(each, name)
        ]
        if isinstance(each, Plausible):
            said.append(f"plausible {number(each.low)} to {number(each.high)}")
    return "; ".join(dict.fromkeys(said))


def inside(annotation: Any) -> tuple[Any, ...]:
    """What an annotated type inside another one says of its values."""
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()


def kind_of(annotation: Any) -> str:
    """A type in words."""
    if get_origin(annotation) is Annotated:
        return kind_of(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{each}`" for each in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(
            dict.fromkeys(kind_of(each) for each in get_args(annotation) if each is not NoneType)
        )
    if get_origin(annotation) is tuple:
        kinds = [kind_of(each) for each in get_args(annotation) if each is not Ellipsis]
        many = "several: " if Ellipsis in get_args(annotation) else f"{len(kinds)} of: "
        return "list, " + many + " or ".join(dict.fromkeys(kinds))
    if get_origin(annotation) is dict:
        return f"table, each a {kind_of(get_args(annotation)[1])}"
    if get_origin(annotation) is list:
        return f"list of: {kind_of(get_args(annotation)[0])}"
    return {float: "number", int: "whole number", str: "text", bool: "true or false"}.get(
        annotation, str(annotation)
    )


def shown(field: FieldInfo) -> str:
    """A default as a file would have it."""
    value = field.default if field.default is not PydanticUndefined else field.default_factory()  # type: ignore[call-arg, misc]
    if value is None or value in ({}, ()):
        return "left out"
    if isinstance(value, tuple):
        return f"`[{', '.join(number(each) if isinstance(each, float) else str(each) for each in value)}]`"
    return f"`{number(value)}`" if isinstance(value, float) else f"`{value!r}`".replace("'", '"')


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a key holds, or holds several of."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := section_of(each))), None)


def words(section: type[BaseModel]) -> dict[str, str]:
    """The text that stands below a key of a section, or as a comment beside it, by key."""
    source = textwrap.dedent(inspect.getsource(section))
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    lines, said = source.splitlines(), {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said[node.target.id] = prose(str(after.value.value))
        elif "  # " in (line := lines[node.lineno - 1]):
            text = prose(line.partition("  # ")[2])
            said[node.target.id] = text[:1].upper() + text[1:] + "."
    return said


def sentence(section: type[BaseModel]) -> str:
    """What a section says of itself."""
    return prose(inspect.getdoc(section) or "")


def prose(text: str) -> str:
    """A docstring as Markdown: one paragraph, code as code, roles without their marks."""
    flat = " ".join(text.split()).replace("``", "`")
    for role in (":mod:", ":data:", ":class:", ":func:"):
        flat = flat.replace(role, "")
    return flat.replace("|", "\\|")


def drivers() -> Iterator[str]:
    """The models of the catalogue with the options of their drivers."""
    yield "\n## Models and their options\n"
    yield "`model` names a row of `drivers/catalogue.py`; `options` are what its driver takes."
    for row in sorted(OURS, key=lambda each: each.model):
        kinds = ", ".join(sorted(kind.name for kind in row.offers))
        ports = f", port {row.ports[0]}" if row.ports else ""
        yield f"\n### `{row.model}`\n\n{kinds}; address: {row.address.value}{ports}\n"
        options = option_types(driver_class(row.model))
        yield "\n".join(f"* `{name}`: {in_words(hint)}" for name, hint in options.items())


if __name__ == "__main__":
    sys.stdout.write(
        f"{PAGE} {'is as it was' if PAGE.exists() and PAGE.read_text() == page() else 'is written'}\n"
    )
    PAGE.write_text(page(), encoding="utf-8")
