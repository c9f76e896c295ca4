"""A full disk is told with its place, whatever failed there; so are folders that cannot be used."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.cli.errors import explain
from lab.runs import full_disk
from lab.runs.full_disk import full_places
from lab.runs.supervising.private_folder import private_folder
from lab.runs.supervising.supervisor import Child
from orchestrator.durable import is_full
from orchestrator.events.process import Failed

Rooms = Callable[[dict[Path, int]], None]


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> Rooms:
    """Each folder named is a disk of 64 MiB with so many bytes free; everything else has plenty of room."""

    def give(free: dict[Path, int]) -> None:
        def statvfs(path: object) -> SimpleNamespace:
            inside = [room for folder, room in free.items() if Path(str(path)).is_relative_to(folder)]
            return SimpleNamespace(
                f_frsize=1,
                f_bavail=inside[0] if inside else 1 << 40,
                f_blocks=1 << 26 if inside else 1 << 41,
                f_files=0,
                f_favail=0,
            )

        real = Path.stat

        def stat(path: Path, **options: bool) -> object:
            number = next((n for n, folder in enumerate(free) if path.is_relative_to(folder)), -1)
            return SimpleNamespace(st_dev=number, st_mode=real(path, **options).st_mode)

        monkeypatch.setattr(full_disk.os, "statvfs", statvfs)
        monkeypatch.setattr(Path, "stat", stat)

    return give


def nameless() -> OSError:
    """What writing to an open file raises."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def wrapped() -> Exception:
    """A library's own error about the same."""
    try:
        try:
            raise nameless()
        except OSError as error:
            raise RuntimeError("the archive could not be written") from error
    except RuntimeError as error:
        return error


def database() -> sqlite3.Error:
    """What SQLite says on a full disk."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


@pytest.mark.parametrize("make", [nameless, wrapped, database])
def test_an_error_without_a_place_gets_one(
    make: Callable[[], Exception], rooms: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(sys, "argv", ["qunetlab", "demo"])
    rooms({tmp_path / "temporary": 4096})
    code, text = explain(make())
    assert code == 1
    assert text.startswith("error: ")
    assert "Traceback" not in text
    where = f"{tmp_path / 'temporary'} (TMPDIR) has 4.0 KiB of 64.0 MiB free"
    assert f"{where}; make room there, or set TMPDIR to another folder" in text


def test_the_folder_on_the_command_line_is_named_and_the_fullest_comes_first(
    rooms: Rooms, tmp_path: Path
) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    for folder in (out, data):
        folder.mkdir()
    rooms({out: 0, data: 1 << 20})
    found = full_places(["train", "digits", f"--out={out / 'not' / 'yet'}"], {"QUNETLAB_DATA": str(data)})
    assert [(place.folder, place.free_bytes) for place in found] == [(out, 0), (data, 1 << 20)]
    assert "(named on the command line) has 0 bytes of 64.0 MiB free" in found[0].text()


def test_if_none_is_full_the_one_with_the_least_room_is_named(rooms: Rooms, tmp_path: Path) -> None:
    rooms({tmp_path: 1 << 25})
    (place,) = full_places([str(tmp_path)], {})
    assert (place.folder, place.free_bytes) == (tmp_path, 1 << 25)


def test_other_errors_are_left_as_they_are() -> None:
    assert not is_full(OSError(errno.EACCES, "Permission denied", "/x"))
    assert not is_full(None)
    assert explain(OSError(errno.EADDRINUSE, "Address already in use")) == (
        1,
        "error: Address already in use",
    )


def test_a_temporary_folder_that_is_not_there_is_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets would lie where nobody put them."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError) as caught, private_folder():
        pass
    assert explain(caught.value)[1].startswith(f"error: {tmp_path / 'gone'}/qunetlab-")


def test_a_log_that_could_not_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "fl-server.log"
    log.touch()
    child = Child("fl-server", SimpleNamespace(), log, ())  # type: ignore[arg-type]
    assert not child.failure().disk_full
    monkeypatch.setattr(
        "lab.runs.supervising.supervisor.shutil.disk_usage", lambda path: SimpleNamespace(free=0)
    )
    assert child.failure() == Failed(f"{log} is empty: No space left on device", disk_full=True)
    log.write_text("error: something\n")
    assert child.failure() == Failed("its log ends:\nerror: something")
    child.failed = Failed("error: its own word")
    assert child.failure() == child.failed


def test_a_current_folder_that_was_removed_is_told(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = "import os, sys; os.rmdir(os.getcwd()); from lab.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "data", "list"],
        cwd=tmp_path / "gone",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "error: the current folder was removed; change to one that exists and try again\n",
    )
