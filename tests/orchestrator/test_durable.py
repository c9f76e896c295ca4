"""What is kept survives a power loss: content, then name, then folder, whoever writes it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from orchestrator import durable
from orchestrator.delivery.journal import write_entry
from orchestrator.delivery.messages import RoundContext
from orchestrator.durable import create_file, read_kept, replace_file, sync_path
from orchestrator.scheduling.fencing import EpochFile
from orchestrator.wire.curve import write_keys


class PowerLossError(Exception):
    """The machine stops here."""


def name_of(descriptor: int) -> str:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done to the disk, in order."""
    done: list[str] = []

    def fsync(descriptor: int) -> None:
        done.append(f"fsync {name_of(descriptor)}")
        os.fsync(descriptor)

    def replace(old: Path, new: Path) -> None:
        done.append(f"rename to {new.name}")
        os.replace(old, new)

    monkeypatch.setattr(durable, "os", SimpleNamespace(**{**vars(os), "fsync": fsync, "replace": replace}))
    return done


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, steps: list[str]) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    steps.clear()
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert steps == ["fsync .file.tmp", "rename to file", f"fsync {tmp_path.name}"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_created_once(tmp_path: Path, steps: list[str]) -> None:
    path = tmp_path / "file"
    create_file(path, b"first")
    assert steps == ["fsync file", f"fsync {tmp_path.name}"]
    with pytest.raises(FileExistsError):
        create_file(path, b"second")
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("write", [replace_file, create_file])
def test_the_content_is_in_the_file_when_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], None]
) -> None:
    sizes: list[int] = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(durable, "os", SimpleNamespace(**{**vars(os), "fsync": fsync}))
    write(tmp_path / "file", bytes(100))
    assert sizes == [100]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_old_file_stands_until_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def stop(*_: object) -> None:
        raise PowerLossError

    path = tmp_path / "file"
    replace_file(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(durable, "os", SimpleNamespace(**{**vars(os), call: stop}))
        with pytest.raises(PowerLossError):
            replace_file(path, b"new and longer")
    assert path.read_bytes() == b"old"
    replace_file(path, b"n")
    assert path.read_bytes() == b"n"


def test_no_part_of_a_file_stands_whose_name_could_not_be_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable, "os", SimpleNamespace(**{**vars(os), "fsync": fsync}))
    with pytest.raises(OSError, match=str(tmp_path)):
        create_file(tmp_path / "secret", b"x", 0o600)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [replace_file, create_file])
def test_a_private_file_is_private_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes, int], None]
) -> None:
    modes: set[int] = set()

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            modes.add(stat.S_IMODE(os.fstat(descriptor).st_mode))

    monkeypatch.setattr(durable, "os", SimpleNamespace(**{**vars(os), "fsync": fsync}))
    write(tmp_path / "file", b"x", 0o600)
    assert modes == {0o600}


def test_a_folder_and_a_file_can_be_synced_alone(tmp_path: Path, steps: list[str]) -> None:
    (tmp_path / "file").write_bytes(b"x")
    sync_path(tmp_path / "file")
    sync_path(tmp_path)
    assert steps == ["fsync file", f"fsync {tmp_path.name}"]


def keep_output(folder: Path) -> None:
    write_entry(folder, RoundContext("run", 1, ("alice", "bob", "carol"), 1, 10))


WRITERS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "epoch": (
        lambda folder: EpochFile(folder / "epoch").advance(),
        ["fsync .epoch.tmp", "rename to epoch", "fsync folder"],
    ),
    "masked output": (
        keep_output,
        ["fsync .masked-*", "rename to masked-*", "fsync folder"],
    ),
    "key-encryption key": (
        lambda folder: create_file(folder / "kek", bytes(32), 0o600),
        ["fsync kek", "fsync folder"],
    ),
    "CURVE keys": (
        write_keys,
        ["fsync curve.secret", "fsync folder", "fsync curve.public", "fsync folder"],
    ),
}


@pytest.mark.parametrize("what", WRITERS)
def test_whoever_keeps_something_syncs_it_and_its_folder(tmp_path: Path, steps: list[str], what: str) -> None:
    folder = tmp_path / "parent" / "folder"
    folder.mkdir(parents=True)
    write, expected = WRITERS[what]
    write(folder)
    assert len(steps) == len(expected)
    assert all(fnmatch(step, pattern) for step, pattern in zip(steps, expected, strict=True)), steps


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    width: int


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"format": 1, "bits": 3}', "it has format 1, this version reads 2"),
        (b'{"format": 2, "bits": 3}', "unknown field `bits`"),
        (b'{"bits": 3}', "it has format 1, this version reads 2"),
        (b'{"format": 2, "width": ' + b"[" * 10_000, "nested too deeply|malformed|Expected"),
    ],
)
def test_a_kept_file_of_another_format_is_told_by_its_number(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_kept(path, Kept, 2)
    path.write_bytes(b'{"format": 2, "width": 3}')
    assert read_kept(path, Kept, 2) == Kept(2, 3)
