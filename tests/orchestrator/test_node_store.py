"""The first start of a node: its initial secrets go only once a whole store with their content stands there.

Before every file operation of a first start the folders are copied: each copy is what a ``kill -9`` at that
moment leaves.  From every one of them the next start must come up with all secrets in the lanes, unused, and
leave no secret file behind.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import Testbed, load_testbed
from orchestrator import durable
from orchestrator.keystore.database import Database
from orchestrator.keystore.errors import KeyStoreError, SealError, StoreError
from orchestrator.keystore.home import MovedStoreError
from orchestrator.keystore.pair_secret import PairSecret, PairSecretError
from orchestrator.keystore.store import KeyStore
from orchestrator.processes.node_store import STORE_FILE, InitialSecretError, open_node_store, take_secret
from orchestrator.randomness import random_bytes

NAME = "bob"
STRIDES = [7, pytest.param(1, marks=pytest.mark.long)]
"""Every so many-th step of a first start; each of them with `make test-long`."""


class Machine:
    """One node's folders: ``secrets`` and ``state``; ``copied``: an image of them, in the place of the first."""

    def __init__(self, testbed: Testbed, folder: Path, *, copied: bool = False) -> None:
        self.testbed, self.folder, self.copied = testbed, folder, copied
        self.initial = folder / "secrets" / "initial"

    def start(self) -> KeyStore:
        secrets, state = self.folder / "secrets", self.folder / "state"
        return open_node_store(self.testbed, NAME, secrets, state, moved=self.copied)

    def copy(self, to: Path) -> Machine:
        shutil.copytree(self.folder, to)
        return Machine(self.testbed, to, copied=True)

    def secrets(self) -> dict[str, PairSecret]:
        return {path.stem: PairSecret.read(path) for path in self.initial.glob("*.secret")}

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "state").iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    testbed_path = create_folder(tmp_path / "bench", template_path("simulated-reference"))
    testbed = load_testbed(testbed_path)
    folder = tmp_path / "machine"
    (folder / "state").mkdir(parents=True)
    (tmp_path / "bench" / "secrets" / NAME).rename(folder / "secrets")
    return Machine(testbed, folder)


@contextmanager
def before_every_step(patch: pytest.MonkeyPatch, act: Callable[[str], None]) -> Iterator[None]:
    """Call ``act`` before each operation on a file: those of :mod:`orchestrator.durable` and of SQLite."""
    with patch.context() as inner:
        fakes = {}
        for name in ("open", "fsync", "replace", "unlink"):

            def file_step(*arguments: object, _name: str = name) -> object:
                act(f"os.{_name} {arguments[0]}")
                return getattr(os, _name)(*arguments)

            fakes[name] = file_step
        inner.setattr(durable, "os", SimpleNamespace(**{**vars(os), **fakes}))
        for name in ("write", "commit", "checkpoint", "close"):
            original = getattr(Database, name)

            def store_step(
                self: Database,
                *arguments: object,
                _original: Callable[..., object] = original,
                _name: str = name,
            ) -> object:
                act(f"Database.{_name} {arguments[0] if arguments else ''}"[:60])
                return _original(self, *arguments)

            inner.setattr(Database, name, store_step)
        yield


class KilledError(BaseException):
    """Here the process ends."""


def killed(*_: object) -> None:
    raise KilledError


def all_there(store: KeyStore, secrets: dict[str, PairSecret]) -> bool:
    return all(
        store.deposits.holds_seed(peer, secret.auth_ab, secret.auth_ba) for peer, secret in secrets.items()
    )


@pytest.mark.parametrize("stride", STRIDES)
def test_a_kill_at_any_step_of_a_first_start_loses_nothing(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    secrets = machine.secrets()
    assert secrets
    images: list[tuple[str, Machine]] = []

    def keep(step: str) -> None:
        images.append((step, machine.copy(tmp_path / f"image{len(images):03d}")))

    with before_every_step(monkeypatch, keep):
        machine.start().close()
    keep("the end")
    assert len(images) > 40
    renamed = next(n for n, (step, _) in enumerate(images) if step.startswith("os.replace"))
    for step, image in images[:renamed:stride] + images[renamed:]:  # each from the store's name on
        with image.start() as store:
            assert all_there(store, secrets), step
        assert list(image.initial.iterdir()) == [], step
        assert image.names() == [STORE_FILE], step


class FullFrom:
    """A disk that is full from the n-th operation on (closing and reading still work)."""

    def __init__(self, place: Path, n: int) -> None:
        self.place, self.left, self.refused = place, n, 0

    def __call__(self, step: str) -> None:
        self.left -= 1
        if self.left >= 0 or step.startswith(("Database.close", "Database.write ROLLBACK", "os.open")):
            return
        self.refused += 1
        if step.startswith("os."):
            raise OSError(28, "No space left on device", str(self.place))
        failure = sqlite3.OperationalError("database or disk is full")
        failure.sqlite_errorname = "SQLITE_FULL"  # type: ignore[misc]
        raise Database.failure(SimpleNamespace(path=self.place, kept=Database.kept), "write", failure)  # type: ignore[arg-type]


def what_is_said(machine: Machine) -> str:
    try:
        machine.start().close()
    except (KeyStoreError, OSError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("stride", STRIDES)
def test_an_error_at_any_step_of_a_first_start_names_its_place_and_is_over_with_its_cause(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    secrets = machine.secrets()
    for n in range(0, 200, stride):
        image = machine.copy(tmp_path / f"full{n:03d}")
        disk = FullFrom(image.folder, n)
        with before_every_step(monkeypatch, disk):
            said = what_is_said(image)
        assert bool(said) == bool(disk.refused)
        if said:
            assert str(image.folder) in said
            assert "full" in said or "No space left" in said
        with image.start() as store:
            assert all_there(store, secrets), n
        assert list(image.initial.iterdir()) == []
        if not disk.refused:
            break
    assert 40 < n < 190


def test_a_store_that_does_not_hold_the_secrets_costs_none(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.keystore.deposits.Deposits.holds_seed", lambda *_: False)
    with pytest.raises(StoreError, match="does not hold the initial secret"):
        machine.start()
    assert len(machine.secrets()) == len(machine.testbed.users) - 1
    assert STORE_FILE not in machine.names()


def test_secrets_that_the_store_never_took_renew_their_pairs(machine: Machine, tmp_path: Path) -> None:
    machine.start().close()
    fresh = PairSecret.draw("alice", NAME)
    fresh.write(machine.initial / "alice.secret", NAME)
    image = machine.copy(tmp_path / "copy")
    for _ in range(2):
        with machine.start() as store:
            (kept,) = store.generations.kept("alice")
            assert store.generations.secret("alice", kept).auth_ab.same_as(fresh.auth_ab)
            assert store.generation("alice") == 0
        assert list(machine.initial.iterdir()) == []
    fresh.write(machine.initial / "alice.secret", NAME)  # a copy that somebody kept
    with machine.start() as store:
        assert len(store.generations.kept("alice")) == 1
    assert list(machine.initial.iterdir()) == []
    assert len(image.secrets()) == 1


def test_a_node_works_with_a_user_that_joined_its_testbed_once_it_has_their_initial_secret(
    machine: Machine, tmp_path: Path
) -> None:
    before = load_testbed(create_folder(tmp_path / "three", template_path("simulated-reference"), users=3))
    (joined,) = set(machine.testbed.user_names()) - set(before.user_names())
    file, away = machine.initial / f"{joined}.secret", tmp_path / "away"
    file.rename(away)
    Machine(before, machine.folder).start().close()
    with pytest.raises(InitialSecretError, match=f"{file} is missing"):
        machine.start()
    away.rename(file)
    secrets = machine.secrets()
    with machine.start() as store:
        assert set(store.peers()) == set(machine.testbed.user_names()) - {NAME}
        assert all_there(store, secrets)
        assert store.generations.kept(joined) == ()
    assert list(machine.initial.iterdir()) == []


def test_a_kill_at_any_step_of_taking_a_new_secret_loses_nothing(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.start().close()
    PairSecret.draw("alice", NAME).write(machine.initial / "alice.secret", NAME)
    images: list[Machine] = []
    with before_every_step(
        monkeypatch, lambda step: images.append(machine.copy(tmp_path / f"image{len(images):03d}"))
    ):
        machine.start().close()
    assert len(images) > 10
    for image in images:
        with image.start() as store:
            assert len(store.generations.kept("alice")) == 1
        assert list(image.initial.iterdir()) == []


def test_a_kill_while_a_running_node_takes_a_new_secret_leaves_a_file_that_a_retry_destroys(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's folder is not the node's: nobody would find ``NAME.spent`` there at the next start."""
    path = tmp_path / "carried" / "alice-bob.secret"
    path.parent.mkdir()
    with machine.start() as store:
        PairSecret.draw("alice", NAME).write(path, NAME)
        with monkeypatch.context() as patch:
            patch.setattr("orchestrator.durable._overwrite", killed)
            with pytest.raises(KilledError):
                take_secret(store, machine.testbed, path)
        assert [left.name for left in path.parent.iterdir()] == ["alice-bob.secret.spent"]
        with pytest.raises(PairSecretError, match="was taken before; what was left of it is destroyed"):
            take_secret(store, machine.testbed, path)
        assert list(path.parent.iterdir()) == []
        assert len(store.generations.kept("alice")) == 1


def test_a_new_secret_on_a_medium_that_cannot_be_written_is_kept_and_its_file_is_named(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    path = tmp_path / "alice-bob.secret"
    PairSecret.draw("alice", NAME).write(path, NAME)
    with machine.start() as store:
        monkeypatch.setattr("orchestrator.processes.node_store.destroy_file", read_only)
        with pytest.raises(PairSecretError, match=f"keeps the secret.*{path}.* destroy it by hand"):
            take_secret(store, machine.testbed, path)
        assert len(store.generations.kept("alice")) == 1


def test_a_key_that_does_not_open_the_store_costs_no_secret(machine: Machine) -> None:
    machine.start().close()
    PairSecret.draw("alice", NAME).write(machine.initial / "alice.secret", NAME)
    (machine.folder / "secrets" / "store.key").write_bytes(random_bytes(32))
    with pytest.raises(SealError, match=r"does not open this store.* Put back the store.key"):
        machine.start()
    assert list(machine.secrets()) == ["alice"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])


def other_pair(path: Path) -> None:
    path.unlink()
    PairSecret.draw("alice", "carol").write(path, NAME)


def others_half(path: Path) -> None:
    path.unlink()
    PairSecret.draw("alice", NAME).write(path, "alice")


DAMAGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "cut": (cut, PairSecretError, "copied in part"),
    "empty": (lambda path: path.write_bytes(b""), PairSecretError, "copied in part"),
    "flipped": (flip, PairSecretError, "checksum"),
    "raw bits": (lambda path: path.write_bytes(random_bytes(16384)), PairSecretError, "no pair secret"),
    "open to others": (lambda path: path.chmod(0o640), PairSecretError, "read by others"),
    "another pair": (other_pair, PairSecretError, "secret of alice-carol, not of alice-bob"),
    "the other's half": (others_half, PairSecretError, "the half that alice is to take, not bob"),
    "missing": (lambda path: path.unlink(), InitialSecretError, "is missing"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_bad_initial_secret_is_refused_with_its_place_and_nothing_is_made(
    machine: Machine, what: str
) -> None:
    damage, kind, told = DAMAGES[what]
    path = machine.initial / "alice.secret"
    damage(path)
    with pytest.raises(kind, match=told) as caught:
        machine.start()
    assert str(path) in str(caught.value)
    assert machine.names() == []
    assert path.exists() == (what != "missing")


@pytest.mark.parametrize("what", [each for each in DAMAGES if each != "missing"])
def test_a_bad_secret_beside_a_store_is_refused_and_left_with_the_store_as_it_was(
    machine: Machine, what: str
) -> None:
    damage, _, told = DAMAGES[what]
    machine.start().close()
    path = machine.initial / "alice.secret"
    PairSecret.draw("alice", NAME).write(path, NAME)
    damage(path)
    with pytest.raises(PairSecretError, match=told if what != "another pair" else "no pair of bob") as caught:
        machine.start()
    assert str(path) in str(caught.value)
    assert path.exists()
    path.unlink()
    with machine.start() as store:
        assert store.generations.kept("alice") == ()


def test_a_node_whose_store_was_copied_does_not_start_until_an_operator_speaks_for_it(
    machine: Machine, tmp_path: Path
) -> None:
    machine.start().close()
    image = Machine(machine.testbed, shutil.copytree(machine.folder, tmp_path / "image"))
    with pytest.raises(MovedStoreError, match="start the node once with --moved"):
        image.start()
    image.copied = True
    image.start().close()
    image.copied = False
    image.start().close()
