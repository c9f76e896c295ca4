"""``qunetlab keys``: the ledgers of the key stores in a state folder; counts only, never bits.

A store has one owner at a time: while its node runs, ask the orchestrator with ``qunetlab status`` instead.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from lab.cli.folder import SECRETS, FolderError, find_testbed
from lab.testbed import load_testbed


def show_stock(path: Path, state: Path | None, as_json: bool) -> int:
    """Print the ledger of every pair of every store found."""
    from orchestrator.keystore.sealing import Kek
    from orchestrator.keystore.store import KeyStore
    from orchestrator.processes.node_store import STORE_FILE

    testbed_path = find_testbed(path)
    testbed = load_testbed(testbed_path)
    folder = testbed_path.parent
    rows: list[dict[str, Any]] = []
    for user in testbed.user_names():
        store_path = (state or folder / "state") / user / STORE_FILE
        if not store_path.exists():
            continue
        with KeyStore.open(store_path, user, Kek.from_file(folder / SECRETS / user / "store.key")) as store:
            for peer in store.peers():
                ledger = store.ledger(peer)
                epsilons = store.epsilons(peer)
                stock = {str(lane): bits for lane, bits in store.stock(peer).items()}
                rows.append(
                    {
                        "node": user,
                        "peer": peer,
                        "lanes": stock,
                        "produced": ledger.produced,
                        "delivered": ledger.delivered,
                        "authentication": ledger.authentication,
                        "burnt": ledger.burnt,
                        "epsilons": {**asdict(epsilons), "total": epsilons.total},
                    }
                )
    if not rows:
        raise FolderError(
            f"no key store under {state or folder / 'state'}; nodes create theirs on first start"
        )
    if as_json:
        typer.echo(json.dumps({"stores": rows}))
        return 0
    for row in rows:
        lanes = ", ".join(f"{lane} {bits:,}" for lane, bits in row["lanes"].items())
        typer.echo(
            f"{row['node']} with {row['peer']}: {lanes} bits in stock; produced {row['produced']:,}, "
            f"delivered {row['delivered']:,}, authentication {row['authentication']:,}, burnt {row['burnt']:,}; "
            f"{_epsilons(row['epsilons'])}"
        )
    return 0


def _epsilons(sums: dict[str, float]) -> str:
    return (
        f"epsilons {sums['total']:.2g} (secrecy {sums['sec']:.2g}, correctness {sums['cor']:.2g} over "
        f"{sums['blocks']:,} blocks, authentication {sums['auth']:.2g} over {sums['tags']:,} tags checked here)"
    )
