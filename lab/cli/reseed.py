"""``qunetlab keys reseed`` and ``keys meet``: a new out-of-band secret for a pair, and a meeting that waits.

``--new`` makes the secret once, as one file for each end.  Each file is carried to the machine of its end and given to
the running node there, which keeps it beside the old one and destroys the file.  Once both ends hold it they begin
with it by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lab.runs.shown import echo
from lab.runs.testbeds.folder import SECRETS, FolderError
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import pair_name

if TYPE_CHECKING:
    from orchestrator.keystore.pair_secret import PairSecret


def make_secrets(pair: str, out: Path, testbed: Path, state: Path | None) -> int:
    """Write the two files of a fresh secret into ``out`` (0600, never over another file)."""
    machine = Machine(testbed, state)
    first, second = machine.pair(pair)
    generation = next_generation(machine, first, second)
    files = secret_files((first, second), out)
    draw_secrets((first, second), files, generation)
    echo(f"Made a new secret of {first} and {second} (0600; whoever copies it can forge their messages):")
    for end, path in files.items():
        echo(f"  on {end}'s machine: qunetlab keys reseed {pair_name((first, second))} --secret {path}")
    echo("Carry each file to its machine by a way you trust; the node there destroys it once it is taken.")
    return 0


def draw_secrets(pair: tuple[str, str], files: Mapping[str, Path], generation: int) -> None:
    """Write the halves of a fresh secret of a pair (in ring order) where :func:`secret_files` says, both or none."""
    from orchestrator.durable import destroy_file
    from orchestrator.keystore.pair_secret import PairSecret

    if existing := [str(path) for path in files.values() if path.exists()]:
        raise FolderError(f"{existing[0]} exists already; use it, move it away, or choose another --out")
    secret = PairSecret.draw(*pair, generation)
    written: list[Path] = []
    try:
        for end, path in files.items():
            secret.write(path, end)
            written.append(path)
    except OSError:
        for path in written:
            destroy_file(path)
        raise
    finally:
        secret.wipe()


def secret_files(pair: tuple[str, str], out: Path) -> dict[str, Path]:
    """Where the halves of a pair (in ring order) lie once they are made, by the end that each is for."""
    from orchestrator.keystore.pair_secret import SUFFIX

    first, second = pair
    return {end: out / f"{first}-{second}.for-{end}{SUFFIX}" for end in pair}


def next_generation(machine: Machine, first: str, second: str) -> int:
    """One more than the running nodes of this machine say; 0 (any) where none runs here."""
    from orchestrator.wire.control_socket import ShowKeys, ask, listens

    known = [0]
    for end, peer in ((first, second), (second, first)):
        if listens(machine.folder(end)):
            pairs = ask(machine.folder(end), ShowKeys()).pairs
            known += [pair.generation + 1 for pair in pairs if pair.peer == peer]
    return max(known)


def take_secret_file(pair: str, path: Path, testbed: Path, state: Path | None) -> int:
    """Give a file of ``--new`` to the running node that it is for, or lay it where the next start of a node of this machine takes it."""
    from orchestrator.keystore.pair_secret import PairSecret
    from orchestrator.processes.node_store import no_file
    from orchestrator.wire.control_socket import TakeSecret, ask, listens

    machine = Machine(testbed, state)
    first, second = machine.pair(pair)
    try:
        secret = PairSecret.read(path)
    except FileNotFoundError:
        raise no_file(path) from None
    try:
        secret.check_for(secret.holder, first, second, path)
        peer = second if secret.holder == first else first
        folder = machine.folder(secret.holder)
        if listens(folder):
            echo(ask(folder, TakeSecret(str(path.absolute()))).text)
        else:
            _lay(secret, peer, path, machine)
    finally:
        secret.wipe()
    return 0


def _lay(secret: PairSecret, peer: str, path: Path, machine: Machine) -> None:
    """Move the file of a node that does not run to where its start looks for it."""
    from orchestrator.durable import destroy_file, make_folder
    from orchestrator.keystore.pair_secret import INITIAL, SUFFIX

    own = machine.path.parent / SECRETS / secret.holder
    if not own.is_dir():
        raise FolderError(
            f"{secret.holder}'s node is not on this machine ({own}): carry {path} to its machine"
        )
    place = own / INITIAL / f"{peer}{SUFFIX}"
    make_folder(place.parent)
    if place.exists() and place.read_bytes() != path.read_bytes():
        raise FolderError(
            f"{place} is there already, and is another secret: start {secret.holder}'s node, which takes it, then repeat the command"
        )
    if not place.exists():
        secret.write(place, secret.holder)
    destroy_file(path)
    echo(f"{place}: {secret.holder}'s node takes it with its next start")


def meet_now(pair: str, testbed: Path, state: Path | None) -> int:
    """Tell the running nodes of a pair on this machine to meet."""
    from orchestrator.wire.control_socket import MeetNow, ask, listens

    machine = Machine(testbed, state)
    first, second = machine.pair(pair)
    ends = [(a, b) for a, b in ((first, second), (second, first)) if listens(machine.folder(a))]
    if not ends:
        raise FolderError(f"neither {first}'s nor {second}'s node runs on this machine ({machine.state})")
    for end, peer in ends:
        echo(ask(machine.folder(end), MeetNow(peer)).text)
    return 0
