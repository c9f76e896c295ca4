"""Kernels are compiled wherever they stand: cached where this process may write, uncached where it may not."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from numba.core import caching, config

from orchestrator import kernels

SOURCE = """
from orchestrator.kernels import kernel

@kernel
def inner(x):
    return 2 * x

@kernel
def double(x):
    return inner(x) + 1
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings as at the start of a process, given back afterwards."""
    for name in (kernels.FOLDER_SETTING, kernels.TOLD_SETTING, "CACHE_DIRECTORY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setattr(kernels, "_offered", [])


@pytest.fixture
def only_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Make every folder read-only but the ones named, as numba and this process see it."""

    def allow(*folders: Path) -> None:
        def refuse(place: object) -> None:
            if not any(Path(str(place)).is_relative_to(folder) for folder in folders):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(place))

        real_file, real_make, real_mkdir = tempfile.TemporaryFile, os.makedirs, Path.mkdir

        def temporary(*arguments: Any, dir: Any = None, **options: Any) -> Any:
            refuse(dir)
            return real_file(*arguments, dir=dir, **options)

        def makedirs(path: Any, *arguments: Any, **options: Any) -> None:
            if not os.path.isdir(path):
                refuse(path)
            real_make(path, *arguments, **options)

        def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
            if not path.is_dir():
                refuse(path)
            real_mkdir(path, *arguments, **options)

        monkeypatch.setattr(caching.tempfile, "TemporaryFile", temporary)
        monkeypatch.setattr(caching.os, "makedirs", makedirs)
        monkeypatch.setattr(Path, "mkdir", mkdir)

    return allow


@pytest.fixture
def load(tmp_path: Path) -> Callable[[], ModuleType]:
    """Loads the same little module with kernels, anew at every call."""
    path = tmp_path / "installed" / "some_kernels.py"
    path.parent.mkdir()
    path.write_text(SOURCE)

    def fresh() -> ModuleType:
        spec = importlib.util.spec_from_file_location("some_kernels", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return fresh


def files(folder: Path) -> list[str]:
    return sorted(path.name.split(".")[0] for path in folder.rglob("*.nbi"))


def hits(module: ModuleType) -> int:
    return sum(module.double.stats.cache_hits.values())


def test_beside_the_source_where_that_can_be_written(load: Callable[[], ModuleType], tmp_path: Path) -> None:
    assert load().double(20) == 41
    assert files(tmp_path / "installed") == ["some_kernels", "some_kernels"]
    again = load()
    assert (again.double(20), hits(again)) == (41, 1)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_what_was_compiled_at_installation_is_read_where_it_cannot_be_written(
    load: Callable[[], ModuleType],
    only_writable: Callable[..., None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    elsewhere: bool,
) -> None:
    load().double(20)
    state = tmp_path / "state"
    state.mkdir()
    only_writable(*([state] if elsewhere else []))
    kernels.offer_folder(state / "kernels")
    module = load()
    with caplog.at_level(logging.WARNING):
        assert (module.double(20), hits(module), files(state)) == (41, 1, [])
        assert caplog.records == []
        assert module.double(1.5) == 4.0  # another type: compiled here
    assert len(files(state)) == (2 if elsewhere else 0)


def test_in_the_state_folder_of_a_role_where_source_and_home_are_read_only(
    load: Callable[[], ModuleType], only_writable: Callable[..., None], tmp_path: Path
) -> None:
    module = load()  # a role's modules are imported before its state folder is known
    state = tmp_path / "state"
    state.mkdir()
    only_writable(state)
    kernels.offer_folder(state / "kernels")
    assert module.double(20) == 41
    assert len(files(state / "kernels")) == 2
    assert (state / "kernels").stat().st_mode & 0o777 == 0o700
    assert os.environ[kernels.FOLDER_SETTING] == str(state / "kernels")  # for child processes
    again = load()
    assert (again.double(20), hits(again)) == (41, 1)


@pytest.mark.parametrize("setting", ["CACHE_DIRECTORY", "TMPDIR"])
def test_in_the_folders_that_the_surroundings_name(
    load: Callable[[], ModuleType],
    only_writable: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    setting: str,
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    only_writable(place)
    monkeypatch.setenv(setting, str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place) if setting == "TMPDIR" else str(tmp_path / "none"))
    assert load().double(20) == 41
    assert len(files(place)) == 2


def test_without_any_place_they_are_compiled_and_it_is_said_once(
    load: Callable[[], ModuleType],
    only_writable: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    only_writable()
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with caplog.at_level(logging.WARNING):
        assert load().double(20) == 41
        assert load().double(1.5) == 4.0
    (record,) = [record for record in caplog.records if record.name == "orchestrator.kernels"]
    assert "compiled anew by every process" in record.getMessage()
    assert "set NUMBA_CACHE_DIR to a folder of your own" in record.getMessage()


def test_a_folder_that_others_can_write_is_not_trusted(
    load: Callable[[], ModuleType],
    only_writable: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    place = tmp_path / "shared"
    planted = place / f"numba-qunetlab-{os.getuid()}"
    planted.mkdir(parents=True)
    planted.chmod(0o777)
    (tmp_path / "elsewhere").mkdir()
    only_writable(place)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    assert load().double(20) == 41
    assert files(place) == []
    planted.rmdir()
    planted.symlink_to(tmp_path / "elsewhere")
    assert load().double(20) == 41
    assert files(tmp_path / "elsewhere") == []


def test_a_full_cache_costs_only_time(
    load: Callable[[], ModuleType], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    with caplog.at_level(logging.WARNING):
        assert load().double(20) == 41
    (record,) = [record for record in caplog.records if record.name == "orchestrator.kernels"]
    assert "installed/__pycache__: No space left on device" in record.getMessage()


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_damaged_cache_is_made_anew(load: Callable[[], ModuleType], tmp_path: Path, ending: str) -> None:
    assert load().double(20) == 41
    for path in (tmp_path / "installed").rglob(f"*{ending}"):
        path.write_bytes(path.read_bytes()[:40])
    assert load().double(20) == 41
    again = load()
    assert (again.double(20), hits(again)) == (41, 1)


def test_two_that_write_at_once_keep_the_code_of_both(
    load: Callable[[], ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each would find an empty index and call its code the first, were they not kept apart."""
    compiled = load().double
    assert (compiled(20), compiled(1.5)) == (41, 4.0)
    for path in (tmp_path / "installed").rglob("*.nb?"):
        path.unlink()
    both, save_index = threading.Barrier(2), caching.IndexDataCacheFile._save_index

    def slowly(file: Any, overloads: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        save_index(file, overloads)

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_index", slowly)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compiled._cache.save_overload, *zip(*compiled.overloads.items(), strict=True)))
    again = load()
    assert (again.double(20), again.double(1.5), hits(again)) == (41, 4.0, 2)
