"""R2: a node killed at any moment releases no bit twice, and burns at most what it had reserved.

A child process works on a store and prints every range as soon as it holds its bits; it is killed with SIGKILL
after a random number of lines.  Killing processes is a smoke test (what the kernel has is not lost); the proof
is the simulation of power loss.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.keystore.lanes import Lane
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.secret import SecretBits

KEK = Kek(b"k" * 32)
RESERVED_BITS = 997

CHILD = f"""
import itertools, os, sys
from pathlib import Path
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore

store = KeyStore.open(Path(sys.argv[1]), "alice", Kek(b"k" * 32))
for n in itertools.count():
    context = os.urandom(32)
    taken = store.propose_reservation("bob", "mask", {RESERVED_BITS}, context)
    store.commit_reservation("bob", "mask", taken, context)
    store.release("bob", "mask", taken, context)
    print("mask", taken.start, taken.n_bits, flush=True)
    offset, _ = store.auth("bob").take_outgoing(64)
    print("auth_ab", offset, 64, flush=True)
"""


def run_and_kill(path: Path, lines: int) -> list[tuple[str, int, int]]:
    """What the child had printed when it was gone."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    seen = [child.stdout.readline() for _ in range(lines)]
    child.kill()
    seen += child.stdout.readlines()
    child.wait(timeout=30)
    child.stdout.close()
    return [
        (lane, int(start), int(size))
        for lane, start, size in (line.split() for line in seen if line.endswith("\n"))
    ]


def killed_many_times(folder: Path, kills: int, seed: int) -> None:
    path = folder / "alice.db"
    rng = np.random.default_rng(seed)
    with KeyStore.create(path, "alice", KEK) as store:
        store.install_initial_secret(
            "bob",
            SecretBits.from_bytes(rng.bytes(8192)),
            SecretBits.from_bytes(rng.bytes(8192)),
            pair_end="first",
        )
        store.deposit_pending("bob", "b1", SecretBits.from_bytes(rng.bytes(1 << 20)), b"")
        store.confirm_deposit("bob", "b1")
    used: list[tuple[str, int, int]] = []
    burnt = 0
    for _ in range(kills):
        used += run_and_kill(path, int(rng.integers(1, 12)))
        with KeyStore.open(path, "alice", KEK) as store:
            ledger = store.ledger("bob")
            assert ledger.burnt - burnt <= RESERVED_BITS
            burnt = ledger.burnt
            for lane in (Lane.MASK, Lane.AUTH_AB):
                ranges = sorted((start, size) for name, start, size in used if name == lane)
                assert all(
                    start + size <= following for (start, size), (following, _) in itertools.pairwise(ranges)
                )
                assert store.lane_states("bob")[lane].head >= sum(ranges[-1])


def test_r2_killed_nodes_release_nothing_twice(tmp_path: Path) -> None:
    killed_many_times(tmp_path, kills=4, seed=1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_r2_a_hundred_kills(tmp_path: Path) -> None:
    killed_many_times(tmp_path, kills=100, seed=2)
