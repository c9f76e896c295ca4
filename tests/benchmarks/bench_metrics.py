"""What reading ``/metrics`` once a second costs the process that serves them, as a share of one core.

Run: python tests/benchmarks/bench_metrics.py [--users 4] [--readings 200]

A process of its own serves what a node serves that has a key store with every other user: stock, ledger and epsilons asked of
that store at every reading, blocks, alarms, links and the process itself.  Its processor time, by the operating system's
count, is divided by the readings; there are as many in a second as there are seconds.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

from measuring import Figure, emit

from lab.runs.addresses import LOOPBACK
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.watched.process import metrics_of, page_of
from lab.testbed import load_testbed, read_testbed, write_testbed
from orchestrator.events.common import Serving
from orchestrator.events.inside import HubLink, InstrumentState
from orchestrator.events.process import PeerLedger
from orchestrator.events.status import Alarm, BlockReport, Epsilons, LaneStock, Ready, Stock
from orchestrator.keystore.lanes import Lane
from orchestrator.keystore.store import KeyStore
from orchestrator.processes.node_store import open_node_store
from orchestrator.wire.links import LinkState

USERS, READINGS = 4, 200


def books_of(store: KeyStore) -> Callable[[], Iterator[PeerLedger | Epsilons]]:
    """What a node tells of its store at every reading."""

    def ask() -> Iterator[PeerLedger | Epsilons]:
        for peer in store.peers():
            ledger = {f"{name}_bits": bits for name, bits in asdict(store.ledger(peer)).items()}
            yield PeerLedger(peer, **ledger)
            yield Epsilons(peer, **asdict(store.epsilons(peer)))

    return ask


def serve(pipe: Connection, folder: Path) -> None:
    """Be the first user's node, as far as metrics go, until told to end; answers with its processor time, s."""
    testbed = load_testbed(folder / "testbed.toml")
    owner, *peers = testbed.user_names()
    state = folder / "state"
    state.mkdir(mode=0o700)
    with open_node_store(testbed, owner, folder / "secrets" / owner, state) as store:
        metrics = metrics_of(owner, testbed, state)
        for number, peer in enumerate(peers):
            pair = [user for user in testbed.user_names() if user in (owner, peer)]
            metrics.tell(
                BlockReport(1, number, pair[0], pair[1], True, secret_bits=5000, qber=0.01, f_ec=1.1)
            )
            metrics.tell(Alarm("low-water", "low", peer=peer))
        metrics.tell(Stock([LaneStock(peer, lane, 65280, 16384) for peer in peers for lane in Lane]))
        metrics.tell(HubLink(LinkState.UP))
        metrics.tell(Ready(True))
        metrics.tell(Serving(version="bench"))
        names = [entry.name for entry in testbed.instruments if entry.owner == owner]
        metrics.ask(books_of(store), lambda: [InstrumentState(name, True, 1.0) for name in names])
        page = page_of(metrics, LOOPBACK)
        assert page is not None
        with page:
            pipe.send(page.url)
            while pipe.recv():
                pipe.send(time.process_time())


def template_of(scratch: Path) -> Path:
    """The bundled testbed with stations that lose so little that a ring of many makes key: nothing here sends light."""
    data = read_testbed(template_path("simulated-four-node"))
    data["ring"]["bypass_loss_db"] = 0.05
    path = scratch / "template.toml"
    write_testbed(data, path)
    return path


def read(url: str) -> bytes:
    """The page."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def scraping(n_users: int = USERS, readings: int = READINGS) -> dict[str, Figure]:
    """The share, and what it was measured with."""
    ours, theirs = mp.get_context("spawn").Pipe()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bench"
        create_folder(folder, template_of(Path(scratch)), users=n_users)
        child = mp.get_context("spawn").Process(target=serve, args=(theirs, folder))
        child.start()
        url = ours.recv()
        text = read(url)  # what is loaded at the first reading is not what each costs
        spent_s = []
        for _ in range(2):
            ours.send(True)
            spent_s.append(ours.recv())
            if len(spent_s) == 1:
                for _ in range(readings):
                    text = read(url)
        ours.send(False)
        child.join()
    samples = sum(not line.startswith("#") for line in text.decode().splitlines())
    share = (spent_s[1] - spent_s[0]) / readings
    return {
        "metrics_share": {
            "value": share,
            "unit": "of a core",
            "users": n_users,
            "samples": samples,
            "bytes": len(text),
        }
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--readings", type=int, default=READINGS)
    given = parser.parse_args()
    for name, figure in scraping(given.users, given.readings).items():
        emit(name, **figure)


if __name__ == "__main__":
    main()
