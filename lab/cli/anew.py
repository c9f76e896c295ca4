"""``init --anew`` and ``keys replace``: a role whose machine is lost, at the machine that makes its keys and at every other.

``keys replace`` does on one machine all that has to be done there: the old keys are refused for good by every process that would
serve them, where a user begins anew each node of this machine takes a new secret with it, whose other half is left to be carried
to the user, and at last the new ones come into the testbed file.  It can be repeated until all of it is done; then it does
nothing more, for a process that was started with a new key would take that for the one to be refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from lab.agreed import agreed_on
from lab.cli.options import show
from lab.cli.reseed import draw_secrets, next_generation, secret_files, take_secret_file
from lab.cli.revoke import refuse_key
from lab.runs.certificates.signing_key import Passphrase
from lab.runs.shown import echo
from lab.runs.testbeds.anew import NewKeys, begin_anew, read_new_keys, with_new_keys
from lab.runs.testbeds.folder import FolderError, check_down
from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed
from orchestrator.durable import replace_file
from orchestrator.events.status import pair_name


def make_anew(
    folder: Path,
    roles: Sequence[str],
    to: Path | None,
    passphrase: str | None,
    authority: Passphrase | None,
    as_json: bool,
) -> None:
    """Fresh keys in a parcel; ``FOLDER-ROLE-anew.tar`` beside the folder unless told."""
    place = to or folder.absolute().with_name(f"{folder.absolute().name}-{'-'.join(roles)}-anew.tar")
    made = begin_anew(folder, roles, place, passphrase, authority)
    text = (
        f"{made.parcel} holds new keys of {' and '.join(made.roles)} (0600), for the new machine:\n"
        f"  qunetlab init {folder.name} --import {made.parcel.name}\n"
        f"{made.public} holds their public halves, for every other machine, this one as well:\n"
        f"  qunetlab keys replace {made.public.name} --testbed {folder.name}\n"
        "The old keys are valid until that was done everywhere."
    )
    for user in made.uncertified:
        text += f"\n{user}'s node serves applications and has no certificate: `qunetlab sae request {user} --kme` on its new machine"
    answer = {
        "parcel": str(made.parcel),
        "public": str(made.public),
        "roles": list(made.roles),
        "without_certificate": list(made.uncertified),
    }
    show(answer, as_json, text)


def replace_keys(file: Path, out: Path, testbed: Path, state: Path | None) -> int:
    """Take new public keys in on this machine; 1 if a process that serves an old one could not be told."""
    machine = Machine(testbed, state)
    check_down(machine.path.parent)
    told = read_new_keys(file)
    late = {role: key for role, key in told.keys.items() if machine.testbed.keys.get(role) != key.new}
    if not late:
        echo(
            f"{machine.path} has the new keys of {', '.join(told.keys)} already: nothing is left to do here."
        )
        return 0
    told = msgspec.structs.replace(told, keys=late)
    text = with_new_keys(machine.path.read_text(encoding="utf-8"), machine.path, told)
    nodes = _nodes_here(machine, told)
    failed = 0
    for role, key in told.keys.items():
        failed += refuse_key(machine, role, key.was).failed
    if failed:
        echo("The testbed file was left as it is: repeat the command once they can be told.", err=True)
        return 1
    halves = [_renewed(machine, user, node, out, testbed, state) for user, node in nodes]
    replace_file(machine.path, text.encode())
    echo(f"{machine.path} has the new keys of {', '.join(told.keys)}.")
    for half in halves:
        echo(f"{half} (0600; whoever copies it can forge their messages)")
    echo("Start every role of this machine again.")
    echo(
        f"{agreed_on(load_testbed(machine.path)).digest}: what `qunetlab check` must show on every machine of the ring"
    )
    return 0


def _nodes_here(machine: Machine, told: NewKeys) -> list[tuple[str, str]]:
    """(user that begins anew, node of this machine that has a store with it); raises FolderError for one that does not run."""
    from orchestrator.processes.node_store import STORE_FILE
    from orchestrator.wire.control_socket import listens

    users = machine.testbed.user_names()
    nodes = [name for name in users if name not in told.keys and (machine.folder(name) / STORE_FILE).exists()]
    lost = [name for name in users if name in told.keys]
    for node in nodes if lost else ():
        if not listens(machine.folder(node)):
            raise FolderError(
                f"{node}'s node does not run, and is to take a new secret with {' and '.join(lost)}: start it, then repeat the command; "
                "nothing was changed"
            )
    return [(user, node) for user in lost for node in nodes]


def _renewed(machine: Machine, user: str, node: str, out: Path, testbed: Path, state: Path | None) -> str:
    """Have ``node`` take a new secret with ``user``; what is to be done with the other half."""
    from orchestrator.keystore.pair_secret import PairSecret

    first, second = machine.pair(f"{node}:{user}")
    files = secret_files((first, second), out)
    if not files[user].exists():
        draw_secrets((first, second), files, next_generation(machine, first, second))
    else:  # of a command that was interrupted
        left = PairSecret.read(files[user])
        left.wipe()
        if left.generation != next_generation(machine, first, second):
            raise FolderError(
                f"{files[user]} is there already, of another generation: move it away, or choose another --out"
            )
    if files[node].exists():
        take_secret_file(f"{first}:{second}", files[node], testbed, state)
    pair = pair_name((first, second))
    return f"Carry {files[user]} to {user}'s new machine: `qunetlab keys reseed {pair} --secret {files[user].name}`"
