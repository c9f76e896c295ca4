"""Who a Flower node is, and where its keys come from: read from its ``node_config``.

On a SuperNode of a deployment::

    --node-config 'user="alice" testbed="/etc/qunetlab/testbed.toml"'

names the user and the testbed file.  The user's CURVE pair, in ``secrets/fl-USER`` beside that file (or under
``secrets="FOLDER"``), opens the delivery of the user's own node and proves the user's messages to the server.
``state="FOLDER"`` holds the journal of masked outputs (default: ``state`` beside the testbed file, as for
``qunetlab fl client``), ``mode`` (default ``otp``) and ``min-participants`` (default 3) are what this user
insists on whatever the server announces, and ``public-metrics="num-examples,accuracy"`` names the metrics of
the app that may leave the node in the clear (default: none; which there are, and how coarse they leave,
:mod:`fl.carriers.flower.leaving` says).

In Flower's simulation there is no such node.  The app's run configuration must then say
``key-supply = "simulated"`` in so many words; clients are called ``client-PARTITION``.  A node that names a
user never uses simulated keys.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from flwr.app import Context

from fl.carriers.flower.held import seal_key
from fl.carriers.flower.identity import Bond, client_bond
from fl.carriers.flower.leaving import MetricNameError, chosen_metrics
from fl.carriers.flower.records import KeySupply
from fl.keys.local import LocalKeys
from fl.keys.node import NodeKeys
from fl.keys.simulated import seeded_key
from fl.modes.table import DEFAULT_MODE, MODES
from fl.rounds.choices import OWN_CHOICES, LocalChoices, SeededChoices
from fl.rounds.client_rules import ClientRules
from fl.rounds.config import SMALLEST_QUORUM
from orchestrator.core_files import no_core_files
from orchestrator.delivery.client import DeliveryClient
from orchestrator.wire.curve import CurveKeys, load_keys


class SetupError(Exception):
    """A node, or a server app, that is not set up to take part."""


@dataclass(frozen=True)
class Participant:
    """One user as the mod sees it; ``bond`` and ``keys`` are None where keys are simulated."""

    user: str
    key_supply: KeySupply
    rules: ClientRules
    public_metrics: frozenset[str]
    state_folder: Path
    seed: int = 0
    bond: Bond | None = None
    keys: CurveKeys | None = field(default=None, repr=False)
    delivery: str = ""
    node_public: str = ""

    @property
    def public_key(self) -> str:
        return "" if self.keys is None else self.keys.public

    @property
    def held_key(self) -> bytes:
        """The key that encrypts what this user holds of a round between two messages."""
        if self.keys is None:
            return seal_key(f"simulated|{self.seed}|{self.user}".encode())
        return seal_key(self.keys.secret.reveal_bytes())

    @property
    def journal_folder(self) -> Path:
        """Where the delivery client keeps what was masked, and the user's consents."""
        return self.state_folder / "journal"

    def choices(self, seed: int) -> LocalChoices:
        """The source of shuffling and rounding: the user's own machine, or ``seed`` in a simulation."""
        return OWN_CHOICES if self.keys is not None else SeededChoices(seed)

    @contextmanager
    def node_keys(self) -> Iterator[NodeKeys]:
        """The user's node, for as long as the block lasts."""
        journal = self.journal_folder
        if self.keys is None:
            yield NodeKeys(
                LocalKeys(self.user, partial(seeded_key, self.seed, self.user)), self.user, journal
            )
            return
        with DeliveryClient(self.delivery, self.keys, self.node_public) as node:
            yield NodeKeys(node, self.user, journal)


def participant_of(context: Context) -> Participant:
    """The participant behind a Flower node; raises SetupError (or KeyFileError) saying what is missing."""
    node, run = dict(context.node_config), dict(context.run_config)
    supply = str(run.get("key-supply", "node"))
    if supply not in get_args(KeySupply):
        raise SetupError(f"key-supply = {supply!r} in the run configuration: it is 'node' or 'simulated'")
    if "user" in node:
        if supply == "simulated":
            raise SetupError(
                f"the run wants simulated keys; {node['user']} takes part with keys of its node only"
            )
        return _of_node(node)
    if supply != "simulated":
        raise SetupError(
            'this Flower node names no user: start its SuperNode with --node-config \'user="NAME" '
            'testbed="FILE"\', or, in a simulation, set key-supply = "simulated" in the run configuration'
        )
    if "partition-id" not in node:
        raise SetupError(
            "simulated keys are for Flower's simulation, which numbers its clients (partition-id)"
        )
    return Participant(
        user=f"client-{int(node['partition-id'])}",
        key_supply="simulated",
        rules=ClientRules(_mode(run), _min_participants(run)),
        public_metrics=_metrics(run),
        state_folder=state_home(run) / f"client-{int(node['partition-id'])}",
        seed=int(run.get("key-seed", 0)),
    )


def _of_node(node: Mapping[str, Any]) -> Participant:
    user = str(node["user"])
    if "testbed" not in node:
        raise SetupError(f'the node_config of {user} names no testbed file: add testbed="FILE"')
    no_core_files()  # from here on this process of Flower's holds a user's keys
    file = TestbedKeys.read(Path(str(node["testbed"])))
    folder = file.path.parent
    keys = load_keys(Path(str(node.get("secrets") or folder / "secrets")) / f"fl-{user}")
    if keys.public != file.public_key(f"fl-{user}"):
        raise SetupError(f"the key pair of {user} is not the one of fl-{user} in {file.path}")
    return Participant(
        user=user,
        key_supply="node",
        rules=ClientRules(_mode(node), _min_participants(node)),
        public_metrics=_metrics(node),
        state_folder=Path(str(node.get("state") or folder / "state")) / f"fl-{user}",
        bond=client_bond(keys, file.public_key("fl-server")),
        keys=keys,
        delivery=file.delivery(user),
        node_public=file.public_key(user),
    )


def local_choices(context: Context) -> LocalChoices:
    """Where an app's own randomness comes from (:mod:`fl.rounds.choices`): from a run's ``seed`` in a simulation only."""
    return (
        SeededChoices(int(context.run_config["seed"])) if "user" not in context.node_config else OWN_CHOICES
    )


def state_home(run: Mapping[str, Any]) -> Path:
    """Where a simulation, or a server app, keeps its state: ``state-folder``, or Flower's own home."""
    home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")
    return Path(str(run.get("state-folder") or home / "qunetlab"))


def _mode(config: Mapping[str, Any]) -> str:
    mode = config.get("mode", DEFAULT_MODE)
    protecting = [each.name for each in MODES.values() if each.cipher]
    if mode not in protecting:
        raise SetupError(f"mode = {mode!r}: it is {', '.join(protecting[:-1])} or {protecting[-1]}")
    return str(mode)


def _min_participants(config: Mapping[str, Any]) -> int:
    number = config.get("min-participants", SMALLEST_QUORUM)
    if not isinstance(number, int) or number < 2:
        raise SetupError(f"min-participants = {number!r}: it is a number of at least 2")
    return number


def _metrics(config: Mapping[str, Any]) -> frozenset[str]:
    try:
        return chosen_metrics(str(config.get("public-metrics", "")))
    except MetricNameError as error:
        raise SetupError(str(error)) from error


@dataclass(frozen=True)
class TestbedKeys:
    """The part of a testbed file that identities and deliveries need; the file is checked by ``qunetlab check``."""

    __test__ = False

    path: Path
    users: Mapping[str, str]
    keys: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> TestbedKeys:
        """Read ``path`` (a file, or the folder that holds ``testbed.toml``); raises SetupError."""
        path = path / "testbed.toml" if path.is_dir() else path
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
            users = {str(user["name"]): str(user.get("delivery", "auto")) for user in data["users"]}
            keys = {str(role): str(key) for role, key in data.get("keys", {}).items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SetupError(f"cannot read the testbed file {path}: {error}") from error
        return cls(path.resolve(), users, keys)

    def public_key(self, role: str) -> str:
        """The CURVE key of a role."""
        try:
            return self.keys[role]
        except KeyError:
            raise SetupError(f"{self.path} has no public key of {role} under [keys]") from None

    def delivery(self, user: str) -> str:
        """Where the node of ``user`` delivers keys."""
        endpoint = self.users.get(user, "auto")
        if endpoint == "auto":
            raise SetupError(f"{self.path} names no delivery endpoint of {user}: write tcp://HOST:PORT there")
        return endpoint

    def clients(self) -> dict[str, str]:
        """Users in the file's order with the public keys of their learning clients."""
        return {user: self.public_key(f"fl-{user}") for user in self.users}
