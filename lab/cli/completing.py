"""What a shell offers behind a command: users, roles and pairs of the testbed that the command line names so far.

That testbed is the one that stands in the command line, or else ``testbed.toml`` of the current folder; without either nothing is
offered.  A file that cannot be read offers nothing: a shell that completes is no place for errors.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import typer

from lab.cli.naming import is_testbed
from lab.runs.testbeds.folder import TESTBED_FILE, named_testbed
from orchestrator.events.status import RELAY, pair_name


def users_in_reach(context: typer.Context) -> list[str]:
    """The users of that testbed in ring order; empty where there is none."""
    try:
        data = tomllib.loads(_file(context).read_text(encoding="utf-8"))
        return [str(user["name"]) for user in data["users"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _file(context: typer.Context) -> Path:
    given: Any = context.params.get("testbed")
    named = [str(given)] if given else []
    named += [word for word in context.params.get("words") or () if is_testbed(word)]
    return named_testbed(named[0]) if named else Path(TESTBED_FILE)


def known_users(context: typer.Context, incomplete: str) -> list[str]:
    """Names of users."""
    return _beginning(users_in_reach(context), incomplete)


def known_roles(context: typer.Context, incomplete: str) -> list[str]:
    """The relay and the users: who owns instruments."""
    users = users_in_reach(context)
    return _beginning([RELAY, *users] if users else [], incomplete)


def known_pairs(context: typer.Context, incomplete: str) -> list[str]:
    """Pairs as commands take them."""
    return _beginning(map(pair_name, combinations(users_in_reach(context), 2)), incomplete)


def known_users_and_pairs(context: typer.Context, incomplete: str) -> list[str]:
    """Both, for commands that take ``alice bob`` as well as ``alice-bob``."""
    return [*known_users(context, incomplete), *known_pairs(context, incomplete)]


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
