"""`init --anew` and `keys replace`: a user whose machine is lost gets new keys, and every other machine takes them in, once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.agreed import agreed_on
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.testbeds.parcel import export_roles, import_parcel
from lab.testbed import Testbed, load_testbed
from orchestrator.keystore.reseed import settle_generation
from orchestrator.keystore.store import KeyStore
from orchestrator.processes.node_control import NODE_ERRORS, NodeControl
from orchestrator.processes.node_store import open_node_store
from orchestrator.wire.control_socket import ControlSocket
from orchestrator.wire.curve import generate_keys, load_keys
from orchestrator.wire.memory_channel import memory_channel_pair
from orchestrator.wire.revoked import RevokedKeys

LOST, LEFT = "alice", ("bob", "carol", "dave")


class Machines:
    """The first machine, with the authority, and one of each user; the nodes of those that are left have their control sockets."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        folder.chmod(0o700)
        self.stack, self.folder = stack, folder
        create_folder(folder / "bench", template_path("simulated-reference"), applications={"app1": LOST})
        for user in (LOST, *LEFT):
            parcel = export_roles(folder / "bench", [user], folder / f"{user}.tar").place
            import_parcel(Path(parcel), self.home(user))
        self.stores: dict[str, KeyStore] = {}
        for user in LEFT:
            self.serve(user)
        (self.folder / "bench" / "state" / "orchestrator").mkdir(parents=True)
        (self.folder / "bench" / "state" / "fl-server").mkdir()

    def home(self, user: str) -> Path:
        return self.folder / f"of-{user}" / "bench"

    def testbed(self, home: Path) -> Testbed:
        return load_testbed(home / "testbed.toml")

    def store(self, user: str) -> KeyStore:
        """Its node's store, as its start opens it."""
        home = self.home(user)
        state = home / "state" / user
        state.mkdir(parents=True, exist_ok=True)
        self.stores[user] = open_node_store(self.testbed(home), user, home / "secrets" / user, state)
        self.stack.callback(self.stores[user].close)
        return self.stores[user]

    def serve(self, user: str) -> None:
        store = self.store(user)
        workers: Any = {
            peer: SimpleNamespace(meet_again=lambda: None, hold=None, old_copy="") for peer in store.peers()
        }
        control = NodeControl(
            self.testbed(self.home(user)),
            store,
            workers,
            SimpleNamespace(),
            SimpleNamespace(),
            SimpleNamespace(),
        )  # type: ignore[arg-type]
        self.stack.enter_context(ControlSocket(self.home(user) / "state" / user, control, NODE_ERRORS))

    def lose(self) -> None:
        shutil.move(self.home(LOST), self.folder / "thief")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    with ExitStack() as stack:
        yield Machines(tmp_path, stack)


def meet(first: KeyStore, second: KeyStore) -> None:
    """Both ends of a meeting's beginning."""
    channels = memory_channel_pair()
    other = threading.Thread(
        target=settle_generation, args=(second, channels[1], "second", first.owner, 5.0), daemon=True
    )
    other.start()
    settle_generation(first, channels[0], "first", second.owner, 5.0)
    other.join()


def test_a_user_whose_machine_is_lost_begins_anew_with_every_pair(machines: Machines, qunetlab: Any) -> None:
    machines.lose()
    first = machines.folder / "bench"
    before = (first / "testbed.toml").read_bytes()
    old = machines.testbed(first)
    made = qunetlab("init", str(first), "--anew", LOST)
    assert made.returncode == 0, made.stderr
    parcel, public = (machines.folder / f"bench-alice-anew.{end}" for end in ("tar", "public"))
    assert str(parcel) in made.stdout
    assert parcel.stat().st_mode & 0o077 == 0
    assert (first / "testbed.toml").read_bytes() == before
    assert not list(first.glob(".qunetlab*"))
    out = machines.folder / "carried"
    out.mkdir()
    of_bob = machines.home("bob") / "testbed.toml"
    of_bob.write_text(f"# bob's own remark\n{of_bob.read_text()}")
    digests = set()
    for home in (first, *map(machines.home, LEFT)):
        said = qunetlab("keys", "replace", str(public), "--testbed", str(home), "--out", str(out))
        assert said.returncode == 0, said.stderr
        digests.add(said.stdout.splitlines()[-1])
    assert len(digests) == 1
    assert of_bob.read_text().startswith("# bob's own remark")
    assert sorted(path.name for path in out.iterdir()) == [f"alice-{user}.for-alice.secret" for user in LEFT]
    for process, role in (("orchestrator", LOST), ("fl-server", f"fl-{LOST}")):
        refused = RevokedKeys(first / "state" / process)
        assert role in refused.roles
        new = machines.testbed(first).keys
        assert refused.without({old.keys[role]: role, new[role]: role}) == {new[role]: role}
    import_parcel(parcel, machines.home(LOST))
    new_home = machines.home(LOST)
    assert agreed_on(machines.testbed(new_home)) == agreed_on(machines.testbed(first))
    assert (
        load_keys(new_home / "secrets" / LOST).public
        == machines.testbed(machines.home("bob")).keys[LOST]
        != old.keys[LOST]
    )
    assert (new_home / "secrets" / LOST / "kme-cert.pem").exists()
    said = qunetlab("check", str(new_home))
    assert said.returncode != 0
    assert "qunetlab keys reseed alice-bob --new" in said.stderr
    for path in sorted(out.iterdir()):
        pair = path.name.partition(".")[0]
        said = qunetlab("keys", "reseed", pair, "--secret", str(path), "--testbed", str(new_home))
        assert said.returncode == 0, said.stderr
        assert "takes it with its next start" in said.stdout
    assert not list(out.iterdir())
    assert qunetlab("check", str(new_home)).returncode == 0
    alice = machines.store(LOST)
    for user in LEFT:
        meet(alice, machines.stores[user])
        assert alice.generation(user) == machines.stores[user].generation(LOST) == 1
        assert machines.stores[user].generations.kept(LOST) == ()


def test_replacing_is_repeated_where_it_was_interrupted_and_then_changes_nothing(
    machines: Machines, qunetlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.lose()
    assert qunetlab("init", str(machines.folder / "bench"), "--anew", LOST).returncode == 0
    words = [
        "keys", "replace", str(machines.folder / "bench-alice-anew.public"),
        "--testbed", str(machines.home("bob")), "--out", str(machines.folder),
    ]  # fmt: skip
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device", "testbed.toml")

        patch.setattr("lab.cli.anew.replace_file", full)
        assert qunetlab(*words).returncode != 0
    half = machines.folder / "alice-bob.for-alice.secret"
    kept, bits = machines.stores["bob"].generations.kept(LOST), half.read_bytes()
    assert len(kept) == 1
    said = qunetlab(*words)
    assert said.returncode == 0, said.stderr
    assert machines.stores["bob"].generations.kept(LOST) == kept
    assert half.read_bytes() == bits
    half.unlink()
    again = qunetlab(*words)
    assert again.returncode == 0
    assert "nothing is left to do here" in again.stdout
    assert not half.exists()


def test_a_node_that_does_not_run_is_asked_for_before_anything_is_changed(
    machines: Machines, qunetlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.lose()
    assert qunetlab("init", str(machines.folder / "bench"), "--anew", LOST).returncode == 0
    monkeypatch.setattr("orchestrator.wire.control_socket.listens", lambda folder: False)
    home = machines.home("bob")
    before = (home / "testbed.toml").read_bytes()
    said = qunetlab(
        "keys", "replace", str(machines.folder / "bench-alice-anew.public"), "--testbed", str(home)
    )
    assert said.returncode == 2
    assert "bob's node does not run" in said.stderr
    assert (home / "testbed.toml").read_bytes() == before


def test_what_is_here_is_not_lost_and_strange_keys_are_not_taken(machines: Machines, qunetlab: Any) -> None:
    first = machines.folder / "bench"
    said = qunetlab("init", str(first), "--anew", "relay")
    assert said.returncode == 2
    assert "relay is on this machine" in said.stderr
    assert qunetlab("init", str(first), "--anew", "eve").returncode == 2
    assert qunetlab("init", str(first), "--anew", LOST, "--export", "relay").returncode == 2
    assert not list(machines.folder.glob("*anew*"))
    home = machines.home("bob")
    said = qunetlab("init", str(home), "--anew", "relay", "--to", str(machines.folder / "r.tar"))
    assert said.returncode == 0, said.stderr
    public = machines.folder / "r.public"
    file = first / "testbed.toml"
    known = machines.testbed(first).keys
    file.write_text(file.read_text().replace(known["relay"], generate_keys().public))
    for place, told in ((public, "neither the lost one nor the new one"), (file, "holds no new public keys")):
        said = qunetlab("keys", "replace", str(place), "--testbed", str(first))
        assert said.returncode == 2, said.stderr
        assert told in said.stderr
