"""Options in a file: TOML with the names of a table of options (:mod:`fl.experiments.options`), without dashes in front.

rounds = 20
clip-of = { "head.*" = 0.5 }
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from msgspec.inspect import DictType

from fl.experiments.options import OptionsError, Row


def options_in(path: Path, rows: Iterable[Row], command: str) -> dict[str, Any]:
    """What a file says, by the names of fields; ``command`` is whose help lists its options.

    Raises OptionsError naming every key that is no option, with the one that may be meant, and every value that cannot be.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionsError(f"{path} is no TOML: {error}") from error
    named = {row.name: row for row in rows}
    wrong, given = [], {}
    for key, value in data.items():
        if key not in named:
            near = get_close_matches(key.replace("_", "-"), named, 1)
            wrong.append(f"there is no option {key!r}" + (f"; is {near[0]} meant?" if near else ""))
            continue
        try:
            given[named[key].field] = _checked(named[key], value)
        except ValueError as error:
            wrong.append(f"{key} {error}")
    if wrong:
        raise OptionsError("\n  ".join([f"{path}: `{command} --help` lists the options;", *wrong]))
    return given


def _checked(row: Row, value: object) -> object:
    """A value of the file as the field holds it; ValueError going on from its name."""
    from fl.rounds.settings import canonical, refusal

    if isinstance(row.kind, DictType):
        if not isinstance(value, dict):
            raise ValueError(f"is {value!r}: it must be a table of arrays and their clips")
        clips = {name: canonical(row.kind.value_type, each) for name, each in value.items()}
        if low := [
            name for name, clip in clips.items() if not (isinstance(clip, float) and 0 <= clip < math.inf)
        ]:
            raise ValueError(
                f"has {low[0]} = {value[low[0]]}: a clip is a number of at least 0 (0: not in the sum)"
            )
        return clips or None
    settled = canonical(row.kind, value)
    if why := refusal(row.kind, settled):
        raise ValueError(why)
    return settled
