"""Two nodes that serve applications as their processes do: real stores and desks, links in memory, HTTPS for real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from key_delivery import SAES, KeyWorld

from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import load_testbed
from orchestrator.processes.node_https import serving


@dataclass
class ServedKeys:
    """Where the two nodes serve, and what their applications have in hand."""

    world: KeyWorld
    secrets: Path
    alice: str
    bob: str

    def files(self, sae: str) -> tuple[str, str, str]:
        """Certificate, private key and authority of an application."""
        folder = self.secrets / f"sae-{sae}"
        return str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "ca.pem")


@contextmanager
def served_keys(folder: Path, **rules: Any) -> Iterator[ServedKeys]:
    """alice serves app1; bob serves app2 and app3."""
    applications = {name: entry.user for name, entry in SAES.items()}
    file = create_folder(folder / "bench", template_path("simulated-reference"), applications=applications)
    testbed, secrets = load_testbed(file), file.parent / "secrets"
    with (
        KeyWorld(folder, **rules) as world,
        serving(testbed, "alice", world.desks["alice"], secrets / "alice", world.told.append) as alice,
        serving(testbed, "bob", world.desks["bob"], secrets / "bob", world.told.append) as bob,
    ):
        yield ServedKeys(world, secrets, alice, bob)
