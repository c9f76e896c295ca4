"""What a schema refused, said for the person who wrote the file: the path of each key, what is wrong, and what stands there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lab.quantities import unit_of

if TYPE_CHECKING:
    from lab.consistency import Mistake


def refused(error: ValidationError) -> list[Mistake]:
    """Every mistake that the schema found, as ``(path of the key, message)``."""
    return [(_place(item["loc"]), _explain(item)) for item in error.errors()]


def _place(loc: tuple[str | int, ...]) -> str:
    parts = ""
    for item in loc:
        parts += f"[{item}]" if isinstance(item, int) else f".{item}" if parts else str(item)
    return parts


def _explain(item: Any) -> str:
    message = "missing" if item["type"] == "missing" else str(item["msg"])
    shown = item.get("input")
    key = next((each for each in reversed(item["loc"]) if isinstance(each, str)), "")
    unit = f" {unit_of(key).label}".rstrip() if isinstance(shown, int | float) else ""
    return f"{message}{unit} (got {shown!r}{unit})" if isinstance(shown, str | int | float) else message
