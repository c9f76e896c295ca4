"""A key store knows its file and its machine: a copy is refused until somebody says that the original is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.keystore import home as home_module
from orchestrator.keystore.errors import StoreBusyError, StoreError
from orchestrator.keystore.home import MovedStoreError
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore

KEK = Kek(bytes(range(32)))


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with this machine's number."""
    place = tmp_path / "machine-id"
    place.write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(home_module.Home.of.__func__, "__defaults__", (place,))
    return place


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.sqlite"
    with KeyStore.create(path, "alice", KEK) as store:
        store.settle_home()
    return path


def opened(path: Path, *, moved: bool = False) -> None:
    with KeyStore.open(path, "alice", KEK) as store:
        store.settle_home(moved=moved)


def test_a_store_that_stays_where_it_is_is_opened_again_and_again(path: Path) -> None:
    for _ in range(3):
        opened(path)
    path.rename(path.with_name("renamed.sqlite"))
    opened(path.with_name("renamed.sqlite"))


def test_a_copy_is_refused_until_somebody_speaks_for_it_and_then_the_first_is(
    path: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.sqlite"
    shutil.copy(path, copy)
    for _ in range(2):
        with pytest.raises(
            MovedStoreError, match=r"is another file than the one that was used last.* --moved"
        ):
            opened(copy)
    opened(copy, moved=True)
    opened(copy)
    opened(path)  # the two do not know of each other: what the other end of each pair is for


def test_a_store_of_another_machine_is_refused(path: Path, machine: Path) -> None:
    machine.write_text("f" * 32)
    with pytest.raises(MovedStoreError, match="was used on another machine"):
        opened(path)
    opened(path, moved=True)
    opened(path)


def test_a_machine_without_a_number_is_judged_by_the_file_alone(
    path: Path, machine: Path, tmp_path: Path
) -> None:
    machine.unlink()
    opened(path)
    shutil.copy(path, tmp_path / "copy.sqlite")
    with pytest.raises(MovedStoreError):
        opened(tmp_path / "copy.sqlite")


def test_the_number_of_the_machine_is_not_in_the_store(path: Path, machine: Path) -> None:
    assert machine.read_text().strip().encode() not in path.read_bytes()


def test_a_store_of_before_takes_its_place_as_home(path: Path) -> None:
    with KeyStore.open(path, "alice", KEK) as store:
        store._core.db.write("DELETE FROM meta WHERE name = 'home'")
    opened(path)
    shutil.copy(path, path.with_name("copy.sqlite"))
    with pytest.raises(MovedStoreError):
        opened(path.with_name("copy.sqlite"))


def test_a_home_that_cannot_be_read_is_told(path: Path) -> None:
    with KeyStore.open(path, "alice", KEK) as store:
        store._core.db.write("UPDATE meta SET value = x'00' WHERE name = 'home'")
    with pytest.raises(StoreError, match="nothing readable"):
        opened(path)


def test_the_same_file_has_one_owner_at_a_time(path: Path) -> None:
    with KeyStore.open(path, "alice", KEK), pytest.raises(StoreBusyError, match="one owner per file"):
        KeyStore.open(path, "alice", KEK)
