"""``qunetlab keys TESTBED``: stock and ledger of the nodes of this machine; counts only, never bits.

A running node is asked at its control socket; the store of a stopped one is opened here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from lab.runs.shown import echo
from lab.runs.testbeds.folder import SECRETS, STATE, FolderError, find_testbed, own_testbed
from lab.runs.testbeds.store_key import StoreKey
from lab.testbed import Testbed, load_testbed
from orchestrator.events.status import pair_name
from orchestrator.wire.control_socket import Keys, PairKeys


class Store(PairKeys, frozen=True, kw_only=True, tag=False):
    """What a node holds with a peer, in bits, and whether the node runs."""

    node: str
    running: bool


class Stores(msgspec.Struct, frozen=True):
    """The stock of the nodes of this machine."""

    stores: list[Store]


def show_stock(path: Path, state: Path | None, as_json: bool, store_key: str = "file") -> int:
    """Print the ledger of every pair of every node found."""
    testbed_path = find_testbed(path) if state else own_testbed(path)
    folder = state or testbed_path.parent / STATE
    key = StoreKey.parse(store_key)
    found = list(_nodes(load_testbed(testbed_path), testbed_path.parent / SECRETS, folder, key))
    if not found:
        raise FolderError(f"no key store under {folder}; nodes create theirs on first start")
    if as_json:
        rows = [
            Store(node=keys.node, running=running, **msgspec.structs.asdict(pair))
            for keys, running in found
            for pair in keys.pairs
        ]
        echo(msgspec.json.encode(Stores(rows)).decode())
        return 0
    for keys, running in found:
        for pair in keys.pairs:
            echo(_row(keys.node, pair, running))
    return 0


def _nodes(testbed: Testbed, secrets: Path, folder: Path, key: StoreKey) -> Iterator[tuple[Keys, bool]]:
    """The keys of every node of this machine, and whether it runs."""
    from orchestrator.keystore.store import KeyStore
    from orchestrator.processes.node_control import keys_of
    from orchestrator.processes.node_store import STORE_FILE
    from orchestrator.wire.control_socket import ShowKeys, ask, listens

    for user in testbed.user_names():
        store_path = folder / user / STORE_FILE
        if listens(folder / user):
            yield ask(folder / user, ShowKeys()), True
        elif store_path.exists():
            with KeyStore.open(store_path, user, key.kek(user, secrets / user)) as store:
                yield keys_of(store), False


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
