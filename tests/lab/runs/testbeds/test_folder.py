"""`init` makes a testbed folder whole or not at all, whatever interrupts it; what was private is erased."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.runs.supervising import private_folder as private_folder_module
from lab.runs.supervising.private_folder import private_folder, remove_abandoned
from lab.runs.testbeds.folder import FolderError, create_folder, template_path
from lab.testbed import load_testbed
from orchestrator import durable
from orchestrator.durable import SPENT, destroy_file, destroy_folder, destroy_spent
from orchestrator.keystore.pair_secret import PairSecret
from orchestrator.wire.curve import load_keys

SOURCE = "simulated-reference"


class KilledError(BaseException):
    """The process ends here."""


def patched_os(patch: pytest.MonkeyPatch, **fakes: object) -> None:
    patch.setattr(durable, "os", SimpleNamespace(**{**vars(os), **fakes}))


def check_whole(folder: Path) -> None:
    """Everything that belongs to a testbed folder is there and fits together, and nothing else."""
    testbed = load_testbed(folder / "testbed.toml")
    for role in testbed.roles():
        assert load_keys(folder / "secrets" / role).public == testbed.public_key(role)
    for first, second in testbed.pairs():
        ends = [
            PairSecret.read(folder / "secrets" / a / "initial" / f"{b}.secret")
            for a, b in ((first, second), (second, first))
        ]
        assert ends[0].auth_ab.same_as(ends[1].auth_ab)
    assert sorted(path.name for path in folder.iterdir()) == ["secrets", "testbed.toml"]


def test_an_init_that_was_killed_at_a_rename_or_removal_is_settled_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the folder before each rename and removal are what a kill leaves."""
    bench, images = tmp_path / "bench", []

    def keep() -> None:
        images.append(tmp_path / f"image{len(images)}")
        shutil.copytree(bench, images[-1])

    def step(name: str) -> object:
        def act(*arguments: object) -> object:
            keep()
            return getattr(os, name)(*arguments)

        return act

    with monkeypatch.context() as patch:
        patched_os(patch, replace=step("replace"), unlink=step("unlink"), rmdir=step("rmdir"))
        create_folder(bench, template_path(SOURCE))
    check_whole(bench)
    assert len(images) >= 4
    for image in images:
        if (image / "testbed.toml").exists() or (image / "secrets").exists():
            with pytest.raises(FolderError, match="already holds a testbed"):
                create_folder(image, template_path(SOURCE))
        else:
            create_folder(image, template_path(SOURCE))
        check_whole(image)


def test_an_init_on_a_full_disk_names_the_place_and_leaves_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, calls = tmp_path / "bench", []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 60:
            raise OSError(28, "No space left on device")
        os.fsync(descriptor)

    with monkeypatch.context() as patch:
        patched_os(patch, fsync=full)
        with pytest.raises(OSError, match=f"No space left on device: '{bench}"):
            create_folder(bench, template_path(SOURCE))
    assert list(bench.iterdir()) == []
    create_folder(bench, template_path(SOURCE))
    check_whole(bench)


def test_a_secret_is_overwritten_before_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents: list[bytes] = []

    def unlink(path: Path) -> None:
        contents.append(Path(path).read_bytes())
        os.unlink(path)

    patched_os(monkeypatch, unlink=unlink)
    (tmp_path / "a.secret").write_bytes(b"s" * 100)
    destroy_file(tmp_path / "a.secret")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "b").write_bytes(b"s" * 50)
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "kept").write_bytes(b"kept")
    destroy_folder(tmp_path / "folder")
    assert contents[0] == bytes(100)
    assert bytes(50) in contents
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"kept"


def test_a_half_destroyed_secret_has_another_name_and_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.secret"
    for name in ("fsync", "unlink"):
        path.write_bytes(b"s" * 100)

        def killed(*_: object) -> None:
            raise KilledError

        with monkeypatch.context() as patch:
            patched_os(patch, **{name: killed})
            with pytest.raises(KilledError):
                destroy_file(path)
        assert [left.name for left in tmp_path.iterdir()] == [f"a.secret{SPENT}"]
        destroy_spent(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_a_private_folder_that_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(private_folder_module.shutil, "rmtree", refuse)
        with private_folder() as (folder, _):
            (folder / "bench" / "secrets" / "alice").mkdir(parents=True)
            (folder / "bench" / "secrets" / "alice" / "store.key").write_bytes(b"k" * 32)
        assert "remove it by hand" in caplog.text
        assert not (folder / "bench" / "secrets").exists()
        assert remove_abandoned(tmp_path) == []
    assert remove_abandoned(tmp_path) == [folder]


KILLED = """
import os, signal, sys
from lab.runs.supervising.private_folder import private_folder

with private_folder() as (folder, _):
    (folder / "bench" / "secrets").mkdir(parents=True)
    (folder / "bench" / "secrets" / "store.key").write_bytes(b"k" * 32)
    print(folder, flush=True)
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
"""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGABRT"])
def test_the_folder_of_a_killed_run_is_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    killed = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, name], capture_output=True, text=True, timeout=60, check=False
    )
    # The sweeper inherits standard error, so the call returned only when it had ended as well.
    assert killed.returncode == -getattr(signal, name)
    assert killed.stdout.startswith(f"{tmp_path}/qunetlab-")
    assert killed.stderr == ""
    assert list(tmp_path.iterdir()) == []


OUTLIVED = """
import os, signal, subprocess, sys
from lab.runs.supervising.private_folder import private_folder
from lab.runs.supervising.supervisor import Supervisor

start = subprocess.Popen
subprocess.Popen = lambda command, **more: start(
    [sys.executable, "-c", sys.argv[1], str(folder)] if "lab.cli.main" in command else command, **more
)
with private_folder() as (folder, lock):
    supervisor = Supervisor(folder, lock)
    supervisor.start("alice", "node", "alice")
    os.kill(os.getpid(), signal.SIGKILL)
"""

SLOW_ROLE = """
import os, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
os.read(int(os.environ["QUNETLAB_PARENT_FD"]), 1)
until_s = time.monotonic() + 1
while folder.exists() and time.monotonic() < until_s:
    time.sleep(0.01)
(folder / "state" / "alice").mkdir(parents=True)
"""


def test_a_role_that_ends_long_after_its_killed_run_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes its state folder, with what is missing above, when its run is gone already."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    killed = subprocess.run(
        [sys.executable, "-P", "-c", OUTLIVED, SLOW_ROLE], capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert killed.stderr == b""
    assert list(tmp_path.iterdir()) == []
