"""``qunetlab keys reseed`` and ``keys meet``: a new out-of-band secret for a pair, and a meeting that waits.

``--new`` makes the secret once, as one file for each end.  Each file is carried to the machine of its end and given to
the running node there, which keeps it beside the old one and destroys the file.  Once both ends hold it they begin
with it by themselves.
"""

from __future__ import annotations

from pathlib import Path

from lab.runs.shown import echo
from lab.runs.testbeds.folder import FolderError
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import pair_name


def make_secrets(pair: str, out: Path, testbed: Path, state: Path | None) -> int:
    """Write the two files of a fresh secret into ``out`` (0600, never over another file)."""
    from orchestrator.durable import destroy_file
    from orchestrator.keystore.pair_secret import SUFFIX, PairSecret

    machine = Machine(testbed, state)
    first, second = machine.pair(pair)
    generation = _next_generation(machine, first, second)
    files = {end: out / f"{first}-{second}.for-{end}{SUFFIX}" for end in (first, second)}
    if existing := [str(path) for path in files.values() if path.exists()]:
        raise FolderError(f"{existing[0]} exists already; use it, move it away, or choose another --out")
    secret = PairSecret.draw(first, second, generation)
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
    echo(f"Made a new secret of {first} and {second} (0600; whoever copies it can forge their messages):")
    for end, path in files.items():
        echo(f"  on {end}'s machine: qunetlab keys reseed {pair_name((first, second))} --secret {path}")
    echo("Carry each file to its machine by a way you trust; the node there destroys it once it is taken.")
    return 0


def _next_generation(machine: Machine, first: str, second: str) -> int:
    """One more than the running nodes of this machine say; 0 (any) where none runs here."""
    from orchestrator.wire.control_socket import ShowKeys, ask, listens

    known = [0]
    for end, peer in ((first, second), (second, first)):
        if listens(machine.folder(end)):
            pairs = ask(machine.folder(end), ShowKeys()).pairs
            known += [pair.generation + 1 for pair in pairs if pair.peer == peer]
    return max(known)


def take_secret_file(pair: str, path: Path, testbed: Path, state: Path | None) -> int:
    """Give a file of ``--new`` to the running node that it is for."""
    from orchestrator.keystore.pair_secret import PairSecret
    from orchestrator.processes.node_store import INITIAL, no_file
    from orchestrator.wire.control_socket import TakeSecret, ask, listens

    machine = Machine(testbed, state)
    first, second = machine.pair(pair)
    try:
        secret = PairSecret.read(path)
    except FileNotFoundError:
        raise no_file(path) from None
    secret.wipe()
    secret.check_for(secret.holder, first, second, path)
    peer = second if secret.holder == first else first
    folder = machine.folder(secret.holder)
    if not listens(folder):
        raise FolderError(
            f"{secret.holder}'s node does not run on this machine ({folder}); start it, carry {path} to its machine,"
            f" or move it to secrets/{secret.holder}/{INITIAL}/{peer}.secret, where its next start takes it"
        )
    echo(ask(folder, TakeSecret(str(path.absolute()))).text)
    return 0


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
