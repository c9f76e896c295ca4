"""``qunetlab keys TESTBED``: stock and ledger of the nodes of this machine; counts only, never bits.

A running node is asked at its control socket; the store of a stopped one is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from lab.runs.shown import echo
from lab.runs.testbeds.folder import SECRETS, STATE, FolderError, find_testbed, own_testbed
from lab.runs.testbeds.store_key import StoreKey
from lab.testbed import load_testbed
from orchestrator.events.status import pair_name
from orchestrator.wire.control_socket import Keys, PairKeys, Request

if TYPE_CHECKING:
    from orchestrator.keystore.store import KeyStore


class Store(PairKeys, frozen=True, kw_only=True, tag=False):
    """What a node holds with a peer, in bits, and whether the node runs."""

    node: str
    running: bool


class Stores(msgspec.Struct, frozen=True):
    """The stock of the nodes of this machine."""

    stores: list[Store]


def show_stock(path: Path, state: Path | None, as_json: bool, store_key: str = "file") -> int:
    """Print the ledger of every pair of every node found."""
    from orchestrator.processes.node_control import keys_of
    from orchestrator.wire.control_socket import ShowKeys

    asked: AskedNodes[Keys] = of_nodes(path, state, store_key, ShowKeys(), keys_of)
    found = asked.told
    if as_json:
        rows = [
            Store(node=keys.node, running=running, **msgspec.structs.asdict(pair))
            for keys, running in found
            for pair in keys.pairs
        ]
        echo(msgspec.json.encode(Stores(rows)).decode())
        return asked.tell_failed()
    for keys, running in found:
        for pair in keys.pairs:
            echo(_row(keys.node, pair, running))
    return asked.tell_failed()


T = TypeVar("T")


@dataclass(frozen=True)
class AskedNodes(Generic[T]):
    """What the nodes of a machine said, each with whether it runs, and the errors of those that said nothing."""

    told: list[tuple[T, bool]]
    failed: dict[str, Exception]

    def tell_failed(self) -> int:
        """Say who is missing from what was shown; the exit code of that, 0 where nobody is."""
        for user, error in self.failed.items():
            echo(f"{user} is not shown: {error}", err=True)
        unreached = any(isinstance(error, ConnectionError) for error in self.failed.values())
        return 3 if unreached else int(bool(self.failed))


def of_nodes(
    path: Path,
    state: Path | None,
    store_key: str,
    request: Request,
    of_store: Callable[[KeyStore], T],
    timeout_s: float = 30.0,
) -> AskedNodes[T]:
    """What every node of this machine says to ``request``; ``of_store`` asks the store of one that does not run.

    One that cannot be asked keeps nobody from seeing the others.  Raises FolderError where no node has a store here, and what is
    wrong with the first where none can be asked.
    """
    from orchestrator.keystore.errors import KeyStoreError
    from orchestrator.keystore.store import KeyStore
    from orchestrator.processes.node_store import STORE_FILE
    from orchestrator.wire.control_socket import ControlRefusedError, ask, listens

    testbed_path = find_testbed(path) if state else own_testbed(path)
    folder, secrets = state or testbed_path.parent / STATE, testbed_path.parent / SECRETS
    key = StoreKey.parse(store_key)
    told: list[tuple[T, bool]] = []
    failed: dict[str, Exception] = {}
    users = load_testbed(testbed_path).user_names()
    for user in users:
        store_path = folder / user / STORE_FILE
        try:
            if listens(folder / user):
                told.append((ask(folder / user, request, timeout_s), True))
            elif store_path.exists():
                with KeyStore.open(store_path, user, key.kek(user, secrets / user)) as store:
                    store.settle_home()
                    told.append((of_store(store), False))
        except (ControlRefusedError, KeyStoreError, OSError, ValueError) as error:
            failed[user] = error
    if failed and not told:
        raise next(iter(failed.values()))
    if not told:
        raise FolderError(no_node_here(users, secrets, f"no key store under {folder}"))
    return AskedNodes(told, failed)


def no_node_here(users: Sequence[str], secrets: Path, what: str) -> str:
    """What to do where nothing of a node was found: start one, or go to the machine that has one."""
    if any((secrets / user).is_dir() for user in users):
        return f"{what}; nodes create theirs on first start"
    return f"{what}, and no user's secrets in {secrets}: this machine runs no node; ask on the machines of {', '.join(users)}"


def _row(node: str, pair: PairKeys, running: bool) -> str:
    name = pair_name((node, pair.peer))
    lanes = ", ".join(f"{lane} {bits:,}" for lane, bits in pair.lanes.items())
    text = (
        f"{node} with {pair.peer} ({'running' if running else 'stopped'}): {lanes} bits in stock; produced"
        f" {pair.produced:,}, delivered {pair.delivered:,}, authentication {pair.authentication:,}, burnt"
        f" {pair.burnt:,}; {_epsilons(pair.epsilons)}; generation {pair.generation}"
    )
    if pair.kept:
        text += f"; {pair.kept} new secret waits for {pair.peer} to take its half"
    if pair.old_copy:
        whose = node if pair.old_copy == "self" else pair.peer
        text += f"; THE STORE OF {whose} WAS AN OLD COPY: find out who put it back, and see that nobody does"
    if pair.waits:
        text += (
            f"; MEETINGS WAIT FOR AN OPERATOR: find out what spends authentication key, renew it (`qunetlab keys"
            f" reseed {name} --new`), or let them go on (`qunetlab keys meet {name}`)"
        )
    elif pair.low:
        text += (
            f"; LOW ON AUTHENTICATION KEY: make more key soon, or renew it with `qunetlab keys reseed"
            f" {name} --new`"
        )
    return text


def _epsilons(sums: dict[str, float]) -> str:
    return (
        f"epsilons {sums['total']:.2g} (secrecy {sums['sec']:.2g}, correctness {sums['cor']:.2g} over "
        f"{sums['blocks']:,} blocks, authentication {sums['auth']:.2g} over {sums['tags']:,} tags checked here)"
    )
