"""How commands name a testbed: bundled name, file or folder, one type for all of them; and words in another order.

What a name means is :func:`lab.runs.testbeds.folder.named_testbed`'s to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.runs.testbeds.folder import BUNDLED, TESTBED_FILE, named_testbed

if TYPE_CHECKING:
    ParamType = click.ParamType[Path]
else:
    ParamType = click.ParamType  # no generic before click 8.4


class TestbedName(ParamType):
    """Any name of a testbed, as the path of its file; that it is there is said when the command reads it."""

    name = "testbed"
    __test__ = False

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The file that is meant."""
        return named_testbed(str(value))


TESTBED = TestbedName()
TESTBED_HELP = "Bundled testbed, testbed file or its folder"


def known_testbeds(incomplete: str) -> list[str]:
    """What a shell offers for the beginning of a name: bundled ones, then testbed folders and files that lie there."""
    path = Path(incomplete)
    folder = path if incomplete.endswith("/") else path.parent
    here = [each.parent for each in folder.glob(f"*/{TESTBED_FILE}")] + [*folder.glob("*.toml")]
    return [name for name in (*BUNDLED, *sorted(map(str, here))) if name.startswith(incomplete)]


def is_testbed(name: str) -> bool:
    """Whether there is a testbed of that name."""
    return named_testbed(name).is_file()


def told_apart(word: str, testbed: Path) -> tuple[str, Path]:
    """A user or role and a testbed that were given in either order."""
    if is_testbed(word) and not is_testbed(str(testbed)):
        return str(testbed), named_testbed(word)
    return word, testbed


def users_and_testbed(words: Sequence[str], testbed: Path | None) -> tuple[str, Path | None]:
    """The pair that ``words`` name, as ``alice bob`` or ``alice-bob``, and the testbed if it stands among them.

    Raises ValueError saying what to write.
    """
    places = [word for word in words if is_testbed(word)]
    users = [word for word in words if word not in places]
    if len(users) not in (1, 2) or len(places) + (testbed is not None) > 1:
        raise ValueError(
            f"got {' '.join(words) or 'nothing'}: name the two users of one pair, such as alice bob, and at most one"
            " testbed (bundled name, file or folder; a user's name is none of these here)"
        )
    return ":".join(users), named_testbed(places[0]) if places else testbed
