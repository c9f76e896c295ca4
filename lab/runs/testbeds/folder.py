"""A testbed folder on disk: the public file, and one secrets folder per role.

``testbed.toml``            public: topology, addresses, limits, public keys
``secrets/ROLE/curve.*``    the role's CURVE key pair
``secrets/USER/store.key``  key-encryption key of the user's key store, or ``store.passphrase`` where it is derived
``secrets/USER/initial/PEER.secret``  initial authentication secret of a pair, removed once installed
``secrets/USER/kme-*.pem``  key and certificate with which the user's node serves applications
``secrets/sae-NAME/*.pem``  key and certificate of an application, for a rehearsal on one machine
``secrets/authority``       what signs certificates (:mod:`lab.runs.certificates.authority`); it stays here

Everything under ``secrets`` is 0600 in 0700 folders.  On a bench with several machines each role's folder
is moved to its own machine in a parcel (:mod:`lab.runs.testbeds.parcel`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from lab.key_delivery import with_applications
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
RUNNING_FILE = "running.toml"
"""The testbed file with the addresses in use, while ``qunetlab up`` runs the roles of its folder."""
UP_LOCK = ".running"
STAGING = ".qunetlab-init"
"""Where a testbed folder is made before it gets its place, whole."""
FIRST_PORT = 47600
"""Where the ports of hub, learning server and key delivery begin unless told otherwise."""

LAST_PORT = 65535

DEFAULT_TESTBED = "simulated-four-node"
TEMPLATES = (DEFAULT_TESTBED, "simulated-reference", "simulated-full-bench")
EXAMPLE = "physical-ring-example"
"""A ring of real instruments, to be filled in: nothing of it can be simulated, and none of its addresses answers."""


BUNDLED = (*TEMPLATES, EXAMPLE)


class FolderError(Exception):
    """A testbed folder that cannot be created or used as it is."""


def template_path(name: str) -> Path:
    """The bundled testbed file of that name."""
    if name not in BUNDLED:
        raise FolderError(f"no bundled testbed {name!r}; there are {', '.join(BUNDLED)}")
    return Path(str(files("lab") / "testbeds" / f"{name}.toml"))


def named_testbed(name: str) -> Path:
    """What a testbed's name means, the same everywhere: a bundled one, else a folder with a testbed file in it, else a file.

    A folder that bears the name of a bundled one is ``./NAME``.  Whether the file is there is :func:`find_testbed`'s to say.
    """
    if name in BUNDLED:
        return template_path(name)
    path = Path(name)
    return path / TESTBED_FILE if (path / TESTBED_FILE).is_file() else path


def source_path(source: str) -> Path:
    """The testbed file that a name means; raises TestbedError with the nearest name where there is none."""
    return find_testbed(named_testbed(source))


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
    authority_passphrase: Callable[[], str] | None = None,
    applications: Mapping[str, str] | None = None,
) -> Path:
    """Make ``folder`` with a copy of the testbed at ``source``, fresh keys and initial secrets.

    With ``passphrase``, every user's key store is sealed with it instead of a ``store.key``; with
    ``authority_passphrase``, the private key of the testbed's authority with what it gives.
    With ``users``, for that many of them (:mod:`lab.runs.testbeds.ring_size`).
    With ``ring_seed`` or ``uncalibrated``, for another simulated ring (:mod:`lab.runs.testbeds.another_ring`).
    With ``applications`` (SAE id -> user), those of the template and these draw keys (:mod:`lab.key_delivery`).
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
    if applications:
        data = with_applications(data, applications)
        testbed = parse_testbed(data, target)
    if host is not None:
        _fill_endpoints(data, host, port)
        testbed = parse_testbed(data, target)
    folder.mkdir(parents=True, exist_ok=True)
    make_folder(staging / SECRETS)
    try:
        data["keys"] = _make_secrets(testbed, staging / SECRETS, passphrase, authority_passphrase)
        parse_testbed(data, target)
        write_testbed(data, staging / TESTBED_FILE)
    except BaseException:
        destroy_folder(staging)
        raise
    move_file(staging / SECRETS, folder / SECRETS)
    _settle_interrupted(staging, target)
    return target


def _make_secrets(
    testbed: Testbed, folder: Path, passphrase: str | None, authority_passphrase: Callable[[], str] | None
) -> dict[str, str]:
    """Keys of every role and initial secrets of every pair below ``folder``; the public keys by role."""
    from lab.runs.certificates.here import make_certificates
    from orchestrator.keystore.pair_secret import INITIAL, SUFFIX, PairSecret
    from orchestrator.wall_clock import utc_now

    public = {role: make_keys(testbed, folder, role, passphrase) for role in testbed.roles()}
    for first, second in testbed.pairs():
        shared = PairSecret.draw(first, second)
        shared.write(folder / first / INITIAL / f"{second}{SUFFIX}", first)
        shared.write(folder / second / INITIAL / f"{first}{SUFFIX}", second)
        shared.wipe()
    make_certificates(testbed, folder, utc_now(), authority_passphrase)
    return public


def make_keys(testbed: Testbed, secrets: Path, role: str, passphrase: str | None = None) -> str:
    """Make the folder of a role below ``secrets`` with fresh CURVE keys, and for a user with what seals the key store.

    No pair has an initial secret yet.  Returns the public key.
    """
    from orchestrator.keystore.pair_secret import INITIAL
    from orchestrator.keystore.passphrase import create_passphrase
    from orchestrator.wire.curve import generate_keys, write_keys

    keys = generate_keys()
    write_keys(secrets / role, keys)
    if role in testbed.user_names():
        if passphrase is None:
            create_file(secrets / role / KEY_FILE, random_bytes(32), 0o600)
        else:
            create_passphrase(secrets / role / PASSPHRASE_FILE, passphrase)
        make_folder(secrets / role / INITIAL)
    return keys.public


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
    served = {entry["user"] for entry in data.get("sae", {}).values()}
    places += [(user, "etsi014", "127.0.0.1") for user in data["users"] if user["name"] in served]
    if port + len(places) - 1 > LAST_PORT:
        raise FolderError(
            f"ports from {port} on are too few: {len(places)} endpoints need as many, up to {LAST_PORT} at most; begin "
            f"at {LAST_PORT - len(places) + 1} or below"
        )
    for number, (table, key, where) in enumerate(places):
        if table.get(key, AUTO) == AUTO:
            table[key] = f"{'' if key == 'etsi014' else 'tcp://'}{where}:{port + number}"


def find_testbed(path: Path) -> Path:
    """The testbed file itself, given the file or its folder."""
    file = path / TESTBED_FILE if path.is_dir() else path
    if file.exists():
        running = file.with_name(RUNNING_FILE)
        at_work = file.name == TESTBED_FILE and running.exists() and up_process(file.parent) is not None
        return running if at_work else file
    advice = f"`qunetlab init FOLDER` makes a new testbed; bundled ones are {', '.join(BUNDLED)}"
    near = get_close_matches(path.name, [*BUNDLED, *_testbeds_in(path.parent)], 1)
    meant = f"is {near[0] if near[0] in BUNDLED else path.parent / near[0]} meant?  " if near else ""
    raise TestbedError(file, [("", f"no such file; {meant}{advice}")])


def up_folder(home: Path) -> Path:
    """Where ``qunetlab up`` keeps its lock and the logs of the roles that it started."""
    return home / STATE / "up"


def up_process(home: Path) -> int | None:
    """The process of ``qunetlab up`` whose roles of this folder run on this machine; None where there is none."""
    try:
        descriptor = os.open(up_folder(home) / UP_LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(descriptor, 20) or 0)
    finally:
        os.close(descriptor)
    return None


def check_down(home: Path) -> None:
    """Raise FolderError where ``qunetlab up`` runs for this folder."""
    if (process := up_process(home)) is not None:
        raise FolderError(
            f"the roles of {home} run already, started by process {process}: look with `qunetlab status {home}`, end them "
            f"with `qunetlab down {home}`"
        )


def _testbeds_in(folder: Path) -> list[str]:
    """Names of testbed folders and files in ``folder``."""
    return [found.parent.name for found in folder.glob(f"*/{TESTBED_FILE}")] + [
        found.name for found in folder.glob("*.toml")
    ]


def own_testbed(path: Path) -> Path:
    """The testbed file of a folder that has, or may have, secrets and state of its own.

    Raises FolderError for a bundled testbed, which has none.
    """
    file = find_testbed(path)
    if file.parent != template_path(EXAMPLE).parent:
        return file
    here = f"; your folder of that name is ./{file.stem}" if Path(file.stem, TESTBED_FILE).is_file() else ""
    raise FolderError(
        f"{file.stem} is a bundled testbed, without secrets or state of its own: make yours with "
        f"`qunetlab init FOLDER --template {file.stem}` and name FOLDER{here}"
    )
