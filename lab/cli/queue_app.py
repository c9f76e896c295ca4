"""The ``qunetlab queue`` commands: parse, call, print."""

from __future__ import annotations

import getpass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.completing import known_pairs
from lab.cli.options import FolderOption, Json, StatePath

if TYPE_CHECKING:
    from lab.runs.testbeds.machine import Machine
    from orchestrator.wire.queue_control import QueueRequest

queue_app = typer.Typer(
    no_args_is_help=True,
    help="The queue of the running orchestrator: key, calibrations, training runs, maintenance.",
)


class What(StrEnum):
    """What an entry is."""

    KEY = "key"
    RUN = "run"
    CALIBRATION = "calibration"
    MAINTENANCE = "maintenance"


Owner = Annotated[str | None, typer.Option("--owner", help="Who asks; default: the user of this machine.")]
Number = Annotated[int, typer.Argument(help="Number of the entry.")]
OptionalNumber = Annotated[
    int | None, typer.Argument(help="Number of the entry; the whole queue without it.")
]
DueIn = Annotated[str | None, typer.Option("--due-in", help="Wanted by then: such as 90s, 30m, 2h, 1d.")]
Priority = Annotated[
    int | None, typer.Option(help="-10 to 10; each step is worth a factor of two in length.")
]


def _who(owner: str | None) -> str:
    return owner or getpass.getuser()


@queue_app.command("add")
def add(
    what: Annotated[What, typer.Argument(help="key, run, calibration or maintenance.")],
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=known_pairs,
            help="The pair of key (alice-bob), users of a run (alice,bob,carol), or the steps.",
        ),
    ] = None,
    bits: Annotated[str | None, typer.Option(help="Bits for every pair, such as 250k or 1M.")] = None,
    until_stock: Annotated[
        bool, typer.Option("--until-stock", help="Until so many bits are in stock, rather than so many more.")
    ] = False,
    pair: Annotated[
        str | None, typer.Option(autocompletion=known_pairs, help="The pair that a calibration runs between.")
    ] = None,
    priority: Priority = None,
    due_in: DueIn = None,
    note: Annotated[str, typer.Option(help="What it is for; others see it.")] = "",
    owner: Owner = None,
    testbed: FolderOption = Path(),
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Put an entry into the queue: `add key alice-bob --bits 1M`, `add calibration phase visibility --pair alice-bob`
    (without steps: all that are missing or stale), `add run alice,bob,carol --bits 250k --until-stock`, `add maintenance --note "swap the laser"`."""
    from lab.cli.options import show
    from lab.cli.queue import ask_queue, bits_of, pairs_of, seconds_of, show_rows
    from lab.runs.testbeds.machine import Machine
    from orchestrator.wire.queue_control import AddEntry

    machine = Machine(testbed, state)
    makes_key = what in (What.KEY, What.RUN)
    named_here = targets or []
    if what is not What.CALIBRATION and len(named_here) != makes_key:
        raise typer.BadParameter(
            "name the pair of key, or the users of a run as one word; maintenance has none"
        )
    if makes_key != (bits is not None) or (until_stock and not makes_key):
        raise typer.BadParameter("key and runs are of --bits N, and nothing else is")
    if pair is not None and what is not What.CALIBRATION:
        raise typer.BadParameter("--pair is for a calibration")
    named = pair if what is What.CALIBRATION else named_here[0] if what is What.KEY else None
    pairs = pairs_of(machine, named_here[0]) if what is What.RUN else (machine.pair(named),) if named else ()
    steps = tuple(named_here) if what is What.CALIBRATION else ()
    if what is What.CALIBRATION and not steps and not (steps := _stale(machine, pairs)):
        show({"entries": []}, as_json, f"nothing that the queue can calibrate is stale for {pair}")
        return
    entry = AddEntry(
        _who(owner),
        what.value,
        pairs,
        bits_of(bits) if bits is not None else 0,
        until_stock,
        steps,
        priority or 0,
        None if due_in is None else seconds_of(due_in),
        note,
    )
    show_rows(ask_queue(machine, entry), as_json)


def _stale(machine: Machine, pairs: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """The steps of a pair that are to be done; what wants hands is told."""
    from lab.cli.queue import stale_steps
    from lab.runs.shown import echo

    if not pairs:
        raise typer.BadParameter("name the steps, or with --pair the pair whose stale ones are to be done")
    steps, by_hand = stale_steps(machine, pairs[0])
    if by_hand:
        echo(f"{', '.join(by_hand)}: not through the queue, but with `qunetlab calibrate`", err=True)
    return tuple(steps)


@queue_app.command("list")
def list_entries(
    closed: Annotated[int, typer.Option(min=0, help="Show so many of those that are over, too.")] = 0,
    testbed: FolderOption = Path(),
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """The entries in order, how far each is, when it may be ready, and why it waits."""
    from lab.cli.queue import ask_queue, show_rows
    from lab.runs.testbeds.machine import Machine
    from orchestrator.wire.queue_control import ShowQueue

    show_rows(ask_queue(Machine(testbed, state), ShowQueue(closed)), as_json)


@queue_app.command()
def hold(
    number: OptionalNumber = None,
    owner: Owner = None,
    testbed: FolderOption = Path(),
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Finish the block that is lit, then begin nothing more; holding all leaves the bench safe."""
    from orchestrator.wire.queue_control import HoldQueue

    _tell(HoldQueue(_who(owner), number), testbed, state, as_json)


@queue_app.command()
def resume(
    number: OptionalNumber = None,
    pair: Annotated[
        str | None,
        typer.Option(autocompletion=known_pairs, help="A pair that is suspended, such as alice-bob."),
    ] = None,
    owner: Owner = None,
    testbed: FolderOption = Path(),
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Go on with an entry, with a pair that is suspended, or with all."""
    from lab.runs.testbeds.machine import Machine
    from orchestrator.wire.queue_control import ResumeQueue

    if pair is not None and number is not None:
        raise typer.BadParameter("resume an entry or a pair, not both")
    named = None if pair is None else Machine(testbed, state).pair(pair)
    _tell(ResumeQueue(_who(owner), number, named), testbed, state, as_json)


@queue_app.command()
def abort(
    number: Number,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="End the maintenance of somebody else, who may be at the bench."),
    ] = False,
    owner: Owner = None,
    testbed: FolderOption = Path(),
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Take an entry out of the queue; its block ends at once.  Maintenance is given back so."""
    from orchestrator.wire.queue_control import AbortEntry

    _tell(AbortEntry(_who(owner), number, take_over), testbed, state, as_json)


@queue_app.command()
def move(
    number: Number,
    before: Annotated[int | None, typer.Option(help="Number of the entry that it goes before.")] = None,
    priority: Priority = None,
    due_in: DueIn = None,
    owner: Owner = None,
    testbed: FolderOption = Path(),
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Give an entry another place among equals, another priority or another due time."""
    from lab.cli.queue import ask_queue, seconds_of, show_rows
    from lab.runs.testbeds.machine import Machine
    from orchestrator.wire.queue_control import MoveEntry

    due_in_s = None if due_in is None else seconds_of(due_in)
    request = MoveEntry(_who(owner), number, before, priority, due_in_s)
    show_rows(ask_queue(Machine(testbed, state), request), as_json)


@queue_app.command()
def history(
    number: Annotated[int | None, typer.Argument(help="Of this entry; of all without it.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=5000, help="At most so many lines, the latest.")] = 100,
    testbed: FolderOption = Path(),
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """What happened, oldest first; of an orchestrator that does not run as well."""
    from lab.cli.queue import history as told
    from lab.cli.queue import show_history
    from lab.runs.testbeds.machine import Machine
    from orchestrator.wire.queue_control import ShowHistory

    show_history(told(Machine(testbed, state), ShowHistory(number, limit)), as_json)


def _tell(request: QueueRequest, testbed: Path, state: Path | None, as_json: bool) -> None:
    from lab.cli.options import show
    from lab.cli.queue import ask_queue
    from lab.runs.testbeds.machine import Machine

    done = ask_queue(Machine(testbed, state), request)
    show({"done": done.text}, as_json, done.text)
