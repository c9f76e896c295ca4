"""Every command line that README and pages show is one that the command line takes; ``tests/integration`` runs them."""

from __future__ import annotations

import shlex

import click
import pytest
import typer
from pages_commands import SHOWN

from lab.cli.examples import EXAMPLES, PANELS, commands_of
from lab.cli.main import app

COMMAND: click.Command = typer.main.get_command(app)


def take(line: str) -> None:
    """Parse it as it would be run; raises click.ClickException where it would be refused."""
    command = COMMAND
    name, *words = (word for word in shlex.split(line, comments=True) if word != "...")
    context = command.make_context(name, words)
    while isinstance(command, click.Group):
        # A group may put the name of its default command in front, so its own parsing is what counts.
        found_name, found, words = command.resolve_command(context, [*context.protected_args, *context.args])
        assert found is not None
        command, name = found, found_name or name
        context = command.make_context(name, words, parent=context)


@pytest.mark.filterwarnings("ignore:'protected_args' is deprecated")
@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_every_command_of_the_pages_is_taken(page: str, line: str) -> None:
    take(line)


def test_the_pages_show_commands_and_a_wrong_one_is_refused() -> None:
    assert len(SHOWN) > 40
    with pytest.raises(click.ClickException):
        take("qunetlab calibrate --from ring")


def test_every_help_page_ends_with_examples_that_are_taken() -> None:
    named = dict(commands_of(app))
    assert set(named) == set(EXAMPLES)
    for path, lines in EXAMPLES.items():
        assert all(line in str(named[path].epilog) for line in lines)
        for line in lines:
            take(line)
            assert line.startswith(f"qunetlab {path.removesuffix(' list').removesuffix(' show')}")


def test_every_command_has_its_group_on_the_top_page() -> None:
    grouped = set(" ".join(PANELS.values()).split())
    assert {path.split()[0] for path, _ in commands_of(app)} <= grouped
