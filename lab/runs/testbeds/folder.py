"""A testbed folder on disk: the public file, and one secrets folder per role.

``testbed.toml``            public: topology, addresses, limits, public keys
``secrets/ROLE/curve.*``    the role's CURVE key pair
``secrets/USER/store.key``  key-encryption key of the user's key store, or ``store.passphrase`` where it is derived
``secrets/USER/initial/PEER.secret``  initial authentication secret of a pair, removed once installed

Everything under ``secrets`` is 0600 in 0700 folders.  On a bench with several machines each role's folder
is carried to its own machine and erased here.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from lab.runs.testbeds.another_ring import another_ring
from lab.runs.testbeds.ring_size import with_users
from lab.runs.testbeds.store_key import KEY_FILE, PASSPHRASE_FILE
from lab.testbed import AUTO, Testbed, TestbedError, parse_testbed, read_testbed, write_testbed
from orchestrator.durable import create_file, destroy_folder, make_folder, move_file
from orchestrator.randomness import random_bytes

TESTBED_FILE = "testbed.toml"
SECRETS = "secrets"
STATE = "state"
"""What roles keep, beside the testbed file unless told otherwise."""
STAGING = ".qunetlab-init"
"""Where a testbed folder is made before it gets its place, whole."""
FIRST_PORT = 47600
"""Where the ports of hub, learning server and key delivery begin unless told otherwise."""

LAST_PORT = 65535

TEMPLATES = ("simulated-four-node", "simulated-reference", "simulated-full-bench")
EXAMPLE = "physical-ring-example"
"""A ring of real instruments, to be filled in: nothing of it can be simulated, and none of its addresses answers."""


class FolderError(Exception):
    """A testbed folder that cannot be created or used as it is."""


def template_path(name: str) -> Path:
    """The bundled testbed file of that name."""
    if name not in (*TEMPLATES, EXAMPLE):
        raise FolderError(f"no bundled testbed {name!r}; there are {', '.join((*TEMPLATES, EXAMPLE))}")
    return Path(str(files("lab") / "testbeds" / f"{name}.toml"))


def source_path(source: str) -> Path:
    """The testbed file that a name of a bundled one, a file or a folder means."""
    path = Path(source)
    if source.endswith(".toml") or (source not in (*TEMPLATES, EXAMPLE) and path.is_dir()):
        return find_testbed(path)
    return template_path(source)


def create_folder(
    folder: Path,
    source: Path,
    *,
    host: str | None = None,
    port: int = FIRST_PORT,
    users: int | None = None,
    ring_seed: int | None = None,
    uncalibrated: bool = False,
    passphrase: str | None = None,
) -> Path:
    """Make ``folder`` with a copy of the testbed at ``source``, fresh keys and initial secrets.

    With ``passphrase``, every user's key store is sealed with it instead of a ``store.key``.
    With ``users``, for that many of them (:mod:`lab.runs.testbeds.ring_size`).
    With ``ring_seed`` or ``uncalibrated``, for another simulated ring (:mod:`lab.runs.testbeds.another_ring`).
    With ``host``, endpoints that are still ``auto`` get ports from ``port`` on: hub and learning server at
    that host, every node's key delivery at localhost, since node and client share a machine.

    Returns the path of the new testbed file.  Raises FolderError if the folder already holds a testbed
    (nothing is overwritten), TestbedError if ``source`` has mistakes, RingSizeError, NoSimulatedRingError, OSError with its place; then
    what was made is destroyed again.  A process that is killed leaves a hidden folder that the next call settles.
    """
    target = folder / TESTBED_FILE
    staging = folder / STAGING
    _settle_interrupted(staging, target)
    if target.exists() or (folder / SECRETS).exists():
        raise FolderError(f"{folder} already holds a testbed; choose another folder or remove it first")
    data = read_testbed(source)
    testbed = parse_testbed(data, source)
    if users is not None:
        data = with_users(data, users, source)
        testbed = parse_testbed(data, target)
    if uncalibrated or ring_seed is not None:
        data = another_ring(data, source, ring_seed=ring_seed, uncalibrated=uncalibrated)
        testbed = parse_testbed(data, target)
    if host is not None:
        _fill_endpoints(data, host, port)
    folder.mkdir(parents=True, exist_ok=True)
    make_folder(staging / SECRETS)
    try:
        data["keys"] = _make_secrets(testbed, staging / SECRETS, passphrase)
        parse_testbed(data, target)
        write_testbed(data, staging / TESTBED_FILE)
    except BaseException:
        destroy_folder(staging)
        raise
    move_file(staging / SECRETS, folder / SECRETS)
    _settle_interrupted(staging, target)
    return target


def _make_secrets(testbed: Testbed, folder: Path, passphrase: str | None) -> dict[str, str]:
    """Keys of every role and initial secrets of every pair below ``folder``; the public keys by role."""
    from orchestrator.keystore.pair_secret import SUFFIX, PairSecret
    from orchestrator.keystore.passphrase import create_passphrase
    from orchestrator.wire.curve import generate_keys, write_keys

    public: dict[str, str] = {}
    for role in testbed.roles():
        keys = generate_keys()
        write_keys(folder / role, keys)
        public[role] = keys.public
    for user in testbed.user_names():
        if passphrase is None:
            create_file(folder / user / KEY_FILE, random_bytes(32), 0o600)
        else:
            create_passphrase(folder / user / PASSPHRASE_FILE, passphrase)
        make_folder(folder / user / "initial")
    for first, second in testbed.pairs():
        shared = PairSecret.draw(first, second)
        shared.write(folder / first / "initial" / f"{second}{SUFFIX}", first)
        shared.write(folder / second / "initial" / f"{first}{SUFFIX}", second)
        shared.wipe()
    return public


def _settle_interrupted(staging: Path, target: Path) -> None:
    """Finish a making whose secrets have their place already, undo one that was interrupted earlier."""
    if not staging.is_dir():
        return
    finished, placed = staging / TESTBED_FILE, target.parent / SECRETS
    if finished.exists() and placed.is_dir() and not (staging / SECRETS).exists() and not target.exists():
        move_file(finished, target)
    destroy_folder(staging)


def _fill_endpoints(data: dict[str, Any], host: str, port: int) -> None:
    """Replace every endpoint of ours that is ``auto`` or missing."""
    places = [(data.setdefault("hub", {}), "control", host), (data["hub"], "bulk", host)]
    places.append((data.setdefault("fl", {}), "server", host))
    places += [(user, "delivery", "127.0.0.1") for user in data["users"]]
    if port + len(places) - 1 > LAST_PORT:
        raise FolderError(
            f"ports from {port} on are too few: {len(places)} endpoints need as many, up to {LAST_PORT} at most; begin "
            f"at {LAST_PORT - len(places) + 1} or below"
        )
    for number, (table, key, where) in enumerate(places):
        if table.get(key, AUTO) == AUTO:
            table[key] = f"tcp://{where}:{port + number}"


def find_testbed(path: Path) -> Path:
    """The testbed file itself, given the file or its folder."""
    path = path / TESTBED_FILE if path.is_dir() else path
    if not path.exists():
        raise TestbedError(path, [("", "no such file; `qunetlab init FOLDER` makes a new testbed")])
    return path
