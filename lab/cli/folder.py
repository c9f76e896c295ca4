"""A testbed folder on disk: the public file, and one secrets folder per role.

``testbed.toml``            public: topology, addresses, limits, public keys
``secrets/ROLE/curve.*``    the role's CURVE key pair
``secrets/USER/store.key``  key-encryption key of the user's key store
``secrets/USER/initial/PEER.secret``  initial authentication secret of a pair, removed once installed

Everything under ``secrets`` is 0600 in 0700 folders.  On a bench with several machines each role's folder
is carried to its own machine and erased here.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from lab.testbed import AUTO, TestbedError, load_testbed, parse_testbed, write_testbed
from orchestrator.durable import create_file
from orchestrator.randomness import random_bytes

TESTBED_FILE = "testbed.toml"
SECRETS = "secrets"
FIRST_PORT = 47600
"""Where the ports of hub, learning server and key delivery begin unless told otherwise."""

TEMPLATES = ("simulated-four-node", "simulated-reference")


class FolderError(Exception):
    """A testbed folder that cannot be created or used as it is."""


def template_path(name: str) -> Path:
    """The bundled testbed file of that name."""
    if name not in TEMPLATES:
        raise FolderError(f"no bundled testbed {name!r}; there are {', '.join(TEMPLATES)}")
    return Path(str(files("lab") / "testbeds" / f"{name}.toml"))


def create_folder(folder: Path, source: Path, *, host: str | None = None, port: int = FIRST_PORT) -> Path:
    """Make ``folder`` with a copy of the testbed at ``source``, fresh keys and initial secrets.

    With ``host``, endpoints that are still ``auto`` get ports from ``port`` on: hub and learning server at
    that host, every node's key delivery at localhost, since node and client share a machine.

    Returns the path of the new testbed file.  Raises FolderError if the folder already holds a testbed
    (nothing is overwritten), TestbedError if ``source`` has mistakes.
    """
    from orchestrator.keystore.pair_secret import SUFFIX, PairSecret
    from orchestrator.wire.curve import generate_keys, write_keys

    target = folder / TESTBED_FILE
    if target.exists() or (folder / SECRETS).exists():
        raise FolderError(f"{folder} already holds a testbed; choose another folder or remove it first")
    testbed = load_testbed(source)
    data = tomllib.loads(source.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    secrets_dir = folder / SECRETS
    secrets_dir.mkdir(mode=0o700)
    public: dict[str, str] = {}
    for role in testbed.roles():
        keys = generate_keys()
        role_dir = secrets_dir / role
        role_dir.mkdir(mode=0o700)
        write_keys(role_dir, keys)
        public[role] = keys.public
    for user in testbed.user_names():
        create_file(secrets_dir / user / "store.key", random_bytes(32), 0o600)
        (secrets_dir / user / "initial").mkdir(mode=0o700)
    for first, second in testbed.pairs():
        shared = PairSecret.draw(first, second)
        shared.write(secrets_dir / first / "initial" / f"{second}{SUFFIX}")
        shared.write(secrets_dir / second / "initial" / f"{first}{SUFFIX}")
        shared.wipe()
    data["keys"] = public
    if host is not None:
        _fill_endpoints(data, host, port)
    parse_testbed(data, target)
    write_testbed(data, target)
    return target


def _fill_endpoints(data: dict[str, Any], host: str, port: int) -> None:
    """Replace every endpoint of ours that is ``auto`` or missing."""
    places = [(data.setdefault("hub", {}), "control", host), (data["hub"], "bulk", host)]
    places.append((data.setdefault("fl", {}), "server", host))
    places += [(user, "delivery", "127.0.0.1") for user in data["users"]]
    for number, (table, key, where) in enumerate(places):
        if table.get(key, AUTO) == AUTO:
            table[key] = f"tcp://{where}:{port + number}"


def find_testbed(path: Path) -> Path:
    """The testbed file itself, given the file or its folder."""
    path = path / TESTBED_FILE if path.is_dir() else path
    if not path.exists():
        raise TestbedError(path, [("", "no such file; `qunetlab init FOLDER` makes a new testbed")])
    return path
